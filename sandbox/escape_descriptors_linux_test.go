package sandbox

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the supervisor has open, on purpose or not, is not open inside.
func (s suite) inherited(t *testing.T) {
	control, o := s.listen(t, "fdcontrol"), s.listen(t, "inherited")
	// left opens what a careless program would leave open: a connection, a
	// directory, a network namespace, an unsent unix socket.
	left := func(o *outside) (fds []int) {
		c, err := net.Dial("tcp", "127.0.0.1:"+tcpPort(o))
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.(*net.TCPConn).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(); _ = f.Close() })
		keep := func(fd int, err error) {
			if err == nil {
				_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		keep(unix.Dup(int(f.Fd())))
		keep(unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0))
		keep(unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0))
		keep(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0))
		return fds
	}
	const line = "attempt descriptors 0 0 $TOKEN"
	fds := left(control)
	if out := run(line, control); !strings.Contains(out, "is socket:") || !strings.Contains(out, "is net:") || !strings.Contains(out, "is /\n") {
		t.Errorf("outside of a vacuum it says %q; want a socket, a namespace and a directory, or the test proves nothing", out)
	}
	closeAll(fds)
	fds = left(o)
	defer closeAll(fds)
	w := up(t, Options{})
	if out := s.attempt(t, w, line, o); out != "no descriptors" {
		t.Errorf("it says %q; want no descriptors", out)
	}
	// A socket given as a stream is copied: the program cannot ask it for its
	// network, nor connect it elsewhere.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	var out bytes.Buffer
	p, err := w.Spawn(t.Context(), Cmd{Args: []string{filepath.Join(s.path, "attempt"), "descriptors", "0", "0", o.token}, Stdin: theirs, Stdout: &out, Stderr: theirs})
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil || strings.TrimSpace(out.String()) != "no descriptors" {
		t.Errorf("with a socket as its input it says %q, %v; want no descriptors", out.String(), err)
	}
	_ = theirs.Close()
}

// A terminal of the host is handed over as it is; what a program inside pushes
// into it is not what its user has typed.
func (s suite) terminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	// The session that the terminal belongs to.
	shell := exec.Command("sleep", "60")
	shell.Stdin = slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = shell.Process.Kill(); _ = shell.Wait() }()
	var out bytes.Buffer
	w := up(t, Options{})
	p, err := w.Spawn(t.Context(), Cmd{Args: []string{"python3", filepath.Join(s.path, "push.py"), "typed"}, Stdin: slave, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); code != 0 || err != nil {
		t.Errorf("Wait() = %d, %v; want 0: %s", code, err, out.String())
	}
	if got := waiting(t, slave); got != 0 || strings.Contains(out.String(), "pushed") || strings.Contains(out.String(), "controls") {
		t.Errorf("%d characters are in the terminal's queue, and the program says %q; want none", got, out.String())
	}
	if !s.root {
		return // who may push into another session's terminal is the root of the host
	}
	got, err := func() ([]byte, error) {
		cmd := exec.Command("python3", filepath.Join(s.path, "push.py"), "typed")
		cmd.Stdin = slave
		return cmd.CombinedOutput()
	}()
	if waiting(t, slave) == 0 {
		t.Errorf("outside of a vacuum nothing was pushed: %s, %v; want something, or the test proves nothing", got, err)
	}
}

// waiting counts the characters that a reader of the terminal would get.
func waiting(t *testing.T, f *os.File) int {
	t.Helper()
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCINQ)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A directory that is bound in brings its sockets along. Who connects to one has
// reached the host, whatever path or mount it took, and the record says so.
func (s suite) bound(t *testing.T) {
	o := s.listen(t, "bound")
	dir := filepath.Join(s.dir, "bound")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "host.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	go o.accept("bound", l)
	defer l.Close()
	r := NewRecord(nil)
	w := up(t, Options{Record: r, Binds: []string{dir}})
	for i, line := range []string{
		"attempt unix %s 0 $TOKEN-0",
		"cd ${1%%/*} && attempt unix ./host.sock 0 $TOKEN-1",
		"attempt unix /proc/self/root%s 0 $TOKEN-2",
		"exec 9<${1%%/*}; attempt unix /proc/self/fd/9/host.sock 0 $TOKEN-3",
		"cd ${1%%/*}; attempt unix /proc/self/cwd/host.sock 0 $TOKEN-4",
		"unshare -Urm sh -c 'mount --rbind '${1%%/*}' /mnt && attempt unix /mnt/host.sock 0 $TOKEN-5'",
		"ln -s %s /tmp/link; attempt unix /tmp/link 0 $TOKEN-6",
		"ln -s ${1%%/*} /tmp/dir; attempt unix /tmp/dir/host.sock 0 $TOKEN-7",
		// Behind a socket inside that has its name.
		"cd /run; python3 -c 'import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(\"host.sock\"); os.system(\"attempt unix %s 0 $TOKEN-8\")'",
	} {
		if strings.Contains(line, "%s") {
			line = fmt.Sprintf(line, path)
		} else {
			line = "set -- " + path + "; " + strings.ReplaceAll(line, "%%", "%")
		}
		before := o.contacts()["bound"]
		if out := s.attempt(t, w, line, o); out != "answer reached" {
			t.Errorf("%s: it says %q; want an answer of the host", line, out)
		}
		for deadline := time.Now().Add(time.Second); o.contacts()["bound"] == before && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		if o.contacts()["bound"] == before {
			t.Errorf("%s: the host's socket was not reached", line)
		}
		found := false
		for _, a := range r.Attempts() {
			if strings.Contains(strings.Join(a.Command, " "), fmt.Sprintf("bound-%d", i)) {
				found = true
				if a.Verdict != Allowed || a.Proto != protoUnix {
					t.Errorf("%s: recorded %s %s %s %s; want it allowed", line, a.Verdict, a.Proto, a.Destination, a.Outcome)
				}
			}
		}
		if !found {
			t.Errorf("%s is not in the record", line)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
}

// A socket that a program inside has bound is inside, by whatever name another
// one reaches it.
func (s suite) ownSockets(t *testing.T) {
	o := s.listen(t, "own")
	r := NewRecord(nil)
	w := up(t, Options{Record: r})
	const server = `cd /run; python3 -c 'import socket, threading
def serve(p):
    l = socket.socket(socket.AF_UNIX); l.bind(p); l.listen()
    while True: c = l.accept()[0]; c.recv(99); c.send(b"inside")
for p in ("/run/full.sock", "near.sock", "./dot.sock"): threading.Thread(target=serve, args=(p,), daemon=True).start()
import os, sys, time
while not all(os.path.exists(p) for p in ("full.sock", "near.sock", "dot.sock")): time.sleep(0.01)
for p in sys.argv[2:]: os.system("attempt unix %s 0 %s" % (p, sys.argv[1]))' $TOKEN `
	paths := []string{"/run/full.sock", "full.sock", "/var/run/full.sock", "/proc/self/cwd/full.sock", "/proc/self/root/run/near.sock", "/run/near.sock", "../run/./dot.sock"}
	out := s.attempt(t, w, server+strings.Join(paths, " "), o)
	if want := strings.TrimSpace(strings.Repeat("answer inside\n", len(paths))); out != want {
		t.Errorf("it says %q; want %q", out, want)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, a := range r.Attempts() {
		if a.Proto == protoUnix && strings.HasSuffix(a.Destination, ".sock") {
			count += a.Count
			if a.Verdict != Inside {
				t.Errorf("recorded %s %s %s; want it inside", a.Verdict, a.Destination, a.Outcome)
			}
		}
	}
	if count != len(paths) {
		t.Errorf("%d connections are recorded; want %d:\n%s", count, len(paths), recordLines(r))
	}
}
