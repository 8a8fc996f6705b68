package kit

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tempPrefix begins the name of a file that is being written. A crash leaves it; the next Build removes it.
const tempPrefix = ".tmp-"

// CreateLayout opens a layout directory, and makes an empty one of a directory that is absent or empty. A directory
// with other things in it is ErrInvalid.
func CreateLayout(dir string) (*Layout, error) {
	there, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("creating kit: %w", err)
	}
	own := []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile, ocispec.ImageBlobsDir}
	for _, e := range there {
		if !slices.Contains(own, e.Name()) {
			return nil, fmt.Errorf("creating kit %s: %w: the directory has other things in it, such as %.100q", dir, ErrInvalid, e.Name())
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, filepath.FromSlash(blobsDir)), 0o755); err != nil {
		return nil, fmt.Errorf("creating kit: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("creating kit: %w", err)
	}
	l := &Layout{root: root, dir: dir}
	for name, v := range map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile:  ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}},
	} {
		if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := l.writeJSON(name, v); err != nil {
				return nil, errors.Join(fmt.Errorf("creating kit: %w", err), root.Close())
			}
		}
	}
	if err := root.Close(); err != nil {
		return nil, err
	}
	return OpenLayout(dir)
}

// Put keeps the bytes of a frame. They are checked against the digest first; a right copy that is there already is
// left alone, a damaged one replaced. It reports whether it wrote.
func (l *Layout) Put(d digest.Digest, b []byte) (bool, error) {
	if err := checkDigest(d); err != nil {
		return false, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if got := digest.FromBytes(b); got != d {
		return false, fmt.Errorf("keeping %s: %w: its bytes have the digest %s", d, ErrVerification, got)
	}
	if old, err := l.readFile(blobPath(d), int64(len(b))); err == nil && bytes.Equal(old, b) {
		return false, nil
	}
	if err := l.write(blobPath(d), b); err != nil {
		return false, fmt.Errorf("keeping %s: %w", d, err)
	}
	return true, nil
}

// Store makes s the kit called name in the layout, in place of one with that name. Its document has to be one that
// Parse takes; the signatures are kept as they are. The frames that only the replaced kit needed are removed, so Put
// those that Missing names first: then there is no moment without a whole kit.
func (l *Layout) Store(name string, s Signed) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	d, err := Parse(s.Document, "")
	if err != nil {
		return err
	}
	if d.Name != name {
		return fmt.Errorf("storing kit %q: %w: its document says that it is %q", name, ErrInvalid, d.Name)
	}
	if err := l.store(d, s, name); err != nil {
		return err
	}
	return l.prune()
}

// store puts a kit into the place of the one that the index calls replaces, and of any with the kit's own name.
func (l *Layout) store(doc *Document, s Signed, replaces string) error {
	if len(s.Signatures) > maxSigners {
		return fmt.Errorf("storing kit %s: %w: %d signatures, at most %d", doc.Name, ErrInvalid, len(s.Signatures), maxSigners)
	}
	var descs []ocispec.Descriptor
	keep := func(mediaType string, b []byte) error {
		d := digest.FromBytes(b)
		if slices.ContainsFunc(descs, func(o ocispec.Descriptor) bool { return o.Digest == d }) {
			return nil
		}
		descs = append(descs, ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))})
		_, err := l.Put(d, b)
		return err
	}
	config := []byte(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)
	err := errors.Join(keep(ocispec.MediaTypeImageConfig, config), keep(MediaType, s.Document))
	signatures := slices.SortedFunc(slices.Values(s.Signatures), func(a, b []byte) int {
		return strings.Compare(string(digest.FromBytes(a)), string(digest.FromBytes(b)))
	})
	for _, sig := range signatures {
		err = errors.Join(err, keep(MediaTypeSignature, sig))
	}
	if err != nil {
		return fmt.Errorf("storing kit %s: %w", doc.Name, err)
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: descs[0], Layers: descs[1:],
	}
	for _, c := range Frames(doc.Artifacts...) {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: MediaTypeFrame, Digest: c.Digest, Size: c.Size})
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := ParseManifest(raw); err != nil {
		return fmt.Errorf("storing kit %s: %w", doc.Name, err)
	}
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Annotations: map[string]string{ocispec.AnnotationRefName: doc.Name},
	}
	if _, err := l.Put(desc.Digest, raw); err != nil {
		return fmt.Errorf("storing kit %s: %w", doc.Name, err)
	}
	index, err := l.index()
	if err != nil {
		return err
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
		n := m.Annotations[ocispec.AnnotationRefName]
		return n == doc.Name || n == replaces
	})
	index.Manifests = append(index.Manifests, desc)
	// What the index leads to must be on disk before the index leads to it.
	if err := l.syncDir(blobsDir); err != nil {
		return err
	}
	return l.writeJSON(ocispec.ImageIndexFile, index)
}

// Sign adds a signature to a kit of the layout; "" stands for the only one. One that is there already is not
// added again. Whether it is right is for Check to say.
func (l *Layout) Sign(name string, signature []byte) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := l.Load(name)
	if err != nil {
		return err
	}
	if name == "" {
		names, err := l.Names()
		if err != nil {
			return err
		}
		name = names[0]
	}
	doc, err := Parse(s.Document, "")
	if err != nil {
		return err
	}
	if _, err := parseSignature(signature, Namespace); err != nil {
		return err
	}
	s.Signatures = append(s.Signatures, signature)
	if err := l.store(doc, s, name); err != nil {
		return err
	}
	return l.prune()
}

// prune removes the blobs that no manifest of the index leads to, and what a crash left. Where something is in the
// layout that cannot be read as a kit, it leaves everything.
func (l *Layout) prune() error {
	index, err := l.index()
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, desc := range index.Manifests {
		var m ocispec.Manifest
		raw, err := l.readBlob(desc.Digest, maxManifest)
		if err == nil {
			m, err = ParseManifest(raw)
		}
		if err != nil {
			return nil
		}
		used[desc.Digest.Encoded()] = true
		used[m.Config.Digest.Encoded()] = true
		for _, d := range m.Layers {
			used[d.Digest.Encoded()] = true
		}
	}
	dir, err := l.root.Open(blobsDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	all, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range all {
		if !used[n] {
			err = errors.Join(err, l.root.Remove(blobsDir+"/"+n))
		}
	}
	return err
}

func (l *Layout) writeJSON(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return errors.Join(l.write(name, b), l.syncDir("."))
}

// write puts a file into the layout as a whole or not at all.
func (l *Layout) write(name string, b []byte) (err error) {
	temp := blobsDir + "/" + tempPrefix + rand.Text()
	f, err := l.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = l.root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, l.root.Remove(temp))
	}
	return nil
}

func (l *Layout) syncDir(name string) error {
	d, err := l.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
