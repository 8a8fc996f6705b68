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
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageNameAnnotation is where containerd and Docker put an image's full name; the specification's own
// annotation often has only the tag.
const imageNameAnnotation = "io.containerd.image.name"

// OpenLayout opens an image in the OCI image layout directory dir. An empty tag stands for the only image in it that
// suits this machine. Nothing in the directory is followed to a place outside it. Close the image after use.
//
// Errors: ErrInvalid, ErrLimit, ErrNotFound, ErrAmbiguous; the last two list the names there are.
func OpenLayout(dir, tag string) (*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		return nil, fmt.Errorf("opening OCI layout: %w", err)
	}
	im, err := openLayout(dirFiles{root}, tag)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("opening OCI layout %s: %w", dir, err)
	}
	im.closer = root
	return im, nil
}

// files is where an OCI layout lies: a directory or a tar file.
type files interface {
	// open opens a regular file by its slash-separated path. A missing one is an fs.ErrNotExist.
	open(name string) (*blob, error)
}

func openLayout(f files, tag string) (*Image, error) {
	raw, err := readFile(f, ocispec.ImageLayoutFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no OCI layout, the file %s is missing", ErrInvalid, ocispec.ImageLayoutFile)
	} else if err != nil {
		return nil, err
	}
	var version ocispec.ImageLayout
	if err := unmarshal(raw, &version); err != nil {
		return nil, err
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%w: layout version %q, want %s", ErrUnsupported, version.Version, ocispec.ImageLayoutVersion)
	}
	raw, err = readFile(f, ocispec.ImageIndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the file %s is missing", ErrInvalid, ocispec.ImageIndexFile)
	} else if err != nil {
		return nil, err
	}
	index, err := parseIndex(raw)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", ocispec.ImageIndexFile, err)
	}
	desc, err := pickTag(index.Manifests, tag)
	if err != nil {
		return nil, err
	}
	return &Image{Name: nameOf(desc), Target: desc, Provider: layoutBlobs{f}}, nil
}

// pickTag finds the image called tag, or the only one that suits this machine.
func pickTag(all []ocispec.Descriptor, tag string) (ocispec.Descriptor, error) {
	var named []ocispec.Descriptor
	var names []string
	for _, d := range all {
		names = append(names, nameOf(d))
		if tag == "" || d.Annotations[ocispec.AnnotationRefName] == tag || d.Annotations[imageNameAnnotation] == tag {
			named = append(named, d)
		}
	}
	fit := slices.CompactFunc(forThisPlatform(named), func(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest })
	switch {
	case len(fit) == 1, len(fit) > 1 && tag != "":
		return fit[0], nil
	case len(named) == 1:
		// Its type or platform is what stands in the way, and Manifest says which of them.
		return named[0], nil
	case len(fit) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("image %q: %w among %s", tag, ErrNotFound, list(names))
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w of %s", ErrAmbiguous, list(names))
}

func nameOf(d ocispec.Descriptor) string {
	if n := d.Annotations[imageNameAnnotation]; n != "" {
		return n
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// list shows names from outside: quoted, and not too many.
func list(names []string) string {
	const most = 20
	var b strings.Builder
	for i, n := range names {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(names)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%.200q", n)
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}

// readFile reads a small JSON file of a layout.
func readFile(f files, name string) ([]byte, error) {
	b, err := f.open(name)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	defer b.Close()
	if b.size > maxDocument {
		return nil, fmt.Errorf("reading %s: %w: %d bytes, at most %d", name, ErrLimit, b.size, maxDocument)
	}
	raw := make([]byte, b.size)
	if _, err := io.ReadFull(io.NewSectionReader(b, 0, b.size), raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if !json.Valid(raw) {
		return nil, fmt.Errorf("reading %s: %w: not JSON", name, ErrInvalid)
	}
	return raw, nil
}

// layoutBlobs is the content.Provider of a layout.
type layoutBlobs struct{ files files }

func (l layoutBlobs) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	b, err := l.files.open(blobPath(desc))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

func blobPath(desc ocispec.Descriptor) string {
	return ocispec.ImageBlobsDir + "/" + desc.Digest.Algorithm().String() + "/" + desc.Digest.Encoded()
}

type dirFiles struct{ root *os.Root }

func (d dirFiles) open(name string) (*blob, error) {
	// O_NONBLOCK: a named pipe in the place of a file must not make an operator wait for ever.
	f, err := d.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is not a regular file", ErrInvalid, name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &blob{ReaderAt: f, size: st.Size(), closer: f}, nil
}
