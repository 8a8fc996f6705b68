package kit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifact captures a file or an image.
func (b *builder) artifact(ctx context.Context, t TreeArtifact) (Artifact, error) {
	if (t.File == "") == (t.Image == "") {
		return Artifact{}, fmt.Errorf("%w: want either file or image", ErrInvalid)
	}
	a := Artifact{Name: t.Name, Needs: t.Needs, CapturedAt: t.CapturedAt}
	b.read = 0
	capture := b.image
	if t.File != "" {
		capture = b.file
	}
	if err := capture(ctx, &a, t); err != nil {
		return Artifact{}, err
	}
	if a.CapturedAt.IsZero() {
		a.CapturedAt = b.options.SignedAt
	}
	a.CapturedAt = a.CapturedAt.UTC().Truncate(time.Second)
	a.Digest, a.MediaType = a.Blobs[0].Digest, a.Blobs[0].MediaType
	for _, blob := range a.Blobs {
		a.Size += blob.Size
	}
	return a, nil
}

func (b *builder) file(ctx context.Context, a *Artifact, t TreeArtifact) (err error) {
	path := t.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.tree.Dir, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 {
		return fmt.Errorf("%w: %s is empty or not a regular file", ErrInvalid, path)
	}
	if a.CapturedAt.IsZero() {
		a.CapturedAt = st.ModTime()
	}
	a.Kind = File
	// Hashing is much faster than compressing: look first whether the content is in the kit already.
	var sum digest.Digest
	if len(b.known) > 0 {
		if sum, err = sha256Of(ctx, f); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return b.add(ctx, a, cmp.Or(t.MediaType, "application/octet-stream"), sum, f)
}

func (b *builder) image(ctx context.Context, a *Artifact, t TreeArtifact) (err error) {
	im, err := b.options.OpenImage(ctx, t.Image)
	if err != nil {
		return err
	}
	if im.Close != nil {
		defer func() { err = errors.Join(err, im.Close()) }()
	}
	var config ocispec.Image
	if err := json.Unmarshal(im.Config, &config); err != nil {
		return fmt.Errorf("%w: image configuration: %w", ErrInvalid, err)
	}
	var ids []digest.Digest
	for _, l := range im.Layers {
		ids = append(ids, l.DiffID)
	}
	if !slices.Equal(ids, config.RootFS.DiffIDs) {
		return fmt.Errorf("%w: image configuration names other layers than the image has", ErrVerification)
	}
	a.Kind, a.Platform = Image, im.Platform
	if a.CapturedAt.IsZero() {
		a.CapturedAt = im.CapturedAt
	}
	// The manifest comes first, and can be written only when the sizes of the layers are known.
	var layers Artifact
	sizes := map[digest.Digest]int64{}
	for _, l := range im.Layers {
		if sizes[l.DiffID] > 0 {
			continue
		}
		if err := b.layer(ctx, a.Name, &layers, l); err != nil {
			return fmt.Errorf("layer %s: %w", l.DiffID, err)
		}
		sizes[l.DiffID] = layers.Blobs[len(layers.Blobs)-1].Size
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(im.Config), Size: int64(len(im.Config))},
		Layers: []ocispec.Descriptor{},
	}
	for _, d := range ids {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: sizes[d]})
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := b.add(ctx, a, m.MediaType, digest.FromBytes(manifest), bytes.NewReader(manifest)); err != nil {
		return err
	}
	if err := b.add(ctx, a, m.Config.MediaType, m.Config.Digest, bytes.NewReader(im.Config)); err != nil {
		return err
	}
	a.Blobs = append(a.Blobs, layers.Blobs...)
	return nil
}

// layer captures a layer, and opens it only if the kit does not have it.
func (b *builder) layer(ctx context.Context, artifact string, a *Artifact, l LayerSource) (err error) {
	a.Name = artifact
	if _, ok := b.known[l.DiffID]; ok {
		return b.add(ctx, a, ocispec.MediaTypeImageLayer, l.DiffID, nil)
	}
	r, err := l.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := b.add(ctx, a, ocispec.MediaTypeImageLayer, l.DiffID, r); err != nil {
		return err
	}
	if got := a.Blobs[len(a.Blobs)-1].Digest; got != l.DiffID {
		return fmt.Errorf("%w: its tar has the digest %s", ErrVerification, got)
	}
	return nil
}

// add captures content as the next blob of an artifact. It is not read if a blob with the digest is known.
func (b *builder) add(ctx context.Context, a *Artifact, mediaType string, d digest.Digest, content io.Reader) error {
	blob, ok := b.known[d]
	if !ok {
		var err error
		blob, err = b.options.Split(ctx, &counting{b, content, a.Name}, func(frame digest.Digest, raw []byte) error {
			wrote, err := b.layout.Put(frame, raw)
			if wrote {
				b.written++
			}
			return err
		})
		if err != nil {
			return err
		}
		b.known[blob.Digest] = blob
	}
	blob.MediaType = mediaType
	a.Blobs = append(a.Blobs, blob)
	return nil
}

// counting tells of the content that was read.
type counting struct {
	b        *builder
	r        io.Reader
	artifact string
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.b.read += int64(n)
	if c.b.options.Progress != nil {
		c.b.options.Progress(c.artifact, c.b.read)
	}
	return n, err
}

// sha256Of reads content to its end, or to that of ctx.
func sha256Of(ctx context.Context, r io.Reader) (digest.Digest, error) {
	sum := digest.SHA256.Digester()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		sum.Hash().Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return sum.Digest(), nil
		}
		if err != nil {
			return "", err
		}
	}
}
