package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// export is what an image consists of when it leaves: one manifest in OCI form, its configuration and its layers.
type export struct {
	image    *Image
	target   ocispec.Descriptor
	raw      []byte // of the manifest
	manifest ocispec.Manifest
	config   ocispec.Image
}

// newExport keeps the manifest's exact bytes, and so its digest, unless it is Docker's: tools for OCI layouts do not take
// those media types. The blobs are the same in both.
func (im *Image) newExport(ctx context.Context) (export, error) {
	doc, m, config, err := im.resolve(ctx)
	if err != nil {
		return export{}, err
	}
	platform := config.Platform
	e := export{image: im, raw: doc.raw, manifest: m, config: config}
	e.target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: doc.desc.Digest, Size: doc.desc.Size}
	if platform.OS != "" && platform.Architecture != "" {
		e.target.Platform = &platform
	}
	if doc.desc.MediaType == ocispec.MediaTypeImageManifest {
		return e, nil
	}
	e.manifest.Versioned = specs.Versioned{SchemaVersion: 2}
	e.manifest.MediaType = ocispec.MediaTypeImageManifest
	e.manifest.Config.MediaType = ocispec.MediaTypeImageConfig
	for i := range e.manifest.Layers {
		e.manifest.Layers[i].MediaType, _ = ociLayer(m.Layers[i].MediaType)
	}
	if e.raw, err = json.Marshal(e.manifest); err != nil {
		return e, err
	}
	e.target.Digest, e.target.Size = digest.FromBytes(e.raw), int64(len(e.raw))
	return e, nil
}

// blobs are the configuration and the layers, each once.
func (e export) blobs() []ocispec.Descriptor {
	var once []ocispec.Descriptor
	seen := map[digest.Digest]bool{e.target.Digest: true}
	for _, d := range append([]ocispec.Descriptor{e.manifest.Config}, e.manifest.Layers...) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			once = append(once, d)
		}
	}
	return once
}

// copyBlob writes a blob and verifies it. On an error what has been written is worthless.
func (e export) copyBlob(ctx context.Context, w io.Writer, desc ocispec.Descriptor) error {
	ra, err := openBlob(ctx, e.image.Provider, desc)
	if err != nil {
		return err
	}
	defer ra.Close()
	hash := desc.Digest.Verifier()
	sr := io.NewSectionReader(ra, 0, desc.Size)
	n, err := io.Copy(io.MultiWriter(w, hash), readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return sr.Read(p)
	}))
	if err != nil {
		return fmt.Errorf("copying blob %s: %w", desc.Digest, err)
	}
	if n != desc.Size || !hash.Verified() {
		return fmt.Errorf("copying blob %s: %w: its bytes do not have its digest", desc.Digest, ErrVerification)
	}
	return nil
}

func (e export) index(annotations map[string]string) ocispec.Index {
	target := e.target
	target.Annotations = annotations
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{target},
	}
}
