package salvage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// checkDockerDamage breaks copies of the store. A file's name after "-" is taken
// away, after "=" replaced.
func checkDockerDamage(t *testing.T, d *dockerDaemon, said map[string]dockerSays) {
	ctx := context.Background()
	rel := func(dir string) string { return strings.TrimPrefix(dir, d.root+"/") }
	layers := strings.Split(said["shop"].GraphDriver.Data.LowerDir, ":")
	base := rel(layers[len(layers)-1])
	records := filepath.Join(dockerContainers, said["shop"].ID)
	top := rel(layers[1])
	own := filepath.Dir(rel(said["shop"].GraphDriver.Data.UpperDir))
	lower, err := os.ReadFile(filepath.Join(d.root, own, "lower"))
	if err != nil {
		t.Fatal(err)
	}
	reversed := strings.Split(string(lower), ":")
	slices.Reverse(reversed[1:]) // but the -init layer
	chain := identity.ChainIDs([]digest.Digest{digest.Digest(d.diffs[0]), digest.Digest(d.diffs[1])})
	hostile := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["../../../etc"]}}`)
	verify := func(words ...string) func(t *testing.T, store Store, _ Listing) {
		return func(t *testing.T, store Store, _ Listing) {
			t.Helper()
			err := store.(Verifier).VerifyRootfs(ctx, find(t, store, said["shop"].ID), nil)
			for _, word := range append(words, d.diffs[1]) {
				if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), word) {
					t.Errorf("VerifyRootfs() = %v; want %v and %q", err, ErrIncomplete, word)
				}
			}
		}
	}
	rootfs := func(t *testing.T, store Store, _ Listing) {
		t.Helper()
		got, err := store.Rootfs(ctx, find(t, store, said["shop"].ID))
		lowers := strings.Split(strings.ReplaceAll(said["shop"].GraphDriver.Data.LowerDir, d.root, store.Path()), ":")
		slices.Reverse(lowers)
		if err != nil || !slices.Equal(got.Layers, lowers) || got.Upper == "" {
			t.Errorf("Rootfs() = %+v, %v; want %v", got, err, lowers)
		}
	}
	for name, damage := range map[string]struct {
		file    string
		content []byte
		check   func(t *testing.T, store Store, listing Listing)
	}{
		"a link is gone":              {"-" + filepath.Join(top, "etc/link"), nil, verify("etc/link", "not exist")},
		"an empty file is gone":       {"-" + filepath.Join(top, "etc/empty"), nil, verify("etc/empty", "not exist")},
		"an empty directory is gone":  {"-" + filepath.Join(top, "srv"), nil, verify("srv", "not exist")},
		"a whiteout is gone":          {"-" + filepath.Join(top, "etc/gone"), nil, verify("etc/gone", "not exist")},
		"a whiteout is a file":        {"=" + filepath.Join(top, "etc/gone"), nil, verify("etc/gone")},
		"a file through a link":       {"-" + filepath.Join(top, "etc/through/file"), nil, verify("via/through/file", "not exist")},
		"a file too many":             {filepath.Join(top, "etc/rootkit"), []byte("x"), verify("etc/rootkit", "never had")},
		"a link leads elsewhere":      {"=" + filepath.Join(top, "etc/link"), []byte("->/etc/shadow"), verify("etc/link", "/etc/shadow")},
		"an empty file is not":        {filepath.Join(top, "etc/empty"), []byte("x"), verify("etc/empty")},
		"parent of the image is lost": {mountRecord(said["shop"].ID, "parent"), nil, rootfs},
		"parent of a layer is lost":   {layerRecord(chain[1], "parent"), nil, rootfs},
		"lower is lost":               {filepath.Join(own, "lower"), nil, rootfs},
		"init-id is lost":             {mountRecord(said["shop"].ID, "init-id"), nil, rootfs},
		"lower in another order": {filepath.Join(own, "lower"), []byte(strings.Join(reversed, ":")), func(t *testing.T, store Store, _ Listing) {
			if got, err := store.Rootfs(ctx, find(t, store, said["shop"].ID)); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "another order") {
				t.Errorf("Rootfs() = %+v, %v; want %v for the order", got, err, ErrIncomplete)
			}
		}},
		"lower leads out": {filepath.Join(own, "lower"), []byte("l/../../../../etc:../../etc"), rootfs},
		"tar-split record": {layerRecord(chain[1], "tar-split.json.gz"), nil, func(t *testing.T, store Store, _ Listing) {
			if image, err := store.Image(ctx, "", "sleeper:1"); !errors.Is(err, ErrIncomplete) {
				t.Errorf("Image() = %+v, %v; want %v", image, err, ErrIncomplete)
			}
		}},
		"ids of images are none": {dockerImages + "/repositories.json", []byte(`{"Repositories":{"a":{"a:1":"x","a:2":"sha256:../.."}}}`), func(t *testing.T, store Store, listing Listing) {
			if len(listing.Problems) != 2 || len(listing.Images) != 0 {
				t.Errorf("List() = %+v; want 2 problems, no image", listing)
			}
		}},
		"digests of layers are none": {imageRecord(digest.FromBytes(hostile)), hostile, func(t *testing.T, store Store, _ Listing) {
			if image, err := store.Image(ctx, "", digest.FromBytes(hostile).String()); !errors.Is(err, ErrIncomplete) {
				t.Errorf("Image() = %+v, %v; want %v", image, err, ErrIncomplete)
			}
		}},
		"zero bytes in a layer": {filepath.Join(base, "bin/busybox"), nil, func(t *testing.T, store Store, _ Listing) {
			c := find(t, store, said["shop"].ID)
			if err := store.(Verifier).VerifyRootfs(ctx, c, nil); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "bin/busybox") || !strings.Contains(err.Error(), d.diffs[0]) {
				t.Errorf("VerifyRootfs() = %v; want %v, layer %s and bin/busybox", err, ErrIncomplete, d.diffs[0])
			}
			image, err := store.Image(ctx, "", "sleeper:1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := image.Provider.ReaderAt(ctx, ocispec.Descriptor{Digest: digest.Digest(d.diffs[0])}); !errors.Is(err, ErrIncomplete) {
				t.Errorf("ReaderAt(damaged layer) = %v; want %v", err, ErrIncomplete)
			}
		}},
		"same size in a layer": {filepath.Join(base, "etc/base"), []byte("Base\n"), func(t *testing.T, store Store, _ Listing) {
			if err := store.(Verifier).VerifyRootfs(ctx, find(t, store, said["shop"].ID), nil); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "etc/base") {
				t.Errorf("VerifyRootfs() = %v; want %v and etc/base", err, ErrIncomplete)
			}
		}},
		"config.v2.json": {filepath.Join(records, "config.v2.json"), nil, func(t *testing.T, store Store, listing Listing) {
			if len(listing.Problems) != 1 || len(listing.Containers) != 4 {
				t.Errorf("List() = %+v; want 1 problem and the 4 other containers", listing)
			}
		}},
		"hostconfig.json": {filepath.Join(records, "hostconfig.json"), []byte(`{"Net`), func(t *testing.T, store Store, listing Listing) {
			if len(listing.Problems) != 1 || len(listing.Containers) != 5 {
				t.Errorf("List() = %+v; want 1 problem and all 5 containers", listing)
			}
			if _, err := store.Spec(ctx, find(t, store, said["shop"].ID)); !errors.Is(err, ErrIncomplete) {
				t.Errorf("Spec() = %v; want %v", err, ErrIncomplete)
			}
		}},
		"repositories.json": {dockerImages + "/repositories.json", nil, func(t *testing.T, store Store, listing Listing) {
			if len(listing.Problems) != 1 || len(listing.Containers) != 5 {
				t.Errorf("List() = %+v; want 1 problem and all 5 containers", listing)
			}
			if _, err := store.Image(ctx, "", said["shop"].Image); err != nil {
				t.Errorf("Image(id) = %v; want it by its id", err)
			}
		}},
		"cache-id is a path": {layerRecord(digest.Digest(d.diffs[0]), "cache-id"), []byte("../overlay2/" + filepath.Base(filepath.Dir(base))), func(t *testing.T, store Store, _ Listing) {
			if got, err := store.Rootfs(ctx, find(t, store, said["shop"].ID)); !errors.Is(err, ErrIncomplete) {
				t.Errorf("Rootfs() = %+v, %v; want %v", got, err, ErrIncomplete)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "docker")
			if out, err := exec.Command("cp", "-a", d.root, dir).CombinedOutput(); err != nil {
				t.Fatalf("cp: %v\n%s", err, out)
			}
			file, replace := strings.CutPrefix(damage.file, "=")
			file, remove := strings.CutPrefix(file, "-")
			file = filepath.Join(dir, file)
			if remove || replace {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			target, link := strings.CutPrefix(string(damage.content), "->")
			switch {
			case link:
				err = os.Symlink(target, file)
			case !remove:
				err = os.WriteFile(file, damage.content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			store, err := openDocker(dir)
			if err != nil {
				t.Fatal(err)
			}
			listing, err := store.List(ctx)
			if err != nil {
				t.Fatalf("List() = %v", err)
			}
			damage.check(t, store, listing)
		})
	}
}
