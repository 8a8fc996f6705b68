package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// capabilities reads inline endpoints.
func capabilities(t testing.TB, endpoints ...string) []Capability {
	t.Helper()
	var all []Capability
	for _, e := range endpoints {
		c, err := ParseCapability(e)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// hostServers answers "host" by TCP and UDP on loopback, one port for all.
func hostServers(t testing.TB) (port string) {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		number := l.Addr().(*net.TCPAddr).Port
		port = itoa(number)
		l6, err := net.Listen("tcp6", "[::1]:"+port)
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = l6.Close() })
		var packets []net.PacketConn
		for _, at := range []string{"127.0.0.1:", "[::1]:"} {
			if p, err := net.ListenPacket("udp", at+port); err == nil {
				t.Cleanup(func() { _ = p.Close() })
				packets = append(packets, p)
			}
		}
		if len(packets) < 2 {
			continue
		}
		for _, l := range []net.Listener{l, l6} {
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte("host"))
					_ = c.Close()
				}
			}()
		}
		for _, p := range packets {
			go func() {
				b := make([]byte, 9)
				for {
					_, from, err := p.ReadFrom(b)
					if err != nil {
						return
					}
					_, _ = p.WriteTo([]byte("host"), from)
				}
			}()
		}
		return port
	}
	t.Fatal("no port is free for TCP and UDP on both loopback addresses")
	return ""
}

// waysOut is a program that goes to a port of the host's loopback in every way
// there is, one line each.
const waysOut = `
import socket, sys, subprocess, ctypes, struct
port = int(sys.argv[1])
I4, I6, ST, DG = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
def tcp(f, a):
    s = socket.socket(f, ST); s.settimeout(3); s.connect((a, port)); return s.recv(9)
def udp(f, a):
    s = socket.socket(f, DG); s.settimeout(3); s.connect((a, port)); s.send(b"x"); return s.recv(9)
def to(f, a):
    s = socket.socket(f, DG); s.settimeout(3); s.sendto(b"x", (a, port)); return s.recv(9)
def msg(f, a):
    s = socket.socket(f, DG); s.settimeout(3); s.sendmsg([b"x"], [], 0, (a, port)); return s.recv(9)
def fast(f, a):
    s = socket.socket(f, ST); s.sendto(b"x", 0x20000000, (a, port)); s.settimeout(3); return s.recv(9)
def make(f, t, p): socket.socket(f, t, p); return b"made"
def child(f, a):
    r = subprocess.run(["curl", "-sm3", "--http0.9", "http://%s:%d/" % (a, port)], capture_output=True); return r.stdout or b"curl %d" % r.returncode
for name, f, *a in [
    ("tcp", tcp, I4, "127.0.0.1"), ("tcp6", tcp, I6, "::1"), ("mapped", tcp, I6, "::ffff:127.0.0.1"),
    ("any", tcp, I4, "0.0.0.0"), ("any6", tcp, I6, "::"), ("mapped any", tcp, I6, "::ffff:0.0.0.0"),
    ("udp", udp, I4, "127.0.0.1"), ("udp6", udp, I6, "::1"), ("sendto", to, I4, "127.0.0.1"), ("sendto6", to, I6, "::1"),
    ("sendto mapped", to, I6, "::ffff:127.0.0.1"), ("sendmsg any", msg, I4, "0.0.0.0"), ("fast open", fast, I4, "127.0.0.1"),
    ("raw", make, I4, socket.SOCK_RAW, 1), ("packet", make, 17, socket.SOCK_RAW, 3), ("mptcp", make, I4, ST, 262), ("udplite", make, I4, DG, 136),
    ("child", child, I4, "127.0.0.1"),
]:
    try: print(name + ":", f(*a).decode())
    except socket.timeout: print(name + ": silent")
    except OSError as e: print(name + ":", e.errno)
`

// guarded runs a command and returns its output with the result.
func guarded(t testing.TB, o GuardOptions, args ...string) (string, *GuardResult) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	o.Cmd.Args, o.Cmd.Stdout, o.Cmd.Stderr = args, &out, &out
	r, err := Guard(ctx, o)
	if err != nil {
		t.Fatalf("Guard(%q) = %v; want a result\n%s", args[0], err, out.String())
	}
	return strings.TrimRight(out.String(), "\n"), r
}

func deniedLines(r *GuardResult) string {
	var b strings.Builder
	for _, a := range r.Denied {
		fmt.Fprintf(&b, "%s %s %s %d %s\n", a.Verdict, a.Proto, a.Destination, a.Count, a.Capability)
	}
	return b.String()
}

func TestGuard(t *testing.T) {
	port := hostServers(t)
	const eperm = "1"
	sockets := "\nraw: 1\npacket: 1\nmptcp: 1\nudplite: 1"
	all := func(answer string) string {
		var b strings.Builder
		for _, name := range []string{"tcp", "tcp6", "mapped", "any", "any6", "mapped any", "udp", "udp6", "sendto", "sendto6", "sendto mapped", "sendmsg any", "fast open"} {
			b.WriteString(name + ": " + answer + "\n")
		}
		return strings.TrimSuffix(b.String(), "\n") + sockets
	}
	only := func(s, deniedNames string) string {
		for name := range strings.SplitSeq(deniedNames, ",") {
			s = strings.Replace(s, "\n"+name+": host", "\n"+name+": "+eperm, 1)
		}
		return strings.TrimPrefix(s, "\n")
	}
	open := "\n" + all("host")
	for _, c := range []struct {
		name        string
		allow, deny []string
		want        string
		denied      []string
	}{
		{"deny loopback", nil, []string{"loopback:" + port + ",name=local"}, only(open, "tcp,tcp6,mapped,any,any6,mapped any,fast open") + "\nchild: curl 7", []string{
			"blocked tcp 127.0.0.1:" + port + " 6 local", "blocked tcp [::1]:" + port + " 2 local", "blocked mptcp socket 1 ", "blocked udplite socket 1 ",
		}},
		{"deny udp", nil, []string{"udp:127.0.0.0/8:1-" + port, "udp:[::1]:9," + port}, only(open, "udp,udp6,sendto,sendto6,sendto mapped,sendmsg any") + "\nchild: host", []string{
			"blocked udp 127.0.0.1:" + port + " 4 udp:127.0.0.0/8:1-" + port, "blocked udp [::1]:" + port + " 2 udp:[::1]:9," + port,
		}},
		{"deny IPv6", nil, []string{"tcp:[::/0]:*", "udp:[::/1]:*"}, only(open, "tcp6,any6,udp6,sendto6") + "\nchild: host", nil},
		{"deny another port", nil, []string{"tcp:127.0.0.1:1-4,7", "tcp:126.0.0.0/8:*", "tcp:128.0.0.0/1:*"}, open[1:] + "\nchild: host", nil},
		{"allow loopback", []string{"loopback:" + port}, nil, only(open, "udp,udp6,sendto,sendto6,sendto mapped,sendmsg any") + "\nchild: host", nil},
		{"allow another port", []string{"tcp:127.0.0.1:9", "udp:[::1]:9"}, nil, all(eperm) + "\nchild: curl 7", nil},
		{"deny before allow", []string{"tcp:127.0.0.0/8:*", "udp:0.0.0.0/0:*"}, []string{"loopback:" + port}, only(open, "tcp,tcp6,mapped,any,any6,mapped any,fast open,udp6,sendto6") + "\nchild: curl 7", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, r := guarded(t, GuardOptions{Allow: capabilities(t, c.allow...), Deny: capabilities(t, c.deny...)}, "python3", "-c", waysOut, port)
			if out != c.want || r.Code != 0 || r.Released != 0 {
				t.Errorf("exit %d, %d released:\n%s\nwant\n%s", r.Code, r.Released, out, c.want)
			}
			got := deniedLines(r)
			for _, want := range c.denied {
				if !strings.Contains(got, want+"\n") {
					t.Errorf("no line %q in\n%s", want, got)
				}
			}
		})
	}
	// This process was never guarded.
	if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err != nil {
		t.Errorf("dialling beside a guard: %v; want a connection", err)
	} else {
		_ = conn.Close()
	}
	noGuardLeft(t)
}

// noGuardLeft looks for cgroups of this process.
func noGuardLeft(t testing.TB) {
	t.Helper()
	root, err := openHierarchy()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(root)
	if left, _ := filepath.Glob(fdPath(root) + "/" + cgroupParent + "/" + itoa(os.Getpid()) + ".*"); len(left) != 0 {
		t.Errorf("%v are left; want none", left)
	}
}

func TestGuardRunsAnything(t *testing.T) {
	deny := capabilities(t, "tcp:192.0.2.1:9")
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:9")
	dir := t.TempDir()
	for _, c := range []struct {
		script string
		out    string
		code   int
	}{
		{"echo $HTTP_PROXY; pwd; exit 7", "http://127.0.0.1:9\n" + dir, 7},
		{"kill -9 $$", "", 137},
		{"read x; echo got $x", "got line", 0},
	} {
		o := GuardOptions{Deny: deny, Cmd: Cmd{Dir: dir, Stdin: strings.NewReader("line\n")}}
		if out, r := guarded(t, o, "sh", "-c", c.script); out != c.out || r.Code != c.code || len(r.Denied) != 0 {
			t.Errorf("%q = %q, %d, denied %v; want %q, %d", c.script, out, r.Code, r.Denied, c.out, c.code)
		}
	}
	for name, want := range map[string]error{"blackstart-no-such-command": fs.ErrNotExist, "/etc/passwd": fs.ErrPermission} {
		r, err := Guard(t.Context(), GuardOptions{Deny: deny, Cmd: Cmd{Args: []string{name}}})
		if r != nil || !errors.Is(err, want) || errors.Is(err, ErrUnresolved) {
			t.Errorf("Guard(%s) = %v, %v; want %v", name, r, err, want)
		}
	}
	for name, o := range map[string]GuardOptions{
		"no command": {Deny: deny},
		"no rule":    {Cmd: Cmd{Args: []string{"true"}}},
		"a name":     {Deny: capabilities(t, "dns:store.example"), Cmd: Cmd{Args: []string{"true"}}},
		"a mode":     {Deny: capabilities(t, "tcp:192.0.2.1:9,dark=wedge"), Cmd: Cmd{Args: []string{"true"}}},
		"latency":    {Allow: capabilities(t, "tcp:192.0.2.1:9,latency=1ms"), Cmd: Cmd{Args: []string{"true"}}},
		"a terminal": {Deny: deny, Cmd: Cmd{Args: []string{"true"}, TTY: true}},
	} {
		if r, err := Guard(t.Context(), o); r != nil || !errors.Is(err, ErrBadOptions) {
			t.Errorf("Guard() with %s = %v, %v; want %v", name, r, err, ErrBadOptions)
		}
	}
	noGuardLeft(t)
}

// What outlives the command is let go; what outlives the context is ended.
func TestGuardEnds(t *testing.T) {
	deny := capabilities(t, "tcp:192.0.2.1:9")
	out, r := guarded(t, GuardOptions{Deny: deny}, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
	var pid int
	if _, err := fmt.Sscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil || r.Released != 1 {
		t.Errorf("%d released, kill(%d) = %v; want one process that lives", r.Released, pid, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	go func() {
		_, _ = fmt.Fscan(in, &pid)
		cancel()
	}()
	res, err := Guard(ctx, GuardOptions{Deny: deny, Cmd: Cmd{Args: []string{"sh", "-c", "setsid sleep 1000 & echo $!; wait"}, Stdout: w}})
	_ = w.Close()
	if res != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Guard() when cancelled = %v, %v; want %v", res, err, context.Canceled)
	}
	gone(t, pid)
	noGuardLeft(t)
}

// gone waits until a process has ended.
func gone(t testing.TB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is left; want none", pid)
		}
	}
}

// TestGuardKilled is also the supervisor that is killed.
func TestGuardKilled(t *testing.T) {
	if port := os.Getenv("BLACKSTART_TEST_SUPERVISOR"); port != "" {
		_, err := Guard(t.Context(), GuardOptions{Deny: capabilities(t, "loopback:"+port), Cmd: Cmd{
			Args: []string{"python3", "-uc", `
import os, socket, sys
print("ready", os.getpid())
while True:
    sys.stdin.read(1)
    try: print(socket.create_connection(("127.0.0.1", int(sys.argv[1])), 3).recv(9))
    except OSError as e: print("errno", e.errno)
`, port}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		}})
		t.Fatalf("Guard() = %v; want to be killed", err)
	}
	port := hostServers(t)
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestGuardKilled$")
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_SUPERVISOR="+port)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	var pid int
	if _, scan := fmt.Sscanf(line, "ready %d", &pid); scan != nil {
		t.Fatalf("the command said %q, %v; want ready", line, err)
	}
	if len(cgroupsOf(cmd.Process.Pid)) == 0 {
		t.Error("the guard has no cgroup; want one, for the next command to remove")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); line != "errno 1\n" {
		t.Errorf("the command of a killed supervisor said %q, %v; want errno 1, for it is still guarded", line, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		// The kernel may need a moment to take the last process from its cgroup.
		_, err := Sweep()
		left := cgroupsOf(cmd.Process.Pid)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v are left after Sweep() = %v; want none", left, err)
		}
	}
}

func TestGuardNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		return // by TestRootlessFabric
	}
	r, err := Guard(t.Context(), GuardOptions{Deny: capabilities(t, "tcp:192.0.2.1:9"), Cmd: Cmd{Args: []string{"true"}}})
	if r != nil || !errors.Is(err, ErrUnresolved) || !strings.Contains(err.Error(), "needs root") {
		t.Errorf("Guard() = %v, %v; want %v that says why", r, err, ErrUnresolved)
	}
}

func BenchmarkGuard(b *testing.B) {
	deny := capabilities(b, "tcp:192.0.2.1:9")
	for b.Loop() {
		if r, err := Guard(b.Context(), GuardOptions{Deny: deny, Cmd: Cmd{Args: []string{"/bin/true"}}}); err != nil || r.Code != 0 {
			b.Fatalf("Guard() = %v, %v; want 0", r, err)
		}
	}
}
