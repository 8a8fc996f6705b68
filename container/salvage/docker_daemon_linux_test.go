package salvage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// dockerDaemon is a real dockerd, with a containerd of its own, in a test's own
// directories.
type dockerDaemon struct {
	t     *testing.T
	dir   string
	root  string
	cmd   *exec.Cmd
	diffs []string // the image's layers
}

func startDocker(t *testing.T) *dockerDaemon {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil {
		if os.Getenv("REQUIRE_KERNEL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	// A socket's path has at most 107 bytes, and containerd's is deep below.
	dir, err := os.MkdirTemp("", "bs-dk-")
	if err != nil {
		t.Fatal(err)
	}
	d := &dockerDaemon{t: t, dir: dir, root: filepath.Join(dir, "data")}
	t.Cleanup(func() {
		d.kill()
		d.unmount()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	// A runtime that keeps what dockerd gives it, and starts nothing: the test's
	// own host may not allow a privileged container.
	keep := "#!/bin/sh\nfor arg; do\n\tcase $before in --bundle) cp \"$arg/config.json\" \"" + dir + "/kept-${arg##*/}.json\";; esac\n\tbefore=$arg\ndone\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "keep"), []byte(keep), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command("dockerd", "--data-root", d.root, "--exec-root", filepath.Join(dir, "x"), "-H", d.host(), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false", "--storage-driver=overlay2",
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--add-runtime", "keep="+filepath.Join(dir, "keep"))
	d.cmd.Env = append(os.Environ(), "DOCKER_RAMDISK=true")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for exec.Command("docker", "-H", d.host(), "version").Run() != nil {
		if time.Now().After(deadline) {
			data, _ := os.ReadFile(log.Name())
			t.Fatalf("dockerd does not answer:\n%s", data)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return d
}

func (d *dockerDaemon) host() string   { return "unix://" + d.dir + "/s" }
func (d *dockerDaemon) cgroup() string { return fmt.Sprintf("bs-docker-%d", os.Getpid()) }

func (d *dockerDaemon) docker(args ...string) string {
	d.t.Helper()
	cmd := exec.Command("docker", append([]string{"-H", d.host()}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(d.dir, "log"))
		d.t.Fatalf("docker %s: %v\n%s%s\n%s", strings.Join(args, " "), err, out, stderr.Bytes(), log[max(0, len(log)-3000):])
	}
	return strings.TrimSpace(string(out))
}

// kill ends dockerd, its containerd, their shims and containers as a power cut
// would: all whose command line names this test's directory, and what is below.
func (d *dockerDaemon) kill() {
	if d.cmd == nil {
		return
	}
	ours, parents := map[int]bool{d.cmd.Process.Pid: true}, map[int]int{}
	proc, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range proc {
		pid, _ := strconv.Atoi(filepath.Base(p))
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if strings.Contains(string(cmdline), d.dir+"/") {
			ours[pid] = true
		}
		stat, _ := os.ReadFile(filepath.Join(p, "stat"))
		if i := bytes.LastIndexByte(stat, ')'); i > 0 {
			if fields := strings.Fields(string(stat[i+1:])); len(fields) > 1 {
				parents[pid], _ = strconv.Atoi(fields[1])
			}
		}
	}
	_ = d.cmd.Process.Kill()
	for pid, parent := range parents {
		if ours[pid] || ours[parent] {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	_ = d.cmd.Wait()
	d.cmd = nil
	deadline := time.Now().Add(time.Minute)
	for pid, parent := range parents {
		for (ours[pid] || ours[parent]) && running(pid) {
			if time.Now().After(deadline) {
				d.t.Errorf("process %d is still there", pid)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// running is false for a zombie that nobody reaps.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(stat, ')')
	return err == nil && i > 0 && !strings.HasPrefix(string(stat[i+1:]), " Z")
}

func (d *dockerDaemon) unmount() {
	data, _ := os.ReadFile("/proc/self/mounts")
	lines := strings.Split(string(data), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], d.dir+"/") {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				d.t.Errorf("unmounting %s: %v", fields[1], err)
			}
		}
	}
	var groups []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		for _, depth := range []string{"/*", ""} {
			found, _ := filepath.Glob(pattern + d.cgroup() + depth)
			groups = append(groups, found...)
		}
	}
	for _, group := range groups {
		if info, err := os.Stat(group); err == nil && info.IsDir() {
			deadline := time.Now().Add(time.Minute)
			for err := os.Remove(group); err != nil; err = os.Remove(group) {
				if time.Now().After(deadline) {
					d.t.Error(err)
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

// load makes an image of two layers; the second takes away a file of the first.
func (d *dockerDaemon) load() {
	d.t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		d.t.Fatal(err)
	}
	layers := [][]byte{
		tarball(d.t, map[string][]byte{
			"bin/busybox": busybox, "etc/base": []byte("base\n"), "etc/gone": []byte("gone\n"), "opt/old": []byte("old\n"),
			"etc/passwd": []byte("root:x:0:0::/:\napp:x:7:7::/:\n"),
		}),
		upperLayer(d.t),
	}
	config := map[string]any{
		"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers"},
		"config": map[string]any{
			"Cmd": []string{"/bin/busybox", "sleep", "1000"}, "ExposedPorts": map[string]any{"2379/tcp": map[string]any{}},
			"Healthcheck": map[string]any{"Test": []string{"CMD", "/bin/busybox", "true"}}, "StopSignal": "SIGINT",
		},
	}
	for _, layer := range layers {
		d.diffs = append(d.diffs, digest.FromBytes(layer).String())
	}
	config["rootfs"].(map[string]any)["diff_ids"] = d.diffs
	configJSON, _ := json.Marshal(config)
	manifest, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{"sleeper:1"}, "Layers": []string{"0.tar", "1.tar"}}})
	archive := filepath.Join(d.dir, "image.tar")
	data := tarball(d.t, map[string][]byte{"config.json": configJSON, "manifest.json": manifest, "0.tar": layers[0], "1.tar": layers[1]})
	if err := os.WriteFile(archive, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.docker("load", "-i", archive)
}

// upperLayer is an archive with one of each kind of entry: it takes away a file
// and the content of a directory of the layer below.
func upperLayer(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, header := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./etc/.wh.gone", Typeflag: tar.TypeReg},
		{Name: "./etc/app", Typeflag: tar.TypeReg, Size: 4, Mode: 0o644},
		{Name: "./etc/empty", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "./etc/hard", Typeflag: tar.TypeLink, Linkname: "./etc/app"},
		{Name: "./etc/link", Typeflag: tar.TypeSymlink, Linkname: "app"},
		{Name: "./etc/pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "./opt/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./opt/.wh..wh..opq", Typeflag: tar.TypeReg},
		{Name: "./srv/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./via", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
		{Name: "./via/through/file", Typeflag: tar.TypeReg, Mode: 0o644},
	} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("app\n")[:header.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// dockerSays is what `docker inspect` said while dockerd lived.
type dockerSays struct {
	ID, Image, Name, Created string
	GraphDriver              struct {
		Data struct{ LowerDir, UpperDir string }
	}
	Mounts         []struct{ Source, Destination string }
	ResolvConfPath string
	runtime        *specs.Spec // what dockerd gave to the runtime
}

func (d *dockerDaemon) inspect(name string) dockerSays {
	d.t.Helper()
	var said []dockerSays
	if err := json.Unmarshal([]byte(d.docker("inspect", name)), &said); err != nil || len(said) != 1 {
		d.t.Fatalf("docker inspect %s: %v", name, err)
	}
	bundles, _ := filepath.Glob(filepath.Join(d.dir, "x/containerd/daemon/io.containerd.runtime.v*/moby", said[0].ID, "config.json"))
	if len(bundles) == 0 {
		bundles, _ = filepath.Glob(filepath.Join(d.dir, "kept-"+said[0].ID+".json"))
	}
	if len(bundles) != 1 {
		d.t.Fatalf("bundles of %s = %v; want one", name, bundles)
	}
	data, err := os.ReadFile(bundles[0])
	if err != nil {
		d.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &said[0].runtime); err != nil {
		d.t.Fatal(err)
	}
	return said[0]
}
