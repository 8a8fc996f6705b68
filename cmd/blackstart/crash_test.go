package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledStart kills a detached start, with the supervisor it may have, after
// ever longer times. Whatever point it had reached, the next command must leave
// either a running container or nothing, and the name must be free again.
func TestKilledStart(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	rootfs, state, data := filepath.Join(dir, "fs"), filepath.Join(dir, "state"), filepath.Join(dir, "data")
	for _, d := range []string{"bin", "proc", "dev", "sys", "run"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		out, err := exec.Command(binary, append([]string{"--state", state, "--data", data}, args...)...).CombinedOutput()
		return string(out), err
	}
	name := fmt.Sprintf("killed-start-%d", os.Getpid())
	defer func() { _, _ = run("rm", "--force", name) }()
	cutOff := 0
	for i := range 30 {
		cmd := exec.Command(binary, "--state", state, "--data", data, "run", "--rootfs", rootfs, "--name", name, "--detach", "--", "/bin/busybox", "sleep", "4321")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // the point of the test, not a wait for a state
		_ = cmd.Process.Kill()
		killSupervisors(t, data)
		_ = cmd.Wait()
		out, err := run("ps")
		if err != nil {
			t.Fatalf("after %d ms: ps: %v\n%s", i*3, err, out)
		}
		if strings.Contains(out, "cut off") {
			cutOff++
		}
		if strings.Contains(out, "could not all be put right") {
			t.Errorf("after %d ms: %s", i*3, out)
		}
		if _, err := os.Stat(filepath.Join(data, "containers", name)); err == nil {
			if out, err := run("rm", "--force", name); err != nil && !strings.Contains(out, "cut off") {
				t.Fatalf("after %d ms: rm: %v\n%s", i*3, err, out)
			}
		}
		if left := leftovers(name, state, data); len(left) > 0 {
			t.Fatalf("after %d ms: left %q", i*3, left)
		}
	}
	if cutOff == 0 {
		t.Error("no start was cut off: the test proves nothing")
	}
	if out, err := run("run", "--rootfs", rootfs, "--name", name, "--", "/bin/busybox", "true"); err != nil {
		t.Errorf("run after all: %v\n%s", err, out)
	}
}

// killSupervisors kills every supervisor of this data directory.
func killSupervisors(t *testing.T, data string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), data+"\x00supervise") {
			var pid int
			if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// leftovers lists what of a container is still on the host.
func leftovers(name, state, data string) []string {
	var left []string
	for _, pattern := range []string{
		"/sys/fs/cgroup/blackstart_" + name + "*", "/sys/fs/cgroup/*/blackstart_" + name + "*",
		state + "/" + name, data + "/containers/" + name, data + "/containers/.gone*",
	} {
		m, _ := filepath.Glob(pattern)
		left = append(left, m...)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, data+"/containers/"+name+"/") {
			left = append(left, line)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, _ := os.ReadFile(p)
		if cmdline := string(b); strings.Contains(cmdline, data) && strings.HasSuffix(cmdline, "\x00"+name+"\x00") {
			left = append(left, p)
		}
	}
	return left
}
