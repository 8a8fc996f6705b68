package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// points is over how many moments of a command its kills are spread.
const points = 15

// crashSite is a state and data directory of a test's own, and an image.
type crashSite struct {
	t                *testing.T
	dir, state, data string
	name             string
}

func newCrashSite(t *testing.T, name string) *crashSite {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	s := &crashSite{
		t: t, dir: dir, state: filepath.Join(dir, "state"), data: filepath.Join(dir, "data"),
		name: fmt.Sprintf("%s-%d", name, os.Getpid()),
	}
	rootfs := filepath.Join(dir, "rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys", "run", "many"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	s.write("rootfs/bin/busybox", busybox)
	t.Cleanup(func() {
		_, _ = s.run("rm", "--force", s.name)
	})
	return s
}

func (s *crashSite) write(name string, data []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o755); err != nil { //nolint:gosec // programs
		s.t.Fatal(err)
	}
}

func (s *crashSite) command(args ...string) *exec.Cmd {
	return exec.Command(binary, append([]string{"--state", s.state, "--data", s.data}, args...)...)
}

func (s *crashSite) run(args ...string) (string, error) {
	out, err := s.command(args...).CombinedOutput()
	return string(out), err
}

func (s *crashSite) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("blackstart %q: %v\n%s", args, err, out)
	}
	return out
}

// detached starts the container, whose program ignores SIGTERM, from the root
// directory below a writable layer.
func (s *crashSite) detached() {
	s.t.Helper()
	spec := fmt.Sprintf("name: %s\nlayers: [%s]\nargs: [/bin/busybox, sleep, '4321']\n", s.name, filepath.Join(s.dir, "rootfs"))
	s.write("spec.yaml", []byte(spec))
	s.must("run", "--spec", filepath.Join(s.dir, "spec.yaml"), "--detach")
}

// cut runs a command and kills it as soon as when returns, if it still runs, with
// the supervisor too if that is asked for. It says whether it was killed.
func (s *crashSite) cut(when func(done <-chan struct{}), supervisor bool, args ...string) bool {
	s.t.Helper()
	cmd := s.command(args...)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	when(done)
	_ = cmd.Process.Kill()
	if supervisor {
		killSupervisors(s.t, s.data)
	}
	<-done
	return !cmd.ProcessState.Exited()
}

func after(d time.Duration) func(<-chan struct{}) {
	return func(done <-chan struct{}) {
		select {
		case <-time.After(d): // the point of the test, not a wait for a state
		case <-done:
		}
	}
}

// takes is how long a command takes at best when nobody kills it. Each time
// prepare comes before it.
func (s *crashSite) takes(prepare func(), args ...string) time.Duration {
	s.t.Helper()
	best := time.Hour
	for range 3 {
		prepare()
		began := time.Now()
		s.must(args...)
		best = min(best, time.Since(began))
		s.clean("whole")
	}
	return best
}

// swept runs the next command, which must put everything right.
func (s *crashSite) swept(when string) string {
	s.t.Helper()
	out := s.must("ps")
	if strings.Contains(out, "could not all be put right") {
		s.t.Errorf("%s: ps: %s", when, out)
	}
	return out
}

// clean removes the container if it is still there, and looks for what is left.
func (s *crashSite) clean(when string) {
	s.t.Helper()
	if _, err := os.Stat(filepath.Join(s.data, "containers", s.name)); err == nil {
		s.must("rm", "--force", s.name)
	}
	left := leftovers(s.name, s.state, s.data)
	mounts, _ := os.ReadFile("/proc/thread-self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+s.dir+"/") {
			left = append(left, line)
		}
	}
	if len(left) > 0 {
		s.t.Fatalf("%s: left %q", when, left)
	}
}

// TestKilledStop kills a stop at points spread over all of it, every other time
// with the supervisor. The container is then still running or has ended, and the
// next stop ends it.
func TestKilledStop(t *testing.T) {
	t.Parallel()
	s := newCrashSite(t, "killed-stop")
	whole := s.takes(s.detached, "stop", "--timeout", "60ms", s.name)
	killed := 0
	for i := range points {
		when := fmt.Sprintf("point %d of %d", i, points)
		s.detached()
		if s.cut(after(whole*time.Duration(i)/points), i%2 == 1, "stop", "--timeout", "60ms", s.name) {
			killed++
		}
		out := s.swept(when)
		if !strings.Contains(out, s.name) {
			t.Errorf("%s: ps: %s; want %s in it", when, out, s.name)
		}
		s.must("stop", "--timeout", "10ms", s.name)
		if out := s.must("ps"); !strings.Contains(out, "exited") {
			t.Errorf("%s: ps after the next stop: %s; want it exited", when, out)
		}
		for _, at := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			if groups, _ := filepath.Glob(at + "blackstart_" + s.name); len(groups) > 0 {
				t.Errorf("%s: the cgroups %q of an ended container", when, groups)
			}
		}
		s.clean(when)
	}
	if killed < points/3 {
		t.Errorf("%d of %d stops were killed: the test proves little", killed, points)
	}
}

// TestKilledRemoval kills an rm --force at points spread over all of it, and one
// just when it has begun to undo things. The next command finishes the removal.
func TestKilledRemoval(t *testing.T) {
	t.Parallel()
	s := newCrashSite(t, "killed-rm")
	filled := func() { // the writable layer takes a while to remove
		s.t.Helper()
		s.detached()
		s.must("exec", s.name, "--", "/bin/busybox", "sh", "-c", "cd /many; i=0; while [ $i -lt 1500 ]; do : >$i; i=$((i+1)); done")
	}
	whole := s.takes(filled, "rm", "--force", s.name)
	killed, finished := 0, 0
	// The point inside is met only sometimes, so it is tried until it was.
	for i := 0; i <= points || finished == 0 && i < 4*points; i++ {
		when := fmt.Sprintf("point %d of %d", i, points)
		filled()
		moment := after(whole * time.Duration(i) / points)
		if i >= points {
			moment = func(done <-chan struct{}) {
				for {
					b, err := os.ReadFile(filepath.Join(s.data, "containers", s.name, "record.json"))
					if err != nil || strings.Contains(string(b), `"removing"`) {
						return
					}
					select {
					case <-done:
						return
					default:
					}
				}
			}
		}
		if s.cut(moment, i%2 == 1 && i < points, "rm", "--force", s.name) {
			killed++
		}
		out := s.swept(when)
		if strings.Contains(out, s.name+": its removal was cut off; it has been finished") {
			finished++
			if _, err := os.Stat(filepath.Join(s.data, "containers", s.name)); err == nil {
				t.Errorf("%s: ps says that the removal has been finished, and the container is there", when)
			}
		}
		if gone, _ := filepath.Glob(filepath.Join(s.data, "containers", ".gone*")); len(gone) > 0 {
			t.Errorf("%s: left %q", when, gone)
		}
		s.clean(when)
	}
	if killed < points/3 || finished == 0 {
		t.Errorf("%d of %d removals were killed, %d were finished by the next command: the test proves little", killed, points, finished)
	}
}

// TestKilledUnpack kills a run of an image at points spread over unpacking it.
// Afterwards no layer is there by half, the next command says what it removed, and
// the image runs.
func TestKilledUnpack(t *testing.T) {
	t.Parallel()
	s := newCrashSite(t, "killed-unpack")
	s.image()
	run := []string{"run", "--image", "oci:" + filepath.Join(s.dir, "image"), "--name", s.name, "--", "/bin/busybox", "cat", "/token"}
	whole := s.takes(func() { s.must("rm", "--layers") }, run...)
	layers := filepath.Join(s.data, "layers")
	want, _ := filepath.Glob(filepath.Join(layers, "sha256-*"))
	if len(want) != 3 {
		t.Fatalf("unpacked layers %q; want three", want)
	}
	s.must("rm", "--layers")
	killed, undone, halves := 0, 0, 0
	for i := range points {
		when := fmt.Sprintf("point %d of %d", i, points)
		if s.cut(after(whole*time.Duration(i)/points), false, run...) {
			killed++
		}
		if strings.Contains(s.swept(when), s.name+": its start was cut off; what it left has been removed") {
			undone++
		}
		s.clean(when)
		half, _ := filepath.Glob(filepath.Join(layers, "*.tmp"))
		out := s.must(run...)
		if !strings.Contains(out, "the token of 3") {
			t.Errorf("%s: the next run: %s; want the token of 3", when, out)
		}
		if said := strings.Count(out, "removed the half-made layer"); said != len(half) {
			t.Errorf("%s: the next run speaks of %d half-made layers; want %d:\n%s", when, said, len(half), out)
		}
		halves += len(half)
		if got, _ := filepath.Glob(filepath.Join(layers, "*")); len(got) != len(want)+1 { // and the lock
			t.Errorf("%s: in the store after the next run: %q; want only %q", when, got, want)
		}
		s.clean(when)
		s.must("rm", "--layers")
		if got, _ := filepath.Glob(filepath.Join(layers, "sha256-*")); len(got) > 0 {
			t.Errorf("%s: left after rm --layers: %q", when, got)
		}
	}
	if killed < points/3 || undone == 0 || halves == 0 {
		t.Errorf("%d of %d runs were killed, %d undone, with %d half-made layers: the test proves little", killed, points, undone, halves)
	}
}

// TestRunBesideOthers runs containers in the foreground while other commands, each
// of which looks for what is left over, come and go. Neither disturbs the other.
func TestRunBesideOthers(t *testing.T) {
	t.Parallel()
	s := newCrashSite(t, "beside")
	s.write("spec.yaml", fmt.Appendf(nil, "name: %s\nlayers: [%s]\nargs: [/bin/busybox, 'true']\n", s.name, filepath.Join(s.dir, "rootfs")))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if out, err := s.run("ps"); err != nil || strings.Contains(out, "blackstart:") {
				t.Errorf("ps beside a run: %v\n%s", err, out)
				return
			}
		}
	}()
	for range 60 {
		if out, err := s.run("run", "--spec", filepath.Join(s.dir, "spec.yaml")); err != nil || out != "" {
			t.Errorf("run beside ps: %v\n%s", err, out)
			break
		}
	}
	close(stop)
	<-done
	s.clean("afterwards")
}

// image makes an OCI layout with three layers that take some time to unpack.
func (s *crashSite) image() {
	s.t.Helper()
	rng := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 6<<20)
	layout := filepath.Join(s.dir, "image")
	s.tool("umoci", "init", "--layout", layout)
	s.tool("umoci", "new", "--image", layout+":one")
	for i := range 3 {
		bundle := filepath.Join(s.dir, fmt.Sprintf("bundle%d", i))
		s.tool("umoci", "unpack", "--image", layout+":one", bundle)
		if i == 0 {
			s.tool("cp", "-a", filepath.Join(s.dir, "rootfs")+"/.", filepath.Join(bundle, "rootfs"))
		}
		_, _ = rng.Read(noise)
		for j := range 200 {
			part := noise[j*len(noise)/200 : (j+1)*len(noise)/200]
			s.write(fmt.Sprintf("bundle%d/rootfs/many/%d-%d", i, i, j), part)
		}
		s.write(fmt.Sprintf("bundle%d/rootfs/token", i), fmt.Appendf(nil, "the token of %d\n", i+1))
		s.tool("umoci", "repack", "--image", layout+":one", bundle)
	}
}

func (s *crashSite) tool(name string, args ...string) {
	s.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
