package sandbox

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// probe is a program that says what becomes of a connection, a datagram or a
// ping to an address, one line each.
const probe = `
import socket, sys, time
def fam(a): return socket.AF_INET6 if ":" in a else socket.AF_INET
def tcp(addr, port, wait=0.3):
    s = socket.socket(fam(addr), socket.SOCK_STREAM); s.settimeout(wait)
    start = time.time()
    try:
        s.connect((addr, port))
    except socket.timeout: return "silent" if time.time() - start >= wait * 0.9 else "early"
    except OSError as e: return type(e).__name__ + " %d" % e.errno
    try: got = s.recv(9)
    except socket.timeout: return "wedged"
    except OSError as e: return type(e).__name__
    return "answer %s" % got.decode()
def udp(addr, port, wait=0.3):
    s = socket.socket(fam(addr), socket.SOCK_DGRAM); s.settimeout(wait)
    try:
        s.connect((addr, port)); s.send(b"x"); return "answer %s" % s.recv(9).decode()
    except socket.timeout: return "silent"
    except OSError as e: return type(e).__name__ + " %d" % e.errno
def one(arg):
    kind, addr, port = arg.split(",")
    return arg + " " + {"tcp": tcp, "udp": udp}[kind](addr, int(port))
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(32) as e: print("\n".join(e.map(one, sys.argv[1:])), flush=True)
`

func python(t testing.TB, w *World, script string, args ...string) string {
	t.Helper()
	out, code := inside(t, w, append([]string{"python3", "-c", script}, args...)...)
	if code != 0 {
		t.Errorf("python3 exited with %d; want 0:\n%s", code, out)
	}
	return out
}

var darkPlaces = []string{
	"tcp,10.0.0.1,443", "tcp,8.8.8.8,53", "tcp,2001:db8::1,443", "tcp,::ffff:10.0.0.1,443", "tcp,169.254.169.254,80", "tcp,192.0.2.77,443",
	"tcp,127.0.0.1,7777", "tcp,127.0.0.2,7777", "tcp,::1,7777", "tcp,0.0.0.0,7777", "tcp,192.0.2.1,7777",
	"udp,10.0.0.1,53", "udp,2001:db8::1,53", "udp,127.0.0.1,53", "udp,::1,53",
}

func TestDarkModes(t *testing.T) {
	for _, c := range []struct {
		mode           Mode
		tcp, loop, udp string
	}{
		{ModeDrop, "silent", "silent", "silent"},
		{ModeRefuse, "ConnectionRefusedError 111", "ConnectionRefusedError 111", "ConnectionRefusedError 111"},
		{ModeWedge, "wedged", "silent", "silent"},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			t.Parallel()
			w := up(t, Options{Dark: c.mode})
			got := python(t, w, probe, darkPlaces...)
			for _, place := range darkPlaces {
				want := c.tcp
				switch {
				case strings.HasPrefix(place, "udp"):
					want = c.udp
				case strings.HasSuffix(place, "7777"):
					want = c.loop
				}
				if !strings.Contains(got+"\n", place+" "+want+"\n") {
					t.Errorf("%s is not %q in\n%s", place, want, got)
				}
			}
		})
	}
}

// A service of the host, on its loopback and on a wildcard address, is not there.
func TestHostIsNotReached(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	abstract := fmt.Sprintf("blackstart-test-%d", os.Getpid())
	a, err := net.Listen("unix", "@"+abstract)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	dir := t.TempDir()
	path := filepath.Join("/var", "lib")
	if os.Geteuid() != 0 {
		path = dir
	}
	path = filepath.Join(path, fmt.Sprintf("blackstart-test-%d.sock", os.Getpid()))
	p, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w := up(t, Options{})
	got := python(t, w, probe, fmt.Sprintf("tcp,127.0.0.1,%d", l.Addr().(*net.TCPAddr).Port))
	if !strings.HasSuffix(got, " silent") {
		t.Errorf("the host's loopback: %q; want silent", got)
	}
	got = python(t, w, `
import socket, sys, os
for name in ("\0" + sys.argv[1], sys.argv[2], "/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"):
    try: socket.socket(socket.AF_UNIX).connect(name); print(name, "connected")
    except OSError as e: print(name, type(e).__name__)
print(sorted(os.listdir("/run")), sorted(os.listdir("/tmp")))
`, abstract, path)
	if strings.Contains(got, "connected") || !strings.HasSuffix(got, "['lock'] []") {
		t.Errorf("sockets of the host:\n%s\nwant none to connect, and an empty /run and /tmp", got)
	}
}

// Programs inside talk over the vacuum's own addresses, and only over those: a
// server on every address does not answer for the dark.
func TestInsideTalks(t *testing.T) {
	w := up(t, Options{})
	out := python(t, w, `
import socket, threading, os, sys
for fam, bind in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    l = socket.socket(fam); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if fam == socket.AF_INET6: l.setsockopt(41, 26, 1)
    l.bind((bind, 443)); l.listen()
    def serve(l=l):
        while True: l.accept()[0].send(b"hello")
    threading.Thread(target=serve, daemon=True).start()
    d = socket.socket(fam, socket.SOCK_DGRAM)
    if fam == socket.AF_INET6: d.setsockopt(41, 26, 1)
    d.bind((bind, 53))
    def echo(d=d):
        while True:
            b, a = d.recvfrom(9); d.sendto(b"udp", a)
    threading.Thread(target=echo, daemon=True).start()
sys.stdout.flush()
pid = os.fork()
if pid == 0: os.execvp("python3", ["python3", "-c", *sys.argv[1:]])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`, probe, "tcp,127.0.0.1,443", "tcp,127.0.0.9,443", "tcp,::1,443", "tcp,192.0.2.1,443", "tcp,fd62:6c61:636b::1,443", "udp,127.0.0.1,53", "udp,::1,53",
		"tcp,10.0.0.1,443", "tcp,2001:db8::1,443", "udp,10.0.0.1,53")
	want := `tcp,127.0.0.1,443 answer hello
tcp,127.0.0.9,443 answer hello
tcp,::1,443 answer hello
tcp,192.0.2.1,443 answer hello
tcp,fd62:6c61:636b::1,443 answer hello
udp,127.0.0.1,53 answer udp
udp,::1,53 answer udp
tcp,10.0.0.1,443 silent
tcp,2001:db8::1,443 silent
udp,10.0.0.1,53 silent`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// A rule turns a destination over to a listener that is served from outside, and
// can be changed while the vacuum runs.
func TestRules(t *testing.T) {
	w := up(t, Options{})
	l, err := w.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l6, err := w.Listen(t.Context(), "tcp6", fmt.Sprintf("[::1]:%d", l.Addr().(*net.TCPAddr).Port))
	if err != nil {
		t.Fatal(err)
	}
	defer l6.Close()
	for _, l := range []net.Listener{l, l6} {
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("relay"))
				_ = c.Close()
			}
		}()
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	places := []string{"tcp,10.0.0.1,443", "tcp,10.0.0.1,444", "tcp,10.1.0.1,90", "tcp,2001:db8::1,443", "tcp,127.0.0.1,8080"}
	rule := func(to string, mode Mode, ports ...PortRange) Rule {
		r := Rule{Proto: "tcp", To: netip.MustParsePrefix(to), Ports: ports, Mode: mode}
		if mode == ModeAllow {
			r.Port = port
		}
		return r
	}
	for _, step := range []struct {
		rules []Rule
		want  []string
	}{
		{
			[]Rule{rule("10.0.0.1/32", ModeAllow, PortRange{443, 443}), rule("10.1.0.0/16", ModeAllow, PortRange{80, 95}), rule("2001:db8::/32", ModeAllow), rule("127.0.0.0/8", ModeAllow, PortRange{8080, 8080})},
			[]string{"answer relay", "silent", "answer relay", "answer relay", "answer relay"},
		},
		{
			[]Rule{rule("10.0.0.1/32", ModeWedge, PortRange{443, 443}), rule("10.0.0.1/32", ModeRefuse, PortRange{444, 444}), rule("10.1.0.0/16", ModeDrop), rule("10.1.0.0/16", ModeAllow)},
			[]string{"wedged", "ConnectionRefusedError 111", "silent", "silent", "silent"},
		},
		{nil, []string{"silent", "silent", "silent", "silent", "silent"}},
	} {
		if err := w.SetRules(t.Context(), step.rules); err != nil {
			t.Fatalf("SetRules(%+v) = %v; want nil", step.rules, err)
		}
		got := python(t, w, probe, places...)
		for i, p := range places {
			if !strings.Contains(got+"\n", p+" "+step.want[i]+"\n") {
				t.Errorf("with %+v %s is not %q in\n%s", step.rules, p, step.want[i], got)
			}
		}
	}
}

func TestRecordedVacuum(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode    Mode
		outcome Outcome
	}{{ModeDrop, Silent}, {ModeRefuse, Refused}, {ModeWedge, Wedged}} {
		t.Run(string(c.mode), func(t *testing.T) {
			t.Parallel()
			r := NewRecord(nil)
			w := up(t, Options{Record: r, Host: 2, Dark: c.mode})
			python(t, w, probe, "tcp,10.0.0.1,443", "tcp,2001:db8::1,443", "udp,10.0.0.2,53")
			out, code := inside(t, w, "curl", "-sm1", "http://10.9.9.9/")
			if want := map[Mode]int{ModeDrop: 28, ModeRefuse: 7, ModeWedge: 28}[c.mode]; code != want {
				t.Errorf("curl exited with %d; want %d: %s", code, want, out)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if err := r.Complete(); err != nil {
				t.Errorf("Complete() = %v; want nil", err)
			}
			got := recordLines(r)
			udp := c.outcome
			if c.mode == ModeWedge {
				udp = Silent
			}
			for _, want := range []string{
				fmt.Sprintf("blocked tcp 10.0.0.1:443 1 %q [syscall nflog]", c.outcome),
				fmt.Sprintf("blocked tcp [2001:db8::1]:443 1 %q [syscall nflog]", c.outcome),
				fmt.Sprintf("blocked udp 10.0.0.2:53 1 %q [syscall nflog]", udp),
				fmt.Sprintf("blocked tcp 10.9.9.9:80 1 %q [syscall nflog]", c.outcome),
			} {
				if !strings.Contains(got, want) {
					t.Errorf("no line %s in\n%s", want, got)
				}
			}
			for _, a := range r.Attempts() {
				if a.Destination == "10.9.9.9:80" && (filepath.Base(a.Executable) != "curl" || a.Host != 2 || a.HostPID == 0) {
					t.Errorf("attempt %+v; want curl on host 2", a)
				}
			}
		})
	}
}

// With a record or without, no family that knows no namespaces can be used.
func TestVsock(t *testing.T) {
	for _, record := range []*Record{nil, NewRecord(nil)} {
		w := up(t, Options{Record: record})
		got := python(t, w, `
import socket
for f in (40, 38, 31):
    try: socket.socket(f, socket.SOCK_STREAM); print("made", f)
    except OSError as e: print(e.errno)
import ctypes
l = ctypes.CDLL(None, use_errno=True); print(l.syscall(425, 1, 0), ctypes.get_errno())
`)
		if want := "97\n97\n97\n-1 38"; got != want {
			t.Errorf("sockets of vsock, alg and bluetooth, and a ring: %q; want %q", got, want)
		}
	}
}
