package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layout is an OCI image layout directory with kits in it. It is used by one goroutine, but for Open, Put and
// Missing. Nothing in it is followed to another place: a symbolic link is an error.
type Layout struct {
	root *os.Root
	dir  string
}

// Signed is a kit that nobody has looked into yet: the exact bytes of its document, and what is said to be
// signatures of them.
type Signed struct {
	Document   []byte
	Signatures [][]byte
}

// Digest is that of the document.
func (s Signed) Digest() digest.Digest { return digest.FromBytes(s.Document) }

const blobsDir = ocispec.ImageBlobsDir + "/sha256"

// OpenLayout opens a layout directory. Close it after use. A directory that is no layout is ErrInvalid.
func OpenLayout(dir string) (*Layout, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening kit: %w", err)
	}
	l := &Layout{root: root, dir: dir}
	if err := l.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening kit %s: %w", dir, err), root.Close())
	}
	return l, nil
}

// Close lets go of the directory.
func (l *Layout) Close() error { return l.root.Close() }

// Dir is the directory as it was given to OpenLayout.
func (l *Layout) Dir() string { return l.dir }

func (l *Layout) checkVersion() error {
	for _, d := range []string{ocispec.ImageBlobsDir, blobsDir} {
		st, err := l.root.Lstat(d)
		if err != nil {
			return fmt.Errorf("%w: no OCI layout: %w", ErrInvalid, err)
		}
		if !st.IsDir() {
			return fmt.Errorf("%w: %s is not a directory", ErrInvalid, d)
		}
	}
	raw, err := l.readFile(ocispec.ImageLayoutFile, 4096)
	if err != nil {
		return fmt.Errorf("%w: no OCI layout: %w", ErrInvalid, err)
	}
	var v ocispec.ImageLayout
	if err := json.Unmarshal(raw, &v); err != nil || v.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: layout version %.20q, want %s", ErrInvalid, v.Version, ocispec.ImageLayoutVersion)
	}
	return nil
}

// Names lists the kits in the layout. A kit without a name, as skopeo leaves one that was copied without a tag,
// is "".
func (l *Layout) Names() ([]string, error) {
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations[ocispec.AnnotationRefName])
	}
	return names, nil
}

// Manifest reads the manifest of a kit, as it is and parsed; "" stands for the only kit in the layout. It is a
// hint, like the index that leads to it; its digest is checked. Its layers are what belongs to the kit, and what
// a registry needs to have.
//
// Errors: ErrNotFound, ErrInvalid, ErrVerification.
func (l *Layout) Manifest(name string) ([]byte, ocispec.Manifest, error) {
	var m ocispec.Manifest
	index, err := l.index()
	if err != nil {
		return nil, m, err
	}
	desc, err := pick(index, name)
	if err != nil {
		return nil, m, fmt.Errorf("kit %s: %w", l.dir, err)
	}
	raw, err := l.readBlob(desc.Digest, maxManifest)
	if err != nil {
		return nil, m, fmt.Errorf("reading manifest: %w", err)
	}
	if m, err = ParseManifest(raw); err != nil {
		return nil, m, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	return raw, m, nil
}

// ParseManifest reads the manifest of a kit, from a layout or a registry. Its first layer is the document and is
// not larger than MaxDocument; signatures are few and small; every digest is a sha256.
func ParseManifest(raw []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if len(raw) > maxManifest {
		return m, fmt.Errorf("%w: larger than %d bytes", ErrInvalid, maxManifest)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest || len(m.Layers) == 0 || m.Layers[0].MediaType != MediaType {
		return m, fmt.Errorf("%w: this is not the manifest of a kit", ErrInvalid)
	}
	signatures := 0
	for i, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := checkDigest(d.Digest); err != nil {
			return m, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		limit := int64(MaxFrame)
		switch {
		case i == 1:
			limit = MaxDocument
		case d.MediaType == MediaTypeSignature:
			limit = maxSignature
			signatures++
		}
		if d.Size < 0 || d.Size > limit || signatures > maxSigners {
			return m, fmt.Errorf("%w: %s of %d bytes, at most %d; %d signatures, at most %d", ErrInvalid, d.Digest, d.Size, limit, signatures, maxSigners)
		}
	}
	return m, nil
}

func pick(index ocispec.Index, name string) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	var names []string
	for _, m := range index.Manifests {
		if n := m.Annotations[ocispec.AnnotationRefName]; name == "" || n == name {
			found = append(found, m)
		}
		names = append(names, fmt.Sprintf("%.100q", m.Annotations[ocispec.AnnotationRefName]))
	}
	switch {
	case len(found) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("%q: %w among [%s]", name, ErrNotFound, strings.Join(names, ", "))
	case len(found) > 1:
		return ocispec.Descriptor{}, fmt.Errorf("%w: several kits, name one of [%s]", ErrInvalid, strings.Join(names, ", "))
	}
	return found[0], nil
}

// Load reads a kit's document and signatures; "" stands for the only kit in the layout. Nothing of it is to be
// believed until Check has said so.
//
// Errors: ErrNotFound, ErrInvalid, ErrVerification where a blob does not have its digest.
func (l *Layout) Load(name string) (Signed, error) {
	_, m, err := l.Manifest(name)
	if err != nil {
		return Signed{}, err
	}
	var s Signed
	if s.Document, err = l.readBlob(m.Layers[0].Digest, MaxDocument); err != nil {
		return Signed{}, fmt.Errorf("reading kit document: %w", err)
	}
	for _, d := range m.Layers[1:] {
		if d.MediaType != MediaTypeSignature {
			continue
		}
		sig, err := l.readBlob(d.Digest, maxSignature)
		if err != nil {
			return Signed{}, fmt.Errorf("reading signature: %w", err)
		}
		s.Signatures = append(s.Signatures, sig)
	}
	return s, nil
}

func (l *Layout) index() (ocispec.Index, error) {
	var index ocispec.Index
	raw, err := l.readFile(ocispec.ImageIndexFile, maxManifest)
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return index, fmt.Errorf("reading %s: %w: %w", path.Join(l.dir, ocispec.ImageIndexFile), ErrInvalid, err)
	}
	if len(index.Manifests) > maxSigners {
		return index, fmt.Errorf("reading %s: %w: %d manifests, at most %d", l.dir, ErrInvalid, len(index.Manifests), maxSigners)
	}
	return index, nil
}

func blobPath(d digest.Digest) string { return blobsDir + "/" + d.Encoded() }

// readBlob reads a small blob and checks its digest.
func (l *Layout) readBlob(d digest.Digest, limit int64) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	raw, err := l.readFile(blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != d {
		return nil, fmt.Errorf("%w: blob %s has the digest %s", ErrVerification, d, got)
	}
	return raw, nil
}

func (l *Layout) readFile(name string, limit int64) ([]byte, error) {
	f, size, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > limit {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d", ErrInvalid, name, size, limit)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, f, size); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// open opens a regular file of the layout. os.Root keeps links inside of the directory; here they are not
// followed at all.
func (l *Layout) open(name string) (*os.File, int64, error) {
	before, err := l.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotFound, err)
	} else if err != nil {
		return nil, 0, err
	}
	if !before.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%w: %s is not a regular file", ErrInvalid, name)
	}
	f, err := l.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !os.SameFile(before, st) {
		err = fmt.Errorf("%w: %s changed while it was opened", ErrInvalid, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}
