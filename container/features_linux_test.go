package container

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFeaturesHelper is no test: the test binary runs it as another user, to
// print what that user finds.
func TestFeaturesHelper(t *testing.T) {
	dir, ok := os.LookupEnv("FEATURES_DIR")
	if !ok {
		return
	}
	if err := json.NewEncoder(os.Stdout).Encode(Features(t.Context(), optionsIn(dir))); err != nil {
		t.Fatal(err)
	}
}

func optionsIn(dir string) FeatureOptions {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	return FeatureOptions{StateDir: filepath.Join(dir, "state"), DataDir: filepath.Join(dir, "a", "data"), Now: now, TimeFloor: now}
}

func byName(features []Feature) map[string]Feature {
	found := map[string]Feature{}
	for _, f := range features {
		found[f.Name] = f
	}
	return found
}

func TestFeatures(t *testing.T) {
	dir := t.TempDir()
	before := traces(t, dir)
	features := Features(t.Context(), optionsIn(dir))
	if after := traces(t, dir); !slices.Equal(after, before) {
		t.Errorf("Features() left %q; want %q as before", after, before)
	}
	found := byName(features)
	if len(found) != len(features) {
		t.Errorf("Features() gave %d names for %d features; want each once", len(found), len(features))
	}
	for _, name := range []string{
		"kernel", "root", "administer", "mount-namespace", "pid-namespace", "ipc-namespace", "uts-namespace", "network-namespace",
		"cgroups", "cgroup-create", "memory-controller", "pids-controller", "device-rules", "overlayfs", "seccomp", "pidfd",
		"process-ids", "proc", "state-directory", "data-directory", "data-mount", "memory", "clock",
	} {
		if f, ok := found[name]; !ok || f.Have != Yes || f.Detail == "" || f.Means != "" {
			t.Errorf("Features() says of %s: %+v; want yes, with a detail and nothing to do", name, f)
		}
	}
	for _, f := range features {
		if f.Have != Yes && f.Detail == "" {
			t.Errorf("Features() says %+v; want a detail", f)
		}
	}
}

// traces is what a probe could leave: mounts, cgroups and files. Of the process's
// cgroups only its own count, for the package's tests may run beside others.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	h, err := cgroupMounts()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir) || strings.Contains(line, "doctor") {
			found = append(found, line) // others mount at the same time
		}
	}
	for _, root := range append(h.roots, dir) {
		entries, err := os.ReadDir(root)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if root == dir || strings.HasSuffix(e.Name(), "doctor-"+strconv.Itoa(os.Getpid())) {
				found = append(found, filepath.Join(root, e.Name()))
			}
		}
	}
	return found
}

func TestFeaturesUnprivileged(t *testing.T) {
	dir, err := os.MkdirTemp("", "features-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(binary, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	before := traces(t, dir)
	cmd := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary, "-test.run=^TestFeaturesHelper$")
	cmd.Env = append(os.Environ(), "FEATURES_DIR="+dir)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("Features() as another user: %v\n%s", err, out)
	}
	var features []Feature
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&features); err != nil {
		t.Fatalf("Features() as another user printed %q: %v", out, err)
	}
	if after := traces(t, dir); !slices.Equal(after, before) {
		t.Errorf("Features() left %q; want %q as before", after, before)
	}
	found := byName(features)
	for name, want := range map[string]Answer{
		"root": No, "administer": No, "raise-limits": No, "capabilities": No, "mount-namespace": No, "cgroup-create": No,
		"memory-controller": Unknown, "state-directory": No, "data-directory": No, "overlayfs": Unknown,
		"kernel": Yes, "seccomp": Yes, "pidfd": Yes, "clock": Yes, "cgroups": Yes,
	} {
		if f := found[name]; f.Have != want || (want != Yes && f.Means == "") {
			t.Errorf("Features() as another user says of %s: %+v; want %s and what to do", name, f, want)
		}
	}
}

// TestFeaturesSmallDisk has the data on a small filesystem with every
// restriction: the answers are about that one, not about the root's.
func TestFeaturesSmallDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "size=1m,nr_inodes=100"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	found := byName(Features(t.Context(), FeatureOptions{StateDir: dir, DataDir: dir}))
	for name, want := range map[string]string{"state-space": "1 MiB free, 9", "data-space": "1 MiB free, 9", "data-mount": "noexec, nodev, nosuid"} {
		if f := found[name]; f.Have != No || !strings.HasPrefix(f.Detail, want) || f.Means == "" {
			t.Errorf("Features() says of %s: %+v; want no with %q", name, f, want)
		}
	}
	if f := found["clock"]; f.Have != Unknown {
		t.Errorf("Features() says of clock without a floor: %+v; want unknown", f)
	}
	if err := os.WriteFile(filepath.Join(dir, "fill"), make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("writing 2 MiB to a filesystem of 1 MiB = nil; want no space")
	}
	for _, name := range []string{"state-directory", "data-directory"} {
		if f := byName(Features(t.Context(), FeatureOptions{StateDir: dir, DataDir: dir}))[name]; f.Have != No || !strings.Contains(f.Detail, "no space") {
			t.Errorf("Features() says of %s on a full disk: %+v; want no, no space left", name, f)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if f := byName(Features(t.Context(), FeatureOptions{DataDir: filepath.Join(dir, "new")}))["data-directory"]; f.Have != No || !strings.Contains(f.Detail, "read-only") {
		t.Errorf("Features() says of data-directory: %+v; want no, read-only", f)
	}
	if f := byName(Features(t.Context(), FeatureOptions{DataDir: "/dev/null/x"}))["data-directory"]; f.Have != No {
		t.Errorf("Features() says of data-directory below a file: %+v; want no", f)
	}
}

// TestFeaturesBounded drops the capability to trace and to raise limits alone.
func TestFeaturesBounded(t *testing.T) {
	cmd := exec.Command("setpriv", "--bounding-set=-sys_resource,-sys_ptrace", os.Args[0], "-test.run=^TestFeaturesHelper$")
	cmd.Env = append(os.Environ(), "FEATURES_DIR="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var features []Feature
	if err := json.NewDecoder(strings.NewReader(string(out))).Decode(&features); err != nil {
		t.Fatal(err)
	}
	found := byName(features)
	for name, want := range map[string]Answer{"administer": Yes, "raise-limits": No, "trace": No, "capabilities": No} {
		if f := found[name]; f.Have != want {
			t.Errorf("Features() says of %s: %+v; want %s", name, f, want)
		}
	}
	if f := found["capabilities"]; !strings.Contains(f.Detail, "CAP_SYS_PTRACE") {
		t.Errorf("Features() says of capabilities: %+v; want CAP_SYS_PTRACE missing", f)
	}
}

func TestClock(t *testing.T) {
	floor := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if f := clock(floor, floor.Add(-90*time.Minute)); f.Have != No || !strings.Contains(f.Detail, "1h30m0s behind") || f.Means == "" {
		t.Errorf("clock() = %+v; want no, 1h30m0s behind", f)
	}
	if f := clock(floor, floor); f.Have != Yes {
		t.Errorf("clock() = %+v; want yes", f)
	}
}

// TestAskSystemd needs a stand-in for systemd's side of the socket, which a host
// without systemd does not have; the wire format is D-Bus's.
func TestAskSystemd(t *testing.T) {
	for reply, want := range map[string]string{"OK 1234\r\n": "", "REJECTED EXTERNAL\r\n": "REJECTED", "": "timeout"} {
		path := filepath.Join(t.TempDir(), "private")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			line, _ := bufio.NewReader(conn).ReadString('\n')
			asked <- line
			if reply != "" {
				_, _ = conn.Write([]byte(reply))
			}
			<-t.Context().Done()
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err = askSystemd(ctx, path)
		cancel()
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("askSystemd() answered by %q = %v; want %q", reply, err, want)
		}
		if line := <-asked; line != "\x00AUTH EXTERNAL 30\r\n" {
			t.Errorf("askSystemd() sent %q; want the user 0 in hexadecimal", line)
		}
		_ = l.Close()
	}
}

// TestCloneInto shows that a refused namespace is told from a made one: the
// kernel refuses a thread's user namespace shared with its process.
func TestCloneInto(t *testing.T) {
	if err := cloneInto(unix.CLONE_NEWUTS); err != nil {
		t.Errorf("cloneInto(CLONE_NEWUTS) = %v; want nil", err)
	}
	if err := cloneInto(unix.CLONE_NEWNS | unix.CLONE_FS); !errors.Is(err, unix.EINVAL) {
		t.Errorf("cloneInto(CLONE_NEWNS|CLONE_FS) = %v; want EINVAL", err)
	}
}
