package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// WriteLayout writes the image for this machine's platform into the OCI image layout directory dir, made if need be,
// under the given tag (org.opencontainers.image.ref.name; "" gives none). Other images in the layout stay; one with the
// same tag loses it to this one. Every blob is verified, and index.json changes last and at once.
func WriteLayout(ctx context.Context, im *Image, dir, tag string) error {
	e, err := im.newExport(ctx)
	if err == nil {
		err = e.writeLayout(ctx, dir, tag)
	}
	if err != nil {
		return fmt.Errorf("writing OCI layout %s: %w", dir, err)
	}
	return nil
}

func (e export) writeLayout(ctx context.Context, dir, tag string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	index, err := prepareLayout(root)
	if err != nil {
		return err
	}
	for _, d := range e.blobs() {
		err := writeBlob(root, d, func(w io.Writer) error { return e.copyBlob(ctx, w, d) })
		if err != nil {
			return err
		}
	}
	err = writeBlob(root, e.target, func(w io.Writer) error {
		_, err := w.Write(e.raw)
		return err
	})
	if err != nil {
		return err
	}
	var annotations map[string]string
	if tag != "" {
		annotations = map[string]string{ocispec.AnnotationRefName: tag}
	}
	merged := e.index(annotations)
	for _, d := range index.Manifests {
		if n := d.Annotations[ocispec.AnnotationRefName]; n != tag || (n == "" && d.Digest != e.target.Digest) {
			merged.Manifests = append(merged.Manifests, d)
		}
	}
	return writeJSON(root, ocispec.ImageIndexFile, merged)
}

// prepareLayout returns the index there is. It refuses to turn a directory with other things in it into a layout.
func prepareLayout(root *os.Root) (ocispec.Index, error) {
	files := dirFiles{root}
	raw, err := readFile(files, ocispec.ImageIndexFile)
	if err == nil {
		return parseIndex(raw)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return ocispec.Index{}, err
	}
	d, err := root.Open(".")
	if err != nil {
		return ocispec.Index{}, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return ocispec.Index{}, err
	}
	for _, n := range names {
		// These two without an index are what an interrupted export leaves.
		if n != ocispec.ImageLayoutFile && n != ocispec.ImageBlobsDir {
			return ocispec.Index{}, fmt.Errorf("%w: the directory is neither empty nor an OCI layout", ErrInvalid)
		}
	}
	return ocispec.Index{}, writeJSON(root, ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// writeBlob writes a blob unless it is there, whole.
func writeBlob(root *os.Root, desc ocispec.Descriptor, write func(io.Writer) error) error {
	name := blobPath(desc)
	if b, err := (dirFiles{root}).open(name); err == nil {
		defer b.Close()
		hash := desc.Digest.Verifier()
		if _, err := io.Copy(hash, io.NewSectionReader(b, 0, b.size)); err != nil {
			return err
		}
		if hash.Verified() {
			return nil
		}
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return writeAtomic(root, name, write)
}

func writeJSON(root *os.Root, name string, v any) error {
	return writeAtomic(root, name, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// writeAtomic makes a file appear under its name only when it is whole and on disk.
func writeAtomic(root *os.Root, name string, write func(io.Writer) error) (err error) {
	tmp := name + ".tmp"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Remove(tmp))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return err
	}
	d, err := root.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
