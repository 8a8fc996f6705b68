package salvage

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// damagedStore puts meta.db into a store of its own, beside the snapshotter's
// database of the real one.
func damagedStore(t *testing.T, root string, meta []byte) Store {
	t.Helper()
	dir := t.TempDir()
	snapshots, err := os.ReadFile(filepath.Join(root, containerdSnapshotter+"overlayfs/metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{containerdMetadata: meta, containerdSnapshotter + "overlayfs/metadata.db": snapshots} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := openContainerd(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// readable lists a store and returns the specs of the containers found.
func readable(t *testing.T, store Store) (map[string]*specs.Spec, []Problem, error) {
	t.Helper()
	listing, err := store.List(context.Background())
	found := map[string]*specs.Spec{}
	for _, c := range listing.Containers {
		if spec, err := store.Spec(context.Background(), c); err == nil {
			found[c.Namespace+"/"+c.ID] = spec
		}
	}
	return found, listing.Problems, err
}

func checkDamaged(t *testing.T, d *containerdDaemon, plain, cri *specs.Spec) {
	good, err := os.ReadFile(filepath.Join(d.root, containerdMetadata))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]*specs.Spec{"default/" + d.prefix() + "plain": plain, "k8s.io/" + d.prefix() + "cri": cri}
	pageSize := os.Getpagesize()

	for name, ruin := range map[string]func(db []byte){
		"first meta page":  func(db []byte) { clear(db[:pageSize]) },
		"second meta page": func(db []byte) { clear(db[pageSize : 2*pageSize]) },
		"both meta pages":  func(db []byte) { clear(db[:2*pageSize]) },
	} {
		db := bytes.Clone(good)
		ruin(db)
		found, problems, err := readable(t, damagedStore(t, d.root, db))
		if err != nil || !reflect.DeepEqual(found, want) || len(problems) == 0 {
			t.Errorf("without the %s: found %d containers, %v, %v; want both with their specs and a problem", name, len(found), problems, err)
		}
	}

	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // garbage, the same each time
	for page := 2; page < len(good)/pageSize; page++ {
		db := bytes.Clone(good)
		for i := range pageSize {
			db[page*pageSize+i] = byte(rng.Uint32())
		}
		found, _, err := readable(t, damagedStore(t, d.root, db))
		if err != nil || len(found) == 0 {
			t.Errorf("with garbage in page %d: found %d containers, %v; want at least the other one", page, len(found), err)
		}
		for name, spec := range found {
			if !reflect.DeepEqual(spec, want[name]) {
				t.Errorf("with garbage in page %d: %s has another spec", page, name)
			}
		}
	}

	for size := 0; size < len(good); size += pageSize / 2 {
		found, problems, err := readable(t, damagedStore(t, d.root, good[:size]))
		if err == nil && len(found) < len(want) && len(problems) == 0 {
			t.Errorf("cut to %d bytes: found %d containers and no problem; want an error or a problem", size, len(found))
		}
		for name, spec := range found {
			if !reflect.DeepEqual(spec, want[name]) {
				t.Errorf("cut to %d bytes: %s has another spec", size, name)
			}
		}
	}
	if _, _, err := readable(t, damagedStore(t, d.root, nil)); err == nil {
		t.Error("List of a database of 0 bytes succeeds; want an error")
	}
}

func checkBlobs(t *testing.T, d *containerdDaemon) {
	ctx := context.Background()
	store, err := openContainerd(d.root)
	if err != nil {
		t.Fatal(err)
	}
	image, err := store.Image(ctx, "default", testImage)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, image.Provider, image.Target, platforms.Default())
	if err != nil {
		t.Fatal(err)
	}
	layer := manifest.Layers[0]
	whole, err := content.ReadBlob(ctx, image.Provider, layer)
	if err != nil || int64(len(whole)) != layer.Size {
		t.Fatalf("reading layer %s: %d bytes, %v; want %d", layer.Digest, len(whole), err, layer.Size)
	}
	path := filepath.Join(d.root, containerdContent, "blobs/sha256", layer.Digest.Encoded())

	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	for name, read := range map[string]func(r content.ReaderAt) error{
		"front to back": func(r content.ReaderAt) error { _, err := io.Copy(io.Discard, content.NewReader(r)); return err },
		"its end first": func(r content.ReaderAt) error { _, err := r.ReadAt(make([]byte, 1), r.Size()-1); return err },
	} {
		for file, data := range map[string][]byte{"right": whole, "flipped": flipped} {
			replace(t, path, data)
			reader, err := image.Provider.ReaderAt(ctx, layer)
			if err != nil {
				t.Fatal(err)
			}
			if err := read(reader); (err == nil) != (file == "right") {
				t.Errorf("reading the %s blob %s: %v", file, name, err)
			}
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for name, ruin := range map[string]func(){
		"missing":    func() { _ = os.Remove(path) },
		"zero bytes": func() { replace(t, path, nil) },
		"a link out": func() { _ = os.Remove(path); _ = os.Symlink("/etc/passwd", path) },
		"a pipe":     func() { _ = os.Remove(path); mkfifo(t, path) },
	} {
		ruin()
		if _, err := store.Image(ctx, "default", testImage); !errors.Is(err, ErrIncomplete) || !bytes.Contains([]byte(err.Error()), []byte(layer.Digest.Encoded())) {
			t.Errorf("Image with a layer that is %s = %v; want ErrIncomplete naming it", name, err)
		}
	}
	_ = os.Remove(path)
	replace(t, path, whole)
}

// replace puts new content at path under a new inode.
func replace(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mkfifo(t *testing.T, path string) {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}
