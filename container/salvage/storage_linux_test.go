package salvage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// podman runs in a test's own directories.
type podman struct {
	t         *testing.T
	dir, root string
	driver    string // overlay or vfs
	id        string
	layers    [][]byte // the image's, uncompressed
}

func startPodman(t *testing.T, driver string) *podman {
	t.Helper()
	if _, err := exec.LookPath("podman"); err != nil {
		if os.Getenv("REQUIRE_KERNEL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	p := &podman{t: t, dir: dir, root: filepath.Join(dir, "root"), driver: driver}
	t.Cleanup(p.kill)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	p.layers = [][]byte{
		tarball(t, map[string][]byte{"bin/busybox": busybox, "etc/base": []byte("base\n"), "etc/gone": []byte("gone\n"), "opt/old": []byte("old\n")}),
		upperLayer(t),
	}
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []digest.Digest{digest.FromBytes(p.layers[0]), digest.FromBytes(p.layers[1])}},
	})
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{testImage}, "Layers": []string{"0.tar", "1.tar"}}})
	archive := filepath.Join(dir, "image.tar")
	data := tarball(t, map[string][]byte{"config.json": config, "manifest.json": manifest, "0.tar": p.layers[0], "1.tar": p.layers[1]})
	if err := os.WriteFile(archive, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("load", "-i", archive)
	if err := os.Mkdir(filepath.Join(dir, "bind"), 0o777); err != nil {
		t.Fatal(err)
	}
	out := p.run("run", "-d", "--net=host", "--name", "web", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000",
		"--cgroup-parent", "/"+p.cgroup(), "--memory", "64m", "--env", "COLOUR=blue", "--user", "0:1000",
		"--volume", filepath.Join(dir, "bind")+":/bind", "--volume", "data:/data",
		"--restart", "on-failure:3", "--health-cmd", "test -e /etc/written", "--health-interval", "disable", testImage,
		"/bin/busybox", "sh", "-c", "echo written >/etc/written; exec /bin/busybox sleep 1000")
	p.id = strings.TrimSpace(out)
	deadline := time.Now().Add(time.Minute)
	for {
		if found, _ := filepath.Glob(filepath.Join(p.root, map[string]string{"overlay": "overlay/*/diff", "vfs": "vfs/dir/*"}[driver], "etc/written")); len(found) > 0 {
			return p
		}
		if time.Now().After(deadline) {
			t.Fatal("the container has written nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (p *podman) cgroup() string { return fmt.Sprintf("bs-storage-%d", os.Getpid()) }

func (p *podman) run(args ...string) string {
	p.t.Helper()
	cmd := exec.Command("podman", append([]string{
		"--root", p.root, "--runroot", filepath.Join(p.dir, "run"), "--tmpdir", filepath.Join(p.dir, "tmp"),
		"--storage-driver", p.driver, "--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime", "runc", "--runtime-flag", "root=" + filepath.Join(p.dir, "runc"),
	}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		p.t.Fatalf("podman %s: %v\n%s", args[0], err, stderr.Bytes())
	}
	return stdout.String()
}

// kill ends the container and its conmon as a power cut would, and takes away
// what they left in the kernel.
func (p *podman) kill() {
	for _, name := range []string{"conmon.pid", "pidfile"} { // conmon first, or it cleans up
		files, _ := filepath.Glob(filepath.Join(p.dir, "run/*-containers/*/userdata", name))
		for _, file := range files {
			data, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			_ = os.Remove(file)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(mounts), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], p.dir+"/") {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				p.t.Errorf("unmounting %s: %v", fields[1], err)
			}
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + p.cgroup())
	for _, group := range groups {
		var dirs []string
		_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		deadline := time.Now().Add(time.Minute)
		for _, dir := range dirs {
			for err := os.Remove(dir); err != nil; err = os.Remove(dir) {
				if time.Now().After(deadline) {
					p.t.Error(err)
					break
				}
				time.Sleep(5 * time.Millisecond) // the killed are not reaped yet
			}
		}
	}
}

// copied copies the store with its whiteouts and attributes.
func (p *podman) copied(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("cp", "-a", p.root, dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return dir
}

// inspected is what podman says of a living container.
type inspected struct {
	ID, Name, Image, ImageName, ImageDigest string
	Created                                 time.Time
	GraphDriver                             struct {
		Data struct{ LowerDir, UpperDir string }
	}
	Mounts []struct{ Source, Destination string }
	Config struct {
		Env []string
		Cmd []string
	}
	HostConfig struct{ Memory int64 }
}

func TestStoragePodmanDead(t *testing.T) {
	p := startPodman(t, "overlay")
	var said []inspected
	if err := json.Unmarshal([]byte(p.run("inspect", "web")), &said); err != nil || len(said) != 1 {
		t.Fatalf("podman inspect: %v", err)
	}
	t.Run("alive", func(t *testing.T) { checkStorage(t, p.root, said[0]) })
	p.kill()
	before := fingerprint(t, p.root)
	t.Run("dead", func(t *testing.T) { checkStorage(t, p.root, said[0]) })
	t.Run("image", func(t *testing.T) { checkStorageImage(t, p, said[0]) })
	t.Run("verify", func(t *testing.T) { checkStorageVerify(t, p) })
	t.Run("damaged", func(t *testing.T) { checkStorageDamaged(t, p, said[0]) })
	t.Run("foreign", func(t *testing.T) { checkStorageForeign(t, p) })
	t.Run("unstarted", func(t *testing.T) { checkStorageUnstarted(t, p) })
	t.Run("sqlite", func(t *testing.T) { checkStorageSQLite(t, p) })
	t.Run("cri-o", func(t *testing.T) { checkStorageCRIO(t, p) })
	if after := fingerprint(t, p.root); !reflect.DeepEqual(after, before) {
		t.Errorf("the store changed while it was read: %d files before, %d after", len(before), len(after))
	}
}

// storageOf opens a store and the only container in it.
func storageOf(t *testing.T, root string) (Store, Container, Listing) {
	t.Helper()
	stores, problems := OpenPath(root)
	if len(stores) != 1 || len(problems) != 0 {
		t.Fatalf("OpenPath(%s) = %v, %v; want one store", root, stores, problems)
	}
	listing, err := stores[0].List(context.Background())
	if err != nil || len(listing.Containers) != 1 {
		t.Fatalf("List() = %+v, %v; want one container", listing, err)
	}
	return stores[0], listing.Containers[0], listing
}

func checkStorage(t *testing.T, root string, said inspected) {
	ctx := context.Background()
	store, c, listing := storageOf(t, root)
	if store.Kind() != Podman || len(listing.Problems) != 0 || len(listing.Images) != 1 {
		t.Errorf("Kind() = %s, List() = %+v; want podman, one image, no problem", store.Kind(), listing)
	}
	want := Container{
		Store: Podman, StorePath: root, ID: said.ID, Name: said.Name,
		Image: said.ImageName, ImageDigest: digest.Digest(said.ImageDigest), Created: c.Created,
	}
	if !reflect.DeepEqual(c, want) || c.Created.Sub(said.Created).Abs() > time.Second {
		t.Errorf("List() has %+v; want %+v of %s", c, want, said.Created)
	}
	spec, err := store.Spec(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range said.Config.Env {
		if !slices.Contains(spec.Process.Env, env) {
			t.Errorf("Spec(): environment %q; want %q in it", spec.Process.Env, env)
		}
	}
	if !slices.Equal(spec.Process.Args, said.Config.Cmd) || spec.Process.User.GID != 1000 || *spec.Linux.Resources.Memory.Limit != said.HostConfig.Memory {
		t.Errorf("Spec(): args %q, user %+v, memory %d; want %q, group 1000, %d", spec.Process.Args, spec.Process.User, *spec.Linux.Resources.Memory.Limit, said.Config.Cmd, said.HostConfig.Memory)
	}
	mounts := map[string]string{}
	for _, mount := range spec.Mounts {
		mounts[mount.Destination] = mount.Source
	}
	if len(said.Mounts) != 2 {
		t.Errorf("podman inspect says %d mounts; want 2", len(said.Mounts))
	}
	for _, mount := range said.Mounts {
		if mounts[mount.Destination] != mount.Source {
			t.Errorf("Spec(): %s is mounted from %q; want %q", mount.Destination, mounts[mount.Destination], mount.Source)
		}
	}
	checkStorageRootfs(t, store, c, said)
}

func checkStorageRootfs(t *testing.T, store Store, c Container, said inspected) {
	t.Helper()
	rootfs, err := store.Rootfs(context.Background(), c)
	layers := strings.Split(said.GraphDriver.Data.LowerDir, ":")
	slices.Reverse(layers)
	if want := (Rootfs{Layers: layers, Upper: said.GraphDriver.Data.UpperDir}); err != nil || !reflect.DeepEqual(rootfs, want) {
		t.Fatalf("Rootfs() = %+v, %v; want %+v", rootfs, err, want)
	}
	for path, want := range map[string]string{
		filepath.Join(rootfs.Layers[0], "etc/base"): "base\n",
		filepath.Join(rootfs.Layers[1], "etc/app"):  "app\n",
		filepath.Join(rootfs.Upper, "etc/written"):  "written\n",
	} {
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("ReadFile(%s) = %q, %v; want %q", path, data, err, want)
		}
	}
}

func checkStorageImage(t *testing.T, p *podman, said inspected) {
	ctx := context.Background()
	store, _, listing := storageOf(t, p.root)
	host := &Host{Stores: []Store{store}}
	if _, err := host.LookupImage(ctx, "", "sleeper:1"); err != nil {
		t.Errorf("LookupImage(sleeper:1): %v", err)
	}
	id := store.(*storageStore).images[0].ID
	if got := listing.Images[0].Target.Digest; got.String() != said.ImageDigest {
		t.Errorf("List() has image %s; want %s, as podman says", got, said.ImageDigest)
	}
	var first digest.Digest
	for _, name := range []string{testImage, "sleeper:1", "library/sleeper:1", id, "sha256:" + id} {
		image, err := store.Image(ctx, "", name)
		if err != nil || first != "" && image.Target.Digest != first {
			t.Errorf("Image(%s) = %+v, %v; want %s each time", name, image, err, first)
			continue
		}
		first = image.Target.Digest
		manifest, err := images.Manifest(ctx, image.Provider, image.Target, platforms.Default())
		if err != nil || len(manifest.Layers) != len(p.layers) || manifest.Config.Digest.Encoded() != id {
			t.Fatalf("Manifest(%s) = %+v, %v; want two layers and the config %s", name, manifest, err, id)
		}
		for i, layer := range manifest.Layers {
			reader, err := image.Provider.ReaderAt(ctx, layer)
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(content.NewReader(reader))
			if err != nil || !bytes.Equal(data, p.layers[i]) {
				t.Errorf("layer %d of %s: %d bytes, %v; want the %d podman was given", i, name, len(data), err, len(p.layers[i]))
			}
			if err := reader.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	for _, name := range []string{"", "sleeper", "sleeper:2", "localhost/sleeper:1", strings.Repeat("0", 64)} {
		if image, err := store.Image(ctx, "", name); err == nil {
			t.Errorf("Image(%q) = %s; want an error", name, image.Name)
		}
	}
}
