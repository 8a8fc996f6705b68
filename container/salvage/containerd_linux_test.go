package salvage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
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

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const testImage = "docker.io/library/sleeper:1"

// containerdDaemon is a real containerd in a test's own directories.
type containerdDaemon struct {
	t    *testing.T
	dir  string
	root string
	cmd  *exec.Cmd
}

func startContainerd(t *testing.T) *containerdDaemon {
	t.Helper()
	if _, err := exec.LookPath("containerd"); err != nil {
		if os.Getenv("REQUIRE_KERNEL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	d := &containerdDaemon{t: t, dir: dir, root: filepath.Join(dir, "root")}
	config := "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.kill()
		d.unmount()
	})
	d.start()
	return d
}

func (d *containerdDaemon) start() {
	d.t.Helper()
	d.cmd = exec.Command("containerd", "--config", filepath.Join(d.dir, "config.toml"), "--root", d.root,
		"--state", filepath.Join(d.dir, "state"), "--address", d.socket())
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for exec.Command("ctr", "-a", d.socket(), "version").Run() != nil {
		if time.Now().After(deadline) {
			data, _ := os.ReadFile(log.Name())
			d.t.Fatalf("containerd does not answer:\n%s", data)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *containerdDaemon) socket() string { return filepath.Join(d.dir, "containerd.sock") }

func (d *containerdDaemon) ctr(args ...string) string {
	d.t.Helper()
	out, err := exec.Command("ctr", append([]string{"-a", d.socket()}, args...)...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("ctr %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// kill ends containerd, its shims and everything under them as a power cut would.
func (d *containerdDaemon) kill() {
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	d.cmd = nil
	shims := map[int]bool{}
	parents := map[int]int{}
	proc, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range proc {
		pid, _ := strconv.Atoi(filepath.Base(p))
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if strings.Contains(string(cmdline), "containerd-shim") && strings.Contains(string(cmdline), d.socket()) {
			shims[pid] = true
		}
		stat, _ := os.ReadFile(filepath.Join(p, "stat"))
		if i := bytes.LastIndexByte(stat, ')'); i > 0 {
			if fields := strings.Fields(string(stat[i+1:])); len(fields) > 1 {
				parents[pid], _ = strconv.Atoi(fields[1])
			}
		}
	}
	for pid, parent := range parents {
		if shims[parent] || shims[pid] {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// unmount takes away what the dead containers left mounted.
func (d *containerdDaemon) unmount() {
	data, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], d.dir) {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				d.t.Errorf("unmounting %s: %v", fields[1], err)
			}
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.prefix() + "*")
	for _, group := range groups {
		if err := os.Remove(group); err != nil {
			d.t.Error(err)
		}
	}
}

// prefix begins the ids and the cgroups of the containers.
func (d *containerdDaemon) prefix() string { return fmt.Sprintf("bs-salvage-%d-", os.Getpid()) }

// importImage makes an image of two layers around a static busybox.
func (d *containerdDaemon) importImage(namespaces ...string) {
	d.t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		d.t.Fatal(err)
	}
	layers := [][]byte{
		tarball(d.t, map[string][]byte{"bin/busybox": busybox, "etc/base": []byte("base\n")}),
		tarball(d.t, map[string][]byte{"etc/app": []byte("app\n")}),
	}
	config := map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/bin/busybox", "sleep", "1000"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest.FromBytes(layers[0]).String(), digest.FromBytes(layers[1]).String()}},
	}
	configJSON, _ := json.Marshal(config)
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{testImage}, "Layers": []string{"0.tar", "1.tar"}}})
	archive := filepath.Join(d.dir, "image.tar")
	data := tarball(d.t, map[string][]byte{"config.json": configJSON, "manifest.json": manifest, "0.tar": layers[0], "1.tar": layers[1]})
	if err := os.WriteFile(archive, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	for _, namespace := range namespaces {
		d.ctr("-n", namespace, "images", "import", archive)
	}
}

func tarball(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// spec asks the living containerd for a container's spec.
func (d *containerdDaemon) spec(namespace, id string) *specs.Spec {
	d.t.Helper()
	var spec specs.Spec
	if err := json.Unmarshal([]byte(d.ctr("-n", namespace, "containers", "info", "--spec", id)), &spec); err != nil {
		d.t.Fatal(err)
	}
	return &spec
}

// run starts the two containers the tests look for.
func (d *containerdDaemon) run() {
	d.t.Helper()
	d.importImage("default", "k8s.io")
	d.ctr("-n", "default", "run", "-d", "--runc-root", filepath.Join(d.dir, "runc"), "--cgroup", "/"+d.prefix()+"plain", "--env", "COLOUR=blue", testImage, d.prefix()+"plain",
		"/bin/busybox", "sh", "-c", "echo written >/etc/written; exec /bin/busybox sleep 1000")
	d.ctr("-n", "k8s.io", "run", "-d", "--runc-root", filepath.Join(d.dir, "runc"), "--cgroup", "/"+d.prefix()+"cri", "--label", labelKind+"=container", "--label", labelPod+"=web-0",
		"--label", labelPodNamespace+"=shop", "--label", labelContainer+"=nginx", testImage, d.prefix()+"cri",
		"/bin/busybox", "sleep", "1000")
	deadline := time.Now().Add(time.Minute)
	for {
		if found, _ := filepath.Glob(filepath.Join(d.root, "io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs/etc/written")); len(found) > 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal("the container has written nothing")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// fingerprint describes every file below a directory: mode, size, time, content.
func fingerprint(t *testing.T, dir string) map[string]string {
	t.Helper()
	prints := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		print := fmt.Sprint(info.Mode(), info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			print += fmt.Sprintf(" %d %x", info.Size(), sha256.Sum256(data))
		}
		prints[path] = print
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return prints
}

func TestContainerdDeadAndAlive(t *testing.T) {
	d := startContainerd(t)
	d.run()
	plain, cri := d.spec("default", d.prefix()+"plain"), d.spec("k8s.io", d.prefix()+"cri")

	t.Run("alive and locked", func(t *testing.T) { checkContainerd(t, d, plain, cri) })
	d.kill()
	before := fingerprint(t, d.root)
	t.Run("dead", func(t *testing.T) { checkContainerd(t, d, plain, cri) })
	t.Run("runs again", func(t *testing.T) { checkRunsAgain(t, d) })
	if after := fingerprint(t, d.root); !reflect.DeepEqual(after, before) {
		t.Errorf("the store changed while it was read: %d files before, %d after", len(before), len(after))
	}
	t.Run("damaged", func(t *testing.T) { checkDamaged(t, d, plain, cri) })
	t.Run("blobs", func(t *testing.T) { checkBlobs(t, d) })
}

func checkContainerd(t *testing.T, d *containerdDaemon, plain, cri *specs.Spec) {
	ctx := context.Background()
	stores, problems := OpenPath(d.root)
	if len(stores) != 1 || len(problems) != 0 || stores[0].Kind() != Containerd {
		t.Fatalf("OpenPath(%s) = %v, %v; want one containerd store", d.root, stores, problems)
	}
	host := &Host{Stores: stores}
	defer host.Close()
	listing, err := stores[0].List(ctx)
	if err != nil || len(listing.Problems) != 0 || len(listing.Containers) != 2 || len(listing.Images) != 2 {
		t.Fatalf("List() = %+v, %v; want 2 containers, 2 images and no problem", listing, err)
	}
	for name, want := range map[string]struct {
		id   string
		spec *specs.Spec
	}{
		d.prefix() + "plain":              {d.prefix() + "plain", plain},
		"default/" + d.prefix() + "plain": {d.prefix() + "plain", plain},
		d.prefix() + "p":                  {d.prefix() + "plain", plain},
		"web-0/nginx":                     {d.prefix() + "cri", cri},
		"shop/web-0/nginx":                {d.prefix() + "cri", cri},
		"containerd:k8s.io/web-0/nginx":   {d.prefix() + "cri", cri},
		"nginx":                           {d.prefix() + "cri", cri},
		"web-0":                           {d.prefix() + "cri", cri},
	} {
		store, c, err := host.Lookup(ctx, name)
		if err != nil || c.ID != want.id {
			t.Errorf("Lookup(%q) = %q, %v; want %q", name, c.ID, err, want.id)
			continue
		}
		spec, err := store.Spec(ctx, c)
		if err != nil || !reflect.DeepEqual(spec, want.spec) {
			diff, _ := Diff(want.spec, spec)
			t.Errorf("Spec(%s): %v; differs from what containerd said:\n%s", c.ID, err, diff)
		}
		if c.Created.IsZero() || c.Image != testImage || c.ImageDigest == "" {
			t.Errorf("Lookup(%q) = %+v; want a creation time, image and digest", name, c)
		}
		rootfs, err := store.Rootfs(ctx, c)
		if err != nil || len(rootfs.Layers) != 2 || rootfs.Upper == "" || rootfs.Verified {
			t.Errorf("Rootfs(%s) = %+v, %v; want 2 layers and an upper, not verified", c.ID, rootfs, err)
			continue
		}
		for i, file := range []string{"etc/base", "etc/app"} {
			if data, err := os.ReadFile(filepath.Join(rootfs.Layers[i], file)); err != nil || string(data) != filepath.Base(file)+"\n" {
				t.Errorf("layer %d of %s: %s = %q, %v", i, c.ID, file, data, err)
			}
		}
		if c.ID == d.prefix()+"plain" {
			if data, err := os.ReadFile(filepath.Join(rootfs.Upper, "etc/written")); err != nil || string(data) != "written\n" {
				t.Errorf("upper: etc/written = %q, %v; want what the container wrote", data, err)
			}
		}
	}
	for _, name := range []string{"bs-salvage", "etcd", "docker:web-0/nginx", "moby/web-0/nginx"} {
		if _, c, err := host.Lookup(ctx, name); err == nil {
			t.Errorf("Lookup(%q) = %s; want an error", name, c.ID)
		}
	}
	for _, name := range []string{testImage, "sleeper:1"} {
		image, err := host.LookupImage(ctx, "k8s.io", name)
		if err != nil || image.Name != testImage || image.Namespace != "k8s.io" {
			t.Errorf("LookupImage(%q) = %+v, %v; want %s", name, image, err, testImage)
		}
	}
}
