package salvage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestDockerSnapshots reads a data root whose images are in containerd: the
// snapshots are made by a real containerd, the record as dockerd writes it with
// its containerd-snapshotter feature.
func TestDockerSnapshots(t *testing.T) {
	ctx := context.Background()
	d := startContainerd(t)
	d.importImage("moby")
	chain := ""
	for line := range strings.Lines(d.ctr("-n", "moby", "snapshots", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && strings.HasPrefix(fields[1], "sha256:") { // key, parent, kind
			chain = fields[0]
		}
	}
	d.ctr("-n", "moby", "snapshots", "prepare", hexA, chain)
	d.importImage("production") // somebody else's
	d.kill()
	upper, _ := filepath.Glob(filepath.Join(d.root, "io.containerd.snapshotter.v1.overlayfs/snapshots/3/fs"))
	if len(upper) != 1 {
		t.Fatalf("the container's snapshot = %v; want number 3", upper)
	}
	if err := os.WriteFile(filepath.Join(upper[0], "written"), []byte("written\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest := digest.FromString("manifest")
	config := `{"ID":"` + hexA + `","Name":"/web","Path":"/bin/busybox","Args":["sleep","1"],"Driver":"overlayfs","Image":"` + digest.FromString("index").String() + `",
		"ImageManifest":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` + manifest.String() + `","size":1},"Config":{"Image":"sleeper:1"}}`
	for _, place := range []string{"docker/containerd/daemon", "containerd"} {
		lib := t.TempDir()
		root := filepath.Join(lib, "docker")
		if err := os.MkdirAll(filepath.Join(root, "image"), 0o700); err != nil {
			t.Fatal(err)
		}
		containerd := filepath.Join(lib, place)
		if err := os.MkdirAll(filepath.Dir(containerd), 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", d.root, containerd).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
		record := filepath.Join(root, dockerContainers, hexA)
		if err := os.MkdirAll(record, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string]string{"config.v2.json": config, "hostconfig.json": `{}`} {
			if err := os.WriteFile(filepath.Join(record, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before := fingerprint(t, lib)
		store, err := Open(Docker, root)
		if err != nil {
			t.Fatal(err)
		}
		c := find(t, store, hexA)
		if c.ImageDigest != manifest || c.Name != "web" {
			t.Errorf("%s: container = %+v; want web of %s", place, c, manifest)
		}
		rootfs, err := store.Rootfs(ctx, c)
		snapshots := filepath.Join(containerd, "io.containerd.snapshotter.v1.overlayfs/snapshots")
		want := Rootfs{Layers: []string{filepath.Join(snapshots, "1/fs"), filepath.Join(snapshots, "2/fs")}, Upper: filepath.Join(snapshots, "3/fs")}
		if err != nil || !reflect.DeepEqual(rootfs, want) {
			t.Fatalf("%s: Rootfs() = %+v, %v; want %+v", place, rootfs, err, want)
		}
		for file, content := range map[string]string{
			filepath.Join(rootfs.Layers[0], "etc/base"): "base\n", filepath.Join(rootfs.Layers[1], "etc/app"): "app\n", filepath.Join(rootfs.Upper, "written"): "written\n",
		} {
			if data, err := os.ReadFile(file); err != nil || string(data) != content {
				t.Errorf("%s: ReadFile(%s) = %q, %v; want %q", place, file, data, err, content)
			}
		}
		if err := store.(Verifier).VerifyRootfs(ctx, c, nil); !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "overlayfs") {
			t.Errorf("%s: VerifyRootfs() = %v; want %v for the driver", place, err, ErrIncomplete)
		}
		system, err := openContainerd(containerd)
		if err != nil {
			t.Fatal(err)
		}
		image, err := (&Host{Stores: []Store{store, system}}).LookupImage(ctx, c.Namespace, c.Image)
		if err != nil || image.Store != Containerd || image.Namespace != "moby" {
			t.Errorf("%s: LookupImage(%s) = %+v, %v; want containerd's in moby", place, c.Image, image, err)
		}
		both, problems := OpenPath(root)
		listing := (&Host{Stores: both}).List(ctx)
		if len(problems)+len(listing.Problems) != 0 || len(listing.Containers) != 1 || len(listing.Images) != 1 || listing.Images[0].Namespace != "moby" {
			t.Errorf("%s: OpenPath() has %+v, %v; want Docker's container and its image in moby, and no problem", place, listing, problems)
		}
		if after := fingerprint(t, lib); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: the store changed while it was read", place)
		}
	}
}
