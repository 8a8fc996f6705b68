package salvage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"golang.org/x/sys/unix"
)

// checkStorageForeign makes copies of the store into what other ways to use it
// leave: their layers must not be taken for plain ones.
func checkStorageForeign(t *testing.T, p *podman) {
	ctx := context.Background()
	for name, test := range map[string]struct {
		change func(root string, rootfs Rootfs) error
		want   string // in the error; none if empty
	}{
		"composefs": {func(_ string, rootfs Rootfs) error {
			blob := filepath.Join(filepath.Dir(rootfs.Layers[0]), composefsBlob)
			return errors.Join(os.Mkdir(filepath.Dir(blob), 0o700), os.WriteFile(blob, []byte("erofs"), 0o600))
		}, "composefs"},
		"override_stat": {func(_ string, rootfs Rootfs) error {
			return unix.Setxattr(rootfs.Layers[1], overrideAttr, []byte("0:0:0755"), 0)
		}, overrideAttr},
		"fuse-overlayfs and no whiteout of its own": {func(root string, _ Rootfs) error {
			return os.WriteFile(filepath.Join(root, mountProgramFlag), []byte("true"), 0o600)
		}, ""},
		"fuse-overlayfs": {func(root string, rootfs Rootfs) error {
			return errors.Join(os.WriteFile(filepath.Join(root, mountProgramFlag), []byte("true"), 0o600), os.WriteFile(filepath.Join(rootfs.Upper, "etc/.wh.base"), nil, 0o600))
		}, "etc/.wh.base"},
		"rootless": {func(_ string, rootfs Rootfs) error {
			dir := filepath.Join(rootfs.Layers[1], "opt")
			return errors.Join(os.Chown(rootfs.Layers[1], 1000, 1000), unix.Setxattr(dir, userOpaqueAttr, []byte("y"), 0))
		}, userOpaqueAttr},
		"rootless and nothing hidden": {func(_ string, rootfs Rootfs) error { return os.Chown(rootfs.Layers[1], 1000, 1000) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := p.copied(t)
			store, c, _ := storageOf(t, root)
			rootfs, err := store.Rootfs(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			if err := test.change(root, rootfs); err != nil {
				t.Fatal(err)
			}
			store, c, _ = storageOf(t, root)
			got, err := store.Rootfs(ctx, c)
			if test.want == "" && err != nil {
				t.Errorf("Rootfs() = %v; want the layers", err)
			}
			if test.want != "" && (!errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Rootfs() = %+v, %v; want %v for %s", got, err, ErrIncomplete, test.want)
			}
		})
	}
}

// checkStorageUnstarted takes the config.json away: Podman writes it at a start.
func checkStorageUnstarted(t *testing.T, p *podman) {
	root := p.copied(t)
	if err := os.Remove(filepath.Join(root, "overlay-containers", p.id, "userdata/config.json")); err != nil {
		t.Fatal(err)
	}
	store, c, listing := storageOf(t, root)
	if len(listing.Problems) != 1 || !strings.Contains(listing.Problems[0].What, p.id) || c.Name != "web" {
		t.Errorf("List() = %+v; want web, and a problem with it", listing)
	}
	if spec, err := store.Spec(context.Background(), c); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Spec() = %+v, %v; want %v", spec, err, ErrIncomplete)
	}
	if rootfs, err := store.Rootfs(context.Background(), c); err != nil || len(rootfs.Layers) != 2 {
		t.Errorf("Rootfs() = %+v, %v; want two layers", rootfs, err)
	}
}

// TestStorageVFSDead reads what a real Podman wrote with the driver vfs.
func TestStorageVFSDead(t *testing.T) {
	ctx := context.Background()
	p := startPodman(t, "vfs")
	var said []inspected
	if err := json.Unmarshal([]byte(p.run("inspect", "web")), &said); err != nil || len(said) != 1 {
		t.Fatalf("podman inspect: %v", err)
	}
	p.kill()
	store, c, listing := storageOf(t, p.root)
	if len(listing.Problems) != 0 || c.Name != "web" || c.ID != said[0].ID {
		t.Errorf("List() = %+v; want web and no problem", listing)
	}
	rootfs, err := store.Rootfs(ctx, c)
	if err != nil || len(rootfs.Layers) != 1 || rootfs.Upper != "" {
		t.Fatalf("Rootfs() = %+v, %v; want one layer", rootfs, err)
	}
	for file, want := range map[string]string{"etc/base": "base\n", "etc/app": "app\n", "etc/written": "written\n"} {
		if data, err := os.ReadFile(filepath.Join(rootfs.Layers[0], file)); err != nil || string(data) != want {
			t.Errorf("ReadFile(%s) = %q, %v; want %q", file, data, err, want)
		}
	}
	image, err := store.Image(ctx, "", testImage)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, image.Provider, image.Target, platforms.Default())
	if err != nil || len(manifest.Layers) != 2 {
		t.Fatalf("Manifest() = %+v, %v; want two layers", manifest, err)
	}
	for i, layer := range manifest.Layers {
		if data, err := content.ReadBlob(ctx, image.Provider, layer); err != nil || !bytes.Equal(data, p.layers[i]) {
			t.Errorf("layer %d: %d bytes, %v; want the %d podman was given", i, len(data), err, len(p.layers[i]))
		}
	}
}
