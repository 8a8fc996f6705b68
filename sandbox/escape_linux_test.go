package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// suite is what the escape tests share: a directory on the host's root, which a
// vacuum sees through its lower layer, with the programs that try to get out.
type suite struct {
	dir  string // where this user may write
	path string // of the programs
	root bool
}

// TestEscape lets real programs try to get out of a vacuum, as root and as a user
// without any privilege. Listeners on the host see whether anything arrives, and
// the record must have every attempt. So that none of it passes for a wrong
// reason, each attempt is first made outside, where it must arrive.
func TestEscape(t *testing.T) {
	s := suite{dir: os.Getenv("BLACKSTART_TEST_DIR"), path: os.Getenv("BLACKSTART_TEST_PROGRAMS"), root: os.Geteuid() == 0}
	if s.root {
		var err error
		if s.dir, err = os.MkdirTemp("/var/lib", "blackstart-escape-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
		if err := os.Chmod(s.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s.build(t)
	}
	t.Run("inherited", s.inherited)
	t.Run("terminal", s.terminal)
	t.Run("bound", s.bound)
	t.Run("own sockets", s.ownSockets)
	t.Run("served files", s.servedFiles)
	for name, f := range map[string]func(*testing.T){
		"attempts": s.attempts, "incomplete": s.incomplete, "tunnels": s.tunnels, "server names": s.liesOfNames, "smuggling": s.smuggling,
		"descriptors": s.descriptorsSent, "wide": s.wide, "race": s.race, "outage": s.outage, "allowed": s.allowed, "as nobody": s.asNobody,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t) })
	}
}

// asNobody runs all of it as another user, who has no privilege on the host.
func (s suite) asNobody(t *testing.T) {
	if !s.root {
		return
	}
	const id = 65533
	dir := filepath.Join(s.dir, "nobody")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, id, id); err != nil {
		t.Fatal(err)
	}
	args := []string{"--reuid", itoa(id), "--regid", itoa(id), "--clear-groups", "/proc/self/exe", "-test.run", "^TestEscape$"}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args[5] = exe
	if testing.Verbose() {
		args = append(args, "-test.v")
	}
	cmd := exec.Command("setpriv", args...)
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_DIR="+dir, "BLACKSTART_TEST_PROGRAMS="+s.path, "TMPDIR="+dir, "HOME="+dir)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("as another user:\n%s", out)
	}
	if err != nil {
		t.Errorf("as another user: %v", err)
	}
}

// build compiles the programs, side by side.
func (s *suite) build(t *testing.T) {
	t.Helper()
	s.path = filepath.Join(s.dir, "programs")
	if err := os.Mkdir(s.path, 0o755); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	run := func(name string, args ...string) {
		all.Go(func() {
			cmd := exec.Command(name, args...)
			cmd.Dir = filepath.Join("testdata", "escape")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s %q: %v\n%s", name, args, err, out)
			}
		})
	}
	run("gcc", "-O1", "-Wall", "-Werror", "-static", "-o", filepath.Join(s.path, "attempt"), "attempt.c")
	// The kernel's headers are beside those of the other C library.
	run("musl-gcc", "-O1", "-Wall", "-static", "-idirafter", "/usr/include", "-idirafter", "/usr/include/"+multiarch(), "-o", filepath.Join(s.path, "attempt-musl"), "attempt.c")
	run("go", "build", "-tags", "netgo,osusergo", "-o", filepath.Join(s.path, "client"), "client.go")
	scripts, err := filepath.Glob("testdata/escape/*.py")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range scripts {
		b, err := os.ReadFile(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(s.path, filepath.Base(f)), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	b, err := os.ReadFile(filepath.Join(s.path, "attempt"))
	if err == nil {
		err = os.WriteFile(filepath.Join(s.path, "attempt-unreadable"), b, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func multiarch() string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH] + "-linux-gnu"
}

// escape is one attempt: a line for the shell, with $TCP, $UDP, $UNIX, $ABSTRACT
// and $FIFO as what listens outside, and $TOKEN, which must be among the
// arguments of the program that makes it.
type escape struct {
	name, line string
	// control is the listener that the attempt reaches when it is made outside.
	// Empty: it cannot be made there, or would leave the host.
	control string
	says    string // a regular expression; empty: silence, as in an outage
	proto   string // as recorded; empty: refused, says proves it
	verdict Verdict
	root    bool // outside it takes root
}

func (s suite) attempts(t *testing.T) {
	all := slices.Concat(tcpEscapes(), udpEscapes(), rawEscapes(), callEscapes(), socketEscapes(), namespaceEscapes())
	sniff := newSniffer(t, s.root)
	outside := make([]*outside, 2*len(all))
	var ready sync.WaitGroup
	limit := make(chan struct{}, 24)
	for i, e := range all {
		outside[2*i], outside[2*i+1] = s.listen(t, fmt.Sprintf("control%03dx", i)), s.listen(t, fmt.Sprintf("inside%03dx", i))
		if e.control == "" || (e.root && !s.root) {
			continue
		}
		ready.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			o := outside[2*i]
			cmd := exec.Command("sh", "-c", e.line)
			cmd.Env = append(os.Environ(), o.env...)
			out, _ := cmd.CombinedOutput()
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				if o.contacts()[e.control] > 0 || (e.control == "sniffer" && sniff.saw(o.token)) {
					return
				}
				if time.Now().After(deadline) {
					t.Errorf("%s: outside of a vacuum it reached %v; want %s, or the test proves nothing. It says %s", e.name, o.contacts(), e.control, out)
					return
				}
			}
		})
	}
	ready.Wait()

	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	for i, e := range all {
		ready.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			out := s.attempt(t, w, e.line, outside[2*i+1])
			says := e.says
			if says == "" {
				says = "^silent$"
			}
			if !regexp.MustCompile(says).MatchString(out) {
				t.Errorf("%s: it says %q; want %s", e.name, out, says)
			}
		})
	}
	ready.Wait()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	recorded := r.Attempts()
	for i, e := range all {
		o := outside[2*i+1]
		if got := o.contacts(); len(got) > 0 || sniff.saw(o.token) {
			t.Errorf("%s: it reached %v of the host; want nothing", e.name, got)
		}
		e.inRecord(t, recorded, o.token)
	}
}

// inRecord looks for the attempt in the record.
func (e escape) inRecord(t *testing.T, all []Attempt, token string) {
	t.Helper()
	want := e.verdict
	if want == "" {
		want = Blocked
	}
	found := e.proto == ""
	var lines []string
	for _, a := range all {
		if !strings.Contains(strings.Join(a.Command, " "), token) {
			continue
		}
		lines = append(lines, fmt.Sprint(a.Verdict, " ", a.Proto, " ", a.Destination, " ", a.Outcome, " ", a.Sources))
		if a.Verdict == Allowed {
			t.Errorf("%s: recorded as allowed: %+v", e.name, a)
		}
		found = found || (a.Proto == e.proto && a.Verdict == want)
	}
	if !found {
		t.Errorf("%s: the record has %q of it; want %s %s", e.name, lines, want, e.proto)
	}
}

// attempt runs one line in a vacuum.
func (s suite) attempt(t *testing.T, w *World, line string, o *outside) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	p, err := w.Spawn(ctx, Cmd{Args: []string{"sh", "-c", line}, Env: append(os.Environ(), o.env...), Stdout: &out, Stderr: &out})
	if err != nil {
		t.Errorf("Spawn(%q) = %v; want a process", line, err)
		return ""
	}
	if _, err := p.Wait(); err != nil {
		t.Errorf("Wait() = %v; want an exit code of %q", err, line)
	}
	return strings.TrimSpace(out.String())
}

// incomplete attempts deceive, or hide from, one of the record's sources: the
// comparison with the other says so, or the one itself.
func (s suite) incomplete(t *testing.T) {
	all := []struct {
		escape
		why   string
		binds []string
	}{
		{escape{name: "raw header that goes elsewhere", line: "attempt raw-lies 127.0.0.1 $UDP $TOKEN", control: "udp", root: true}, "came from no system call", nil},
		{escape{name: "source route", line: "attempt udp-route 127.9.9.9 $UDP $TOKEN"}, "came from no system call", nil},
	}
	if !s.root {
		// Nobody may look into a program that only others may read. Through a layer
		// it cannot even be run.
		all = append(all, all[0])
		all[2].escape, all[2].why = escape{name: "unreadable program", line: "attempt-unreadable tcp 127.0.0.1 $TCP $TOKEN", control: "tcp"}, "reading what call"
		all[2].binds = []string{filepath.Join(s.path, "attempt-unreadable")}
	}
	for i, e := range all {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			if e.control != "" && (s.root || !e.root) {
				o := s.listen(t, "insincere"+itoa(i))
				if out := run(e.line, o); !o.reached(e.control) {
					t.Errorf("outside of a vacuum it reached %v; want %s. It says %s", o.contacts(), e.control, out)
				}
			}
			o := s.listen(t, "incomplete"+itoa(i))
			r := NewRecord(nil)
			w := up(t, Options{Record: r, Binds: e.binds})
			if out := s.attempt(t, w, e.line, o); out != "silent" {
				t.Errorf("it says %q; want silence", out)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if got := o.contacts(); len(got) > 0 {
				t.Errorf("it reached %v of the host; want nothing", got)
			}
			if err := r.Complete(); err == nil || !strings.Contains(err.Error(), e.why) {
				t.Errorf("Complete() = %v; want one that says %q. The record is\n%s", err, e.why, recordLines(r))
			}
		})
	}
}

// An address that changes while it is looked at is seen in the packets.
func (s suite) race(t *testing.T) {
	o := s.listen(t, "race")
	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	if out := s.attempt(t, w, "attempt race 10.0.0.1 443 $TOKEN", o); out != "silent" {
		t.Errorf("it says %q; want silence", out)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, a := range r.Attempts() {
		if a.Proto == "tcp" && a.Verdict != Allowed {
			count[a.Destination] += a.Count
		}
	}
	if one, other := count["10.0.0.1:443"], count["10.0.0.99:443"]; one == 0 || other == 0 || one+other < 300 {
		t.Errorf("300 attempts at either of two addresses are recorded as %d and %d: %v\n%s", one, other, r.Complete(), recordLines(r))
	}
}
