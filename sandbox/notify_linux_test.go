package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startWatched makes a thread whose programs are watched, and not confined.
func startWatched() (t *startingThread, listener int, err error) {
	t, err = startThread(func() (err error) {
		listener, err = installNotify()
		return err
	})
	return t, listener, err
}

// underWatch runs a command in a network namespace of its own, under the
// filter, and returns its output and every observation.
func underWatch(t *testing.T, cmd *exec.Cmd) (string, []Attempt) {
	t.Helper()
	thread, fd, err := startWatched()
	if err != nil {
		t.Fatalf("startWatched() = %v; want a thread", err)
	}
	var mu sync.Mutex
	var seen []Attempt
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- watch(ctx, fd, func(a Attempt) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, a)
		})
	}()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	var startErr error
	thread.do(func() { startErr = cmd.Start() })
	if startErr != nil {
		t.Fatal(startErr)
	}
	err = cmd.Wait()
	thread.close()
	if e := <-done; e != nil {
		t.Errorf("watch() = %v; want nil when the last process is gone", e)
	}
	if err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Errorf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	return out.String(), seen
}

func lines(seen []Attempt) string {
	var b strings.Builder
	for _, a := range seen {
		fmt.Fprintf(&b, "%s %s %s %s\n", a.Proto, a.Destination, a.Verdict, filepath.Base(a.Executable))
	}
	return b.String()
}

func wantLine(t *testing.T, out string, seen []Attempt, proto, dest string) Attempt {
	t.Helper()
	for _, a := range seen {
		if a.Proto == proto && a.Destination == dest {
			return a
		}
	}
	t.Errorf("no %s to %s among:\n%soutput: %s", proto, dest, lines(seen), out)
	return Attempt{}
}

func TestWatchPython(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "host.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := `
import socket, threading, ctypes, os, struct
def t(f, *a):
    try: f(*a)
    except OSError: pass
def s(family, kind, proto=0):
    x = socket.socket(family, kind, proto); x.setblocking(False); return x
I4, I6, U = socket.AF_INET, socket.AF_INET6, socket.AF_UNIX
ST, DG, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
t(s(I4, ST).connect, ("10.0.0.1", 443))
t(s(I4, ST).connect, ("0.0.0.0", 81))
t(s(I6, ST).connect, ("2001:db8::1", 443))
t(s(I6, ST).connect, ("::ffff:10.0.0.2", 80))
t(s(I4, DG).sendto, b"x", ("10.0.0.3", 53))
t(s(I4, DG).sendmsg, [b"x"], [], 0, ("10.0.0.4", 54))
t(s(I4, ST).sendto, b"x", 0x20000000, ("10.0.0.5", 85))  # MSG_FASTOPEN
t(s(I4, RAW, 1).sendto, b"x"*8, ("10.0.0.6", 0))
t(s(I4, RAW, 255).sendto, b"x"*40, ("10.0.0.7", 0))
t(s(U, ST).connect, "/run/nothing.sock")
os.chdir("DIR")
t(s(U, ST).connect, "host.sock")
t(s(U, ST).connect, "\0gone")
t(s(U, DG).sendto, b"x", "/dev/nolog")
t(socket.socket, socket.AF_VSOCK, ST)
t(s(17, RAW, 3).send, b"x")
th = threading.Thread(target=lambda: t(s(I4, ST).connect, ("10.0.0.8", 88))); th.start(); th.join()
# sendmmsg with two destinations
libc = ctypes.CDLL(None, use_errno=True)
def name(ip, port): return ctypes.create_string_buffer(struct.pack("=HH4s8x", 2, socket.htons(port), socket.inet_aton(ip)), 16)
names = [name("10.0.0.9", 91), name("10.0.0.10", 92)]
iov_data = ctypes.create_string_buffer(b"hello")
iov = ctypes.create_string_buffer(struct.pack("=QQ", ctypes.addressof(iov_data), 5), 16)
m = b"".join(struct.pack("=QI4xQQQQi4xI4x", ctypes.addressof(n), 16, ctypes.addressof(iov), 1, 0, 0, 0, 0) for n in names)
msgs = ctypes.create_string_buffer(m, len(m))
d = s(I4, DG)
libc.sendmmsg(d.fileno(), msgs, 2, 0)
# an address of no family is IPv4 to a datagram socket
un = ctypes.create_string_buffer(struct.pack("=HH4s8x", 0, socket.htons(96), socket.inet_aton("10.0.0.11")), 16)
libc.sendto(d.fileno(), b"x", 1, 0, un, 16)
print("uring", libc.syscall(425, 1, 0), ctypes.get_errno())
`
	out, seen := underWatch(t, exec.Command("python3", "-c", strings.ReplaceAll(script, "DIR", dir)))
	for _, w := range [][2]string{
		{"tcp", "10.0.0.1:443"},
		{"tcp", "127.0.0.1:81"},
		{"tcp", "[2001:db8::1]:443"},
		{"tcp", "10.0.0.2:80"},
		{"udp", "10.0.0.3:53"},
		{"udp", "10.0.0.4:54"},
		{"tcp", "10.0.0.5:85"},
		{"icmp", "10.0.0.6"},
		{"raw", "10.0.0.7"},
		{"vsock", "socket"},
		{"packet", "socket"},
		{"tcp", "10.0.0.8:88"},
		{"udp", "10.0.0.9:91"},
		{"udp", "10.0.0.10:92"},
		{"udp", "10.0.0.11:96"},
	} {
		a := wantLine(t, out, seen, w[0], w[1])
		if a.Proto != "" && (!strings.Contains(a.Executable, "python") || a.PID == 0 || a.HostPID == 0 || len(a.Command) < 2 || a.Command[1] != "-c") {
			t.Errorf("%s %s by %d %q %.20q; want python3 -c", w[0], w[1], a.PID, a.Executable, a.Command)
		}
	}
	for dest, want := range map[string]Outcome{"/run/nothing.sock": NotFound, "/dev/nolog": NotFound, "@gone": NotFound, filepath.Join(dir, "host.sock"): Refused} {
		proto := "unix"
		if dest[0] == '@' {
			proto = "abstract"
		}
		if a := wantLine(t, out, seen, proto, dest); a.Outcome != want || a.Verdict != Blocked {
			t.Errorf("%s: %s %q; want blocked %q", dest, a.Verdict, a.Outcome, want)
		}
	}
	if !strings.Contains(out, "uring -1 38") {
		t.Errorf("io_uring_setup printed %q; want -1 and errno 38 (ENOSYS)", out)
	}
}

const smallC = `
#include <sys/socket.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <stdio.h>
#include <errno.h>
static struct sockaddr_in at(const char *ip, int port) {
	struct sockaddr_in a; memset(&a, 0, sizeof a);
	a.sin_family = AF_INET; a.sin_port = htons(port); inet_aton(ip, &a.sin_addr);
	return a;
}
int main(void) {
	struct sockaddr_in a = at("10.3.2.1", 3201), b = at("10.3.2.2", 3202), c = at("10.3.2.3", 3203), d = at("10.3.2.4", 3204);
	/* not by the C library, which may use socketcall */
	int s = syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0), u = syscall(SYS_socket, AF_INET, SOCK_DGRAM, 0);
	struct iovec v = {"x", 1};
	struct msghdr m = {.msg_name = &b, .msg_namelen = sizeof b, .msg_iov = &v, .msg_iovlen = 1};
	connect(s, (void*)&a, sizeof a);
	sendmsg(u, &m, 0);
	sendto(u, "x", 1, 0, (void*)&c, sizeof c);
#ifdef __i386__
	unsigned long args[6] = {u, (unsigned long)"x", 1, 0, (unsigned long)&d, sizeof d};
	int r = -1; /* socketcall(SYS_SENDTO) */
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(102), "b"(11), "c"(args) : "memory");
	unsigned long make[3] = {AF_INET6, SOCK_DGRAM, 0};
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(102), "b"(1), "c"(make) : "memory");
	printf("socketcall %d\n", r);
#else
	errno = 0;
	long r = syscall(0x40000000 + 41, AF_INET, SOCK_DGRAM, 0);
	printf("x32 %ld %d\n", r, errno);
#endif
	return 0;
}`

func compile(t *testing.T, source string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	src, bin := filepath.Join(dir, "p.c"), filepath.Join(dir, "p")
	if err := os.WriteFile(src, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", append(flags, "-o", bin, src)...).CombinedOutput(); err != nil {
		t.Fatalf("gcc %v: %v\n%s", flags, err, out)
	}
	return bin
}

func TestWatch32(t *testing.T) {
	out, seen := underWatch(t, exec.Command(compile(t, smallC, "-m32", "-static")))
	for _, w := range []string{"10.3.2.1:3201", "10.3.2.2:3202", "10.3.2.3:3203", "10.3.2.4:3204"} {
		wantLine(t, out, seen, "udp", w)
	}
	if a := wantLine(t, out, seen, "family-10", "socket"); a.Verdict != Blocked || a.Outcome != Refused || !strings.Contains(out, "socketcall -38") {
		t.Errorf("a socket by socketcall printed %q and was recorded as %+v; want ENOSYS, refused", out, a)
	}
}

func TestWatchX32(t *testing.T) {
	out, seen := underWatch(t, exec.Command(compile(t, smallC, "-static")))
	for _, w := range []string{"10.3.2.1:3201", "10.3.2.2:3202", "10.3.2.3:3203"} {
		wantLine(t, out, seen, "udp", w)
	}
	if !strings.Contains(out, "x32 -1 38") {
		t.Errorf("an x32 call printed %q; want -1 and errno 38 (ENOSYS)", out)
	}
}

func TestWatchPrograms(t *testing.T) {
	for _, c := range []struct {
		args  []string
		proto string
		dest  string
	}{
		{[]string{"curl", "-sm1", "http://10.0.0.1/"}, "tcp", "10.0.0.1:80"},
		{[]string{"dig", "+time=1", "+tries=1", "@10.0.0.2", "x.example"}, "udp", "10.0.0.2:53"},
		{[]string{"busybox", "nc", "-w1", "10.0.0.3", "25"}, "tcp", "10.0.0.3:25"},
		{[]string{"bash", "-c", "echo >/dev/tcp/10.0.0.4/26"}, "tcp", "10.0.0.4:26"},
		{[]string{"sh", "-c", "(setsid busybox nc -w1 10.0.0.5 27 &)"}, "tcp", "10.0.0.5:27"},
	} {
		out, seen := underWatch(t, exec.Command(c.args[0], c.args[1:]...))
		wantLine(t, out, seen, c.proto, c.dest)
	}
}

// Without any privilege the filter costs no_new_privs, and is there.
func TestWatchGoAndNobody(t *testing.T) {
	src := filepath.Join(t.TempDir(), "p.go")
	bin := filepath.Join(filepath.Dir(src), "p")
	program := "package main\nimport (\"net\";\"time\")\nfunc main() { net.DialTimeout(\"tcp\", \"10.9.9.9:99\", time.Second) }\n"
	if err := os.WriteFile(src, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", bin, src)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, d := range []string{filepath.Dir(src), filepath.Dir(filepath.Dir(src))} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, seen := underWatch(t, cmd)
	wantLine(t, out, seen, "tcp", "10.9.9.9:99")
}
