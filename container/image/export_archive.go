package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteArchive writes the image for this machine's platform as a tar file that is a docker-archive (manifest.json) and
// an OCI layout (index.json) at once, as `docker save` has written it since Docker 25. The name is a reference such as
// "etcd:3.4"; "" gives none. Layers stay compressed as they are. Equal images give equal bytes. On an error what has been
// written is worthless.
func WriteArchive(ctx context.Context, im *Image, w io.Writer, name string) error {
	e, err := im.newExport(ctx)
	if err == nil {
		err = e.writeArchive(ctx, w, name)
	}
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	return nil
}

func (e export) writeArchive(ctx context.Context, w io.Writer, name string) error {
	tw := tar.NewWriter(w)
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, d := range e.blobs() {
		if err := writeFileHeader(tw, blobPath(d), d.Size); err != nil {
			return err
		}
		if err := e.copyBlob(ctx, tw, d); err != nil {
			return err
		}
	}
	if err := writeTarFile(tw, blobPath(e.target), e.raw); err != nil {
		return err
	}
	docker := dockerImage{Config: blobPath(e.manifest.Config), RepoTags: []string{}, Layers: []string{}}
	for _, l := range e.manifest.Layers {
		docker.Layers = append(docker.Layers, blobPath(l))
	}
	var annotations map[string]string
	if name != "" {
		docker.RepoTags = append(docker.RepoTags, name)
		annotations = map[string]string{imageNameAnnotation: name, ocispec.AnnotationRefName: name}
	}
	for _, f := range []struct {
		name string
		doc  any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, e.index(annotations)},
		{"manifest.json", []dockerImage{docker}},
	} {
		raw, err := json.Marshal(f.doc)
		if err != nil {
			return err
		}
		if err := writeTarFile(tw, f.name, raw); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeTarFile(tw *tar.Writer, name string, raw []byte) error {
	if err := writeFileHeader(tw, name, int64(len(raw))); err != nil {
		return err
	}
	_, err := tw.Write(raw)
	return err
}

func writeFileHeader(tw *tar.Writer, name string, size int64) error {
	return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o444})
}
