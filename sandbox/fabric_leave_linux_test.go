package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// leftovers lists what fabrics leave: processes of theirs, and links in this
// network namespace.
func leftovers(t *testing.T) []string {
	t.Helper()
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && (string(b) == segmentName+"\x00" || string(b) == initName+"\x00") {
			if st, err := os.ReadFile(filepath.Join(filepath.Dir(p), "status")); err == nil && ownedByTest(string(st)) {
				found = append(found, p)
			}
		}
	}
	links, err := filepath.Glob("/sys/class/net/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := filepath.Base(l); strings.HasPrefix(name, "host") || name == "segment" || strings.HasPrefix(name, "veth") {
			found = append(found, l)
		}
	}
	return found
}

// ownedByTest says that a process belongs to this test's user and is ours: its
// parent, or its parent's, is this process.
func ownedByTest(status string) bool {
	for range 3 {
		var ppid int
		for l := range strings.Lines(status) {
			if v, ok := strings.CutPrefix(l, "PPid:"); ok {
				_, _ = fmt.Sscan(v, &ppid)
			}
		}
		if ppid == os.Getpid() {
			return true
		}
		b, err := os.ReadFile("/proc/" + itoa(ppid) + "/status")
		if err != nil {
			return false
		}
		status = string(b)
	}
	return false
}

func TestFabricsLeaveNothing(t *testing.T) {
	before := leftovers(t)
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for i := range 20 {
		f, err := UpFabric(t.Context(), make([]Options, 3))
		if err != nil {
			t.Fatalf("UpFabric() number %d = %v; want a fabric", i, err)
		}
		if out, code := inside(t, f.Hosts()[i%3], "sh", "-c", "exit 5"); code != 5 {
			t.Fatalf("exit 5 in number %d = %d, %q; want 5", i, code, out)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("Close() of number %d = %v; want nil", i, err)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("a second Close() = %v; want nil", err)
		}
	}
	if after := leftovers(t); len(after) > len(before) {
		t.Errorf("%v are left; want %v", after, before)
	}
	if now, _ := filepath.Glob("/proc/self/fd/*"); len(now) > len(fds)+2 {
		t.Errorf("%d descriptors are open; want %d as before", len(now), len(fds))
	}
}

// TestFabricKilled is also the supervisor that is killed.
func TestFabricKilled(t *testing.T) {
	if os.Getenv("BLACKSTART_TEST_SUPERVISOR") != "" {
		r := NewRecord(nil)
		f, err := UpFabric(t.Context(), []Options{{Record: r}, {Record: r}})
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprint("ready ", f.holder.Process.Pid)
		for _, w := range f.Hosts() {
			p, err := w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & while :; do sleep 1000; done"}})
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprint(" ", w.PID(), " ", p.HostPID())
		}
		fmt.Println(line)
		<-f.Hosts()[0].Gone()
		t.Fatal("the vacuum has ended")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestFabricKilled$")
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_SUPERVISOR=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids [5]int
	n := 0
	for lines := bufio.NewScanner(out); n < len(pids) && lines.Scan(); {
		n, _ = fmt.Sscanf(lines.Text(), "ready %d %d %d %d %d", &pids[0], &pids[1], &pids[2], &pids[3], &pids[4])
		if n < len(pids) {
			t.Log(lines.Text())
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if n != len(pids) {
		t.Fatalf("the supervisor named %d processes; want %d", n, len(pids))
	}
	for _, pid := range pids {
		for deadline := time.Now().Add(time.Minute); !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH); time.Sleep(5 * time.Millisecond) {
			if b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat"); err == nil && strings.Contains(string(b), ") Z ") {
				break // gone but for whoever reaps it
			}
			if time.Now().After(deadline) {
				t.Fatalf("process %d is left of a killed supervisor; want none of %v", pid, pids)
			}
		}
	}
}

func BenchmarkFabricUpAndDown(b *testing.B) {
	for b.Loop() {
		f, err := UpFabric(b.Context(), make([]Options, 3))
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
