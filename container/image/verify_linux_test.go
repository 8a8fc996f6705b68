package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Each lie must be noticed, and nothing of the layer may be left.
func TestUnpackRefuses(t *testing.T) {
	plain := func(t *testing.T) []byte { return tarOf(t, reg("f", strings.Repeat("data", 10_000))) }
	corrupt := func(t *testing.T, b *builder, change func(raw []byte) []byte) {
		b.write()
		path := filepath.Join(b.dir, blobPath(b.manifest.Layers[0]))
		raw, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, change(raw), 0o644))
	}
	flip := func(raw []byte) []byte { raw = bytes.Clone(raw); raw[len(raw)/2] ^= 1; return raw }
	for name, c := range map[string]struct {
		lie  func(t *testing.T, b *builder)
		opts Options
		want error
	}{
		"one bit in a gzip blob": {func(t *testing.T, b *builder) { corrupt(t, b, flip) }, Options{}, ErrVerification},
		"one bit in a plain blob": {func(t *testing.T, b *builder) {
			b.layer(ocispec.MediaTypeImageLayer, plain(t))
			b.manifest.Layers, b.config.RootFS.DiffIDs = b.manifest.Layers[1:], b.config.RootFS.DiffIDs[1:]
			corrupt(t, b, flip)
		}, Options{}, ErrVerification},
		"blob cut off":   {func(t *testing.T, b *builder) { corrupt(t, b, func(r []byte) []byte { return r[:len(r)-9] }) }, Options{}, ErrVerification},
		"blob with more": {func(t *testing.T, b *builder) { corrupt(t, b, func(r []byte) []byte { return append(r, 0) }) }, Options{}, ErrVerification},
		"blob is empty":  {func(t *testing.T, b *builder) { corrupt(t, b, func([]byte) []byte { return nil }) }, Options{}, ErrVerification},
		"blob missing": {func(t *testing.T, b *builder) {
			b.write()
			must(t, os.RemoveAll(b.dir+"/blobs/sha256/"+b.manifest.Layers[0].Digest.Encoded()))
		}, Options{}, ErrNotFound},
		"diffID of others":   {func(_ *testing.T, b *builder) { b.config.RootFS.DiffIDs[0] = digest.FromString("x") }, Options{}, ErrVerification},
		"size in manifest":   {func(_ *testing.T, b *builder) { b.manifest.Layers[0].Size++ }, Options{}, ErrVerification},
		"negative size":      {func(_ *testing.T, b *builder) { b.manifest.Layers[0].Size = -1 }, Options{}, ErrInvalid},
		"fewer diffIDs":      {func(_ *testing.T, b *builder) { b.config.RootFS.DiffIDs = nil }, Options{}, ErrInvalid},
		"unknown layer type": {func(_ *testing.T, b *builder) { b.manifest.Layers[0].MediaType += "+encrypted" }, Options{}, ErrUnsupported},
		"manifest of unknown": {func(_ *testing.T, b *builder) {
			b.manifest.MediaType = "application/vnd.docker.distribution.manifest.v1+json"
		}, Options{}, ErrUnsupported},
		"sha384": {func(_ *testing.T, b *builder) {
			b.manifest.Layers[0].Digest = digest.SHA384.FromString("x")
		}, Options{}, ErrUnsupported},
		"digest with a path":  {func(_ *testing.T, b *builder) { b.manifest.Layers[0].Digest = "sha256:../../../etc/passwd" }, Options{}, ErrInvalid},
		"diffID with a path":  {func(_ *testing.T, b *builder) { b.config.RootFS.DiffIDs[0] = "sha256:../x" }, Options{}, ErrInvalid},
		"501 layers":          {func(_ *testing.T, b *builder) { b.manifest.Layers = make([]ocispec.Descriptor, 501) }, Options{}, ErrLimit},
		"larger than allowed": {func(*testing.T, *builder) {}, Options{MaxBytes: 20_000}, ErrLimit},
		"more than allowed":   {func(t *testing.T, b *builder) { b.layers([]file{reg("1", ""), reg("2", "")}) }, Options{MaxEntries: 2}, ErrLimit},
		"not a tar": {func(t *testing.T, b *builder) {
			b.layer(ocispec.MediaTypeImageLayerGzip, []byte(strings.Repeat("nonsense", 200)))
		}, Options{}, ErrInvalid},
		"tar cut off": {func(t *testing.T, b *builder) { b.layer(ocispec.MediaTypeImageLayerGzip, plain(t)[:9000]) }, Options{}, ErrInvalid},
		"xz": {func(t *testing.T, b *builder) {
			b.layer(ocispec.MediaTypeImageLayer, append([]byte("\xfd7zXZ\x00"), make([]byte, 600)...))
		}, Options{}, ErrUnsupported},
		"sparse bomb": {func(t *testing.T, b *builder) {
			at := t.TempDir() + "/bomb"
			must(t, os.WriteFile(at, nil, 0o644))
			must(t, os.Truncate(at, 1<<40))
			b.layer(ocispec.MediaTypeImageLayer, run(t, "tar", "-C", filepath.Dir(at), "--sparse", "-cf", "-", "bomb"))
		}, Options{}, ErrLimit},
		"larger than the disk": {func(t *testing.T, b *builder) {
			at := t.TempDir() + "/bomb"
			must(t, os.WriteFile(at, nil, 0o644))
			must(t, os.Truncate(at, 1<<42))
			b.layer(ocispec.MediaTypeImageLayer, run(t, "tar", "-C", filepath.Dir(at), "--sparse", "-cf", "-", "bomb"))
		}, Options{MaxBytes: 1 << 50}, unix.ENOSPC},
	} {
		t.Run(name, func(t *testing.T) {
			b := build(t).layer(ocispec.MediaTypeImageLayerGzip, plain(t))
			c.lie(t, b)
			if _, err := os.Stat(b.dir + "/index.json"); err != nil {
				b.write()
			}
			s := store(t, t.TempDir())
			u, err := s.Unpack(t.Context(), open(t, b.dir, ""), c.opts)
			if !errors.Is(err, c.want) {
				t.Fatalf("Unpack = %v, %v; want error %v", u, err, c.want)
			}
			t.Log(err)
			for _, left := range names(t, s.Dir()) {
				// Other layers of the image may have been completed.
				if left != "lock" && !layerName().MatchString(left) {
					t.Errorf("after the error the store has %s; want nothing half-made", left)
				}
			}
			if errors.Is(c.want, ErrVerification) && len(names(t, s.Dir())) > 1 {
				t.Errorf("after the error the store has %q; want no layer", names(t, s.Dir()))
			}
		})
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

// A filesystem that fills up: the error says so, and all of its space is there again.
func TestUnpackNoSpace(t *testing.T) {
	for _, kind := range []string{"size=6m", "size=64m,nr_inodes=100"} {
		at := t.TempDir()
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, kind))
		defer func() { must(t, unix.Unmount(at, 0)) }()
		var files []file
		for i := range 200 {
			files = append(files, reg("f"+strings.Repeat("x", i), strings.Repeat("data", 5_000)))
		}
		b := build(t).layers(files[:5], files)
		s := store(t, at)
		// The free space at the start is checked as well; this is about what the kernel says in the middle.
		var before, after unix.Statfs_t
		must(t, unix.Statfs(at, &before))
		if strings.HasPrefix(kind, "size=6m") {
			must(t, os.WriteFile(at+"/filler", nil, 0o600))
			files := 0
			_, err := s.Unpack(t.Context(), b.image(), Options{Progress: func(Progress) {
				if files == 0 {
					files++
					must(t, os.WriteFile(at+"/filler", make([]byte, 4<<20), 0o600))
				}
			}})
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("Unpack onto a tmpfs of %s = %v; want ENOSPC", kind, err)
			}
			must(t, os.Remove(at+"/filler"))
		} else if _, err := s.Unpack(t.Context(), b.image(), Options{}); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("Unpack onto a tmpfs of %s = %v; want ENOSPC", kind, err)
		}
		removed, err := s.Prune(nil)
		must(t, err)
		must(t, unix.Statfs(at, &after))
		if left := names(t, at); len(left) != 1 || before.Bfree != after.Bfree {
			t.Errorf("after ENOSPC and Prune (%d layers) %q are left and %d blocks of %d free; want only the lock", len(removed), left, after.Bfree, before.Bfree)
		}
	}
}
