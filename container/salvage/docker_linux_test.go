package salvage

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestDockerDead(t *testing.T) {
	d := startDocker(t)
	d.load()
	bind := filepath.Join(d.dir, "bind")
	if err := os.Mkdir(bind, 0o777); err != nil {
		t.Fatal(err)
	}
	d.docker("run", "-d", "--cgroup-parent", "/"+d.cgroup(), "--name", "shop", "--net", "host", "-e", "COLOUR=blue", "-v", bind+":/data:ro", "-v", "vol:/vol", "--user", "1000:1001",
		"--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--ulimit", "nofile=100:200",
		"--device", "/dev/null:/dev/nix:rw", "--tmpfs", "/scratch:size=1m", "--read-only", "--restart", "on-failure:3", "--security-opt", "no-new-privileges",
		"--oom-score-adj", "100", "--label", "team=a", "sleeper:1")
	d.docker("run", "-d", "--cgroup-parent", "/"+d.cgroup(), "--name", "named", "--net", "none", "--user", "app", "--security-opt", "seccomp=unconfined", "--pid", "host", "--ipc", "host",
		"--sysctl", "net.ipv4.ip_forward=1", "sleeper:1", "/bin/busybox", "sleep", "2000")
	d.docker("run", "-d", "--cgroup-parent", "/"+d.cgroup(), "--name", "root", "--net", "none", "sleeper:1", "/bin/busybox", "sh", "-c", "echo written >/etc/written; exec /bin/busybox sleep 1000")
	d.docker("exec", "root", "/bin/busybox", "sh", "-c", "until /bin/busybox test -s /etc/written; do :; done")
	profile := filepath.Join(d.dir, "profile.json")
	if err := os.WriteFile(profile, []byte(seccompProfile), 0o600); err != nil {
		t.Fatal(err)
	}
	d.docker("create", "--cgroup-parent", "/"+d.cgroup(), "--name", "priv", "--net", "none", "--privileged", "--device", "/dev/null:/dev/nix", "--runtime", "keep", "sleeper:1")
	if out, err := exec.Command("docker", "-H", d.host(), "start", "priv").CombinedOutput(); err == nil {
		t.Fatalf("docker start priv: %s; want the runtime's refusal", out)
	}
	d.docker("run", "-d", "--cgroup-parent", "/"+d.cgroup(), "--name", "filtered", "--net", "none", "--cap-add", "SYS_TIME", "--security-opt", "seccomp="+profile, "sleeper:1")
	said := map[string]dockerSays{}
	for _, name := range []string{"shop", "named", "root", "priv", "filtered"} {
		said[name] = d.inspect(name)
	}
	d.kill()
	d.unmount()
	before := fingerprint(t, d.root)
	stores, problems := OpenPath(d.root)
	if len(problems) != 0 || !slices.ContainsFunc(stores, func(s Store) bool { return s.Kind() == Docker }) {
		t.Fatalf("OpenPath(%s) = %v, %v; want a docker store", d.root, stores, problems)
	}
	store, err := Open(Docker, d.root)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for name, s := range said {
		t.Run(name, func(t *testing.T) { checkDocker(t, d, store, "/"+name, s) })
	}
	t.Run("image", func(t *testing.T) { checkDockerImage(t, d, store, said["root"]) })
	if after := fingerprint(t, d.root); !reflect.DeepEqual(after, before) {
		t.Errorf("the store changed while it was read: %d files before, %d after", len(before), len(after))
	}
	t.Run("damaged", func(t *testing.T) { checkDockerDamage(t, d, said) })
}

func find(t *testing.T, store Store, id string) Container {
	t.Helper()
	listing, err := store.List(context.Background())
	if err != nil {
		t.Fatalf("List() = %v", err)
	}
	i := slices.IndexFunc(listing.Containers, func(c Container) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("List() = %+v; want container %s", listing, id)
	}
	return listing.Containers[i]
}

func checkDocker(t *testing.T, d *dockerDaemon, store Store, name string, said dockerSays) {
	ctx := context.Background()
	if listing, err := store.List(ctx); err != nil || len(listing.Problems) != 0 || len(listing.Containers) != 5 || len(listing.Images) != 1 {
		t.Errorf("List() = %+v, %v; want 5 containers, 1 image, no problem", listing, err)
	}
	c := find(t, store, said.ID)
	if c.Name != strings.TrimPrefix(name, "/") || c.Image != "sleeper:1" || c.ImageDigest.String() != said.Image || c.Created.Format(time.RFC3339Nano) != said.Created {
		t.Errorf("container = %+v; want %+v", c, said)
	}
	if name == "/shop" && c.Labels["team"] != "a" {
		t.Errorf("labels = %v; want team=a", c.Labels)
	}
	spec, err := store.Spec(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	checkDockerSpec(t, name, spec, said.runtime)

	rootfs, err := store.Rootfs(ctx, c)
	lowers := strings.Split(said.GraphDriver.Data.LowerDir, ":")
	slices.Reverse(lowers)
	if err != nil || !reflect.DeepEqual(rootfs.Layers, lowers) || rootfs.Upper != said.GraphDriver.Data.UpperDir {
		t.Errorf("Rootfs() = %+v, %v; want %v and %s", rootfs, err, lowers, said.GraphDriver.Data.UpperDir)
	}
	if name == "/root" {
		if data, err := os.ReadFile(filepath.Join(rootfs.Upper, "etc/written")); err != nil || string(data) != "written\n" {
			t.Errorf("upper: etc/written = %q, %v; want what the container wrote", data, err)
		}
	}
	var done, total int64
	if err := store.(Verifier).VerifyRootfs(ctx, c, func(d, of int64) { done, total = d, of }); err != nil || done != total || done == 0 {
		t.Errorf("VerifyRootfs() = %v, told %d of %d; want nil and all", err, done, total)
	}
}

func checkDockerImage(t *testing.T, d *dockerDaemon, store Store, said dockerSays) {
	ctx := context.Background()
	var first digest.Digest
	for _, name := range []string{"sleeper:1", "docker.io/library/sleeper:1", said.Image, strings.TrimPrefix(said.Image, "sha256:")} {
		image, err := store.Image(ctx, "", name)
		if err != nil {
			t.Fatalf("Image(%s) = %v", name, err)
		}
		if first == "" {
			first = image.Target.Digest
		}
		if image.Target.Digest != first || image.Target.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("Image(%s) = %+v; want manifest %s each time", name, image.Target, first)
		}
	}
	if _, err := store.Image(ctx, "", "other:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Image(other:1) = %v; want %v", err, ErrNotFound)
	}
	image, err := (&Host{Stores: []Store{store}}).LookupImage(ctx, "", "sleeper:1")
	if err != nil {
		t.Fatal(err)
	}
	data, err := content.ReadBlob(ctx, image.Provider, image.Target)
	var manifest ocispec.Manifest
	if err != nil || json.Unmarshal(data, &manifest) != nil || manifest.Config.Digest.String() != said.Image || len(manifest.Layers) != 2 {
		t.Fatalf("manifest = %s, %v; want config %s and 2 layers", data, err, said.Image)
	}
	for i, layer := range manifest.Layers {
		data, err := content.ReadBlob(ctx, image.Provider, layer)
		if got := digest.FromBytes(data); err != nil || got.String() != d.diffs[i] || int64(len(data)) != layer.Size {
			t.Errorf("layer %d = %s of %d bytes, %v; want %s of %d", i, got, len(data), err, d.diffs[i], layer.Size)
		}
		if i == 1 {
			archive := tar.NewReader(bytes.NewReader(data))
			header, err := archive.Next()
			if err != nil || header.Name != "./" {
				t.Errorf("layer 1 begins with %+v, %v; want ./", header, err)
			}
		}
	}
}
