package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestManyAtOnce starts a hundred vacuums at the same time, each with a program
// that tries something, and looks at what they take.
func TestManyAtOnce(t *testing.T) {
	const n, most = 100, 20 << 10 // kB
	var wg sync.WaitGroup
	worlds := make([]*World, n)
	for i := range n {
		wg.Go(func() {
			w, err := Up(t.Context(), Options{Host: i, Record: NewRecord(nil)})
			if err != nil {
				t.Errorf("Up() of vacuum %d = %v; want nil", i, err)
				return
			}
			worlds[i] = w
			p, err := w.Spawn(t.Context(), Cmd{Args: []string{"bash", "-c", fmt.Sprintf("echo >/dev/udp/10.0.0.%d/9; exit %[1]d", i)}})
			if err != nil {
				t.Errorf("Spawn() in vacuum %d = %v; want nil", i, err)
				return
			}
			if code, err := p.Wait(); code != i || err != nil {
				t.Errorf("Wait() in vacuum %d = %d, %v; want %d", i, code, err, i)
			}
		})
	}
	wg.Wait()
	ours, theirs := own(t, os.Getpid()), 0
	seen := map[string]bool{}
	for _, w := range worlds {
		if w == nil {
			continue
		}
		ns, err := os.Readlink("/proc/" + itoa(w.PID()) + "/ns/net")
		if err != nil || seen[ns] {
			t.Errorf("network namespace %q, %v; want one of its own", ns, err)
		}
		seen[ns] = true
		theirs += own(t, w.PID())
	}
	t.Logf("each vacuum takes %d kB and its part of the supervisor %d, beside the program's text", theirs/n, ours/n)
	b, _ := debug.ReadBuildInfo()
	if (ours+theirs)/n > most && !slices.Contains(b.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) { // which has its own
		t.Errorf("that is more than %d kB together", most)
	}
	for i, w := range worlds {
		wg.Go(func() {
			if w == nil {
				return
			}
			if err := w.Close(); err != nil {
				t.Errorf("Close() = %v; want nil", err)
			}
			if err := syscall.Kill(w.PID(), 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("process %d after Close(): %v; want none", w.PID(), err)
			}
			r := w.options.Record
			if err := r.Complete(); err != nil {
				t.Errorf("Complete() of vacuum %d = %v; want nil", i, err)
			}
			want := fmt.Sprintf("10.0.0.%d:9", i)
			got := slices.DeleteFunc(r.Attempts(), func(a Attempt) bool { return a.Proto != "udp" })
			if len(got) != 1 || got[0].Destination != want || got[0].Verdict != Blocked || got[0].Count != 1 {
				t.Errorf("vacuum %d recorded %+v; want one blocked attempt at %s", i, got, want)
			}
		})
	}
	wg.Wait()
}

// own is the memory of a process beside what it shares with the file it was
// started from, in kB.
func own(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(l, "RssAnon:"); ok {
			kb, err := strconv.Atoi(strings.Fields(v)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb
		}
	}
	t.Fatalf("process %d has no memory", pid)
	return 0
}

// TestKilledSupervisor is also the supervisor that is killed.
func TestKilledSupervisor(t *testing.T) {
	if os.Getenv("BLACKSTART_TEST_SUPERVISOR") != "" {
		o := Options{Record: NewRecord(nil)}
		if os.Geteuid() == 0 {
			o.Memory = 256 << 20
		}
		w, err := Up(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		// One that ignores what can be ignored, and one in a session of its own.
		p, err := w.Spawn(t.Context(), Cmd{Args: []string{"sh", "-c", "trap '' HUP TERM; setsid sleep 1000 & while :; do sleep 1000; done"}})
		if err != nil {
			t.Fatal(err)
		}
		net, err := os.Readlink("/proc/" + itoa(w.PID()) + "/ns/net")
		fmt.Println("ready", w.PID(), p.HostPID(), net, err)
		_, _ = p.Wait()
		t.Fatal("the command has ended")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilledSupervisor$")
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_SUPERVISOR=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var first, command int
	var net string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), "ready %d %d %s", &first, &command, &net); n == 3 {
			break
		}
		t.Log(lines.Text())
	}
	if first == 0 || command == 0 {
		_ = cmd.Process.Kill()
		t.Fatalf("the supervisor said nothing: %v", cmd.Wait())
	}
	for deadline := time.Now().Add(time.Minute); len(inNamespace(t, net)) < 4; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v in the vacuum; want the first, a shell and two sleeps", inNamespace(t, net))
		}
	}
	if os.Geteuid() == 0 && len(cgroupsOf(cmd.Process.Pid)) == 0 {
		t.Error("the vacuum has no cgroup; want one, for the next command to remove")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for deadline := time.Now().Add(time.Minute); ; {
		left := inNamespace(t, net)
		if len(left) == 0 && errors.Is(syscall.Kill(first, 0), syscall.ESRCH) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v are left of a killed supervisor; want none", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/upper0") || strings.Contains(string(mounts), "userxattr") {
		t.Errorf("mounts of a vacuum are left: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	// Another command on this host may sweep as well, and be quicker.
	if removed, err := Sweep(); err != nil {
		t.Errorf("Sweep() = %v, %v; want nil", removed, err)
	}
	if left := cgroupsOf(cmd.Process.Pid); len(left) != 0 {
		t.Errorf("%v are left after Sweep(); want none", left)
	}
}

// inNamespace lists the processes in a network namespace.
func inNamespace(t *testing.T, ns string) []string {
	t.Helper()
	var found []string
	procs, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if got, err := os.Readlink(p); err == nil && got == ns {
			found = append(found, p)
		}
	}
	return found
}

func TestLimits(t *testing.T) {
	if os.Geteuid() != 0 {
		if _, err := Up(t.Context(), Options{Memory: 64 << 20}); !errors.Is(err, ErrUnresolved) {
			t.Errorf("Up() with a limit that this user cannot set = %v; want %v", err, ErrUnresolved)
		}
		return
	}
	w := up(t, Options{Memory: 64 << 20, CPUs: 0.5})
	out, code := inside(t, w, "python3", "-c", "b = bytearray(200 << 20)")
	if code != 137 {
		t.Errorf("using 200 MiB of 64 = %d, %q; want 137", code, out)
	}
	// A vacuum that lives is not swept. What others left may be.
	live := cgroupsOf(os.Getpid())
	if removed, err := Sweep(); err != nil {
		t.Errorf("Sweep() = %v, %v; want nil", removed, err)
	}
	if now := cgroupsOf(os.Getpid()); len(live) == 0 || !slices.Equal(now, live) {
		t.Errorf("the cgroups of a vacuum that lives are %v after Sweep(), before %v; want the same, and some", now, live)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if left := cgroupsOf(os.Getpid()); len(left) != 0 {
		t.Errorf("%v are left; want none", left)
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*/" + cgroupParent)
	for _, d := range append(parents, "/sys/fs/cgroup/"+cgroupParent) {
		// Whoever has a vacuum now needs it, and removes it a moment after the last.
		for deadline := time.Now().Add(time.Minute); emptyCgroup(d); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s is left, with nothing in it; want none", d)
			}
		}
	}
}

// emptyCgroup says that a cgroup is there and has none below it.
func emptyCgroup(dir string) bool {
	in, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(in, fs.DirEntry.IsDir)
}

// cgroupsOf are the cgroups of the vacuums that a process supervises, in every
// hierarchy.
func cgroupsOf(supervisor int) []string {
	name := cgroupParent + "/" + itoa(supervisor) + ".*"
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	v2, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	return append(v1, v2...)
}

// TestSweepGoesOn removes what can be removed beside a cgroup that is in use.
func TestSweepGoesOn(t *testing.T) {
	if os.Geteuid() != 0 {
		return // who made no cgroup has none to remove
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(hierarchies) == 0 {
		hierarchies = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	parent := filepath.Join(filepath.Dir(hierarchies[0]), cgroupParent)
	inUse, free := filepath.Join(parent, itoa(dead.Process.Pid)+".1.A"), filepath.Join(parent, itoa(dead.Process.Pid)+".1.B")
	if err := os.MkdirAll(inUse, 0o755); err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { _, _ = sleeper.Process.Kill(), sleeper.Wait() })
	t.Cleanup(end)
	if err := os.WriteFile(filepath.Join(inUse, "cgroup.procs"), []byte(itoa(sleeper.Process.Pid)), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; { // another command that sweeps may be quicker, now and then
		if err := os.Mkdir(free, 0o755); err != nil {
			t.Fatal(err)
		}
		removed, err := Sweep()
		if slices.Contains(removed, inUse) || err == nil || !strings.Contains(err.Error(), inUse) {
			t.Errorf("Sweep() = %v, %v; want an error about %s", removed, err, inUse)
		}
		if _, err := os.Stat(free); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s after Sweep(): %v; want it gone", free, err)
		}
		if slices.Contains(removed, free) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Sweep() = %v; want %s among what it removed", removed, free)
		}
	}
	end()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		_, err := Sweep()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Sweep() = %v; want nil when nobody is in the cgroup", err)
		}
	}
	if _, err := os.Stat(inUse); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after Sweep(): %v; want it gone", inUse, err)
	}
}

func BenchmarkUpAndDown(b *testing.B) {
	for _, record := range []bool{false, true} {
		b.Run(fmt.Sprintf("record=%v", record), func(b *testing.B) {
			for b.Loop() {
				o := Options{}
				if record {
					o.Record = NewRecord(nil)
				}
				w, err := Up(b.Context(), o)
				if err != nil {
					b.Fatal(err)
				}
				p, err := w.Spawn(b.Context(), Cmd{Args: []string{"/bin/true"}})
				if err != nil {
					b.Fatal(err)
				}
				if code, err := p.Wait(); code != 0 || err != nil {
					b.Fatalf("Wait() = %d, %v; want 0", code, err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
