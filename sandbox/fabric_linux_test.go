package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// fabricUp makes a fabric that ends with the test.
func fabricUp(t testing.TB, hosts ...Options) *Fabric {
	t.Helper()
	f, err := UpFabric(t.Context(), hosts)
	if err != nil {
		t.Fatalf("UpFabric(%d hosts) = %v; want a fabric", len(hosts), err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	for i, w := range f.Hosts() {
		for _, warning := range w.Warnings() {
			t.Logf("host %d: warning: %s", i, warning)
		}
	}
	return f
}

// servers listens on every address, TCP port 443 and UDP port 53, and says the
// host's name to whoever comes. It says ready when it does.
const servers = `
import socket, threading, sys
def serve(l):
    while True:
        c = l.accept()[0]; c.send(sys.argv[1].encode()); threading.Thread(target=lambda: [c.send(b) for b in iter(lambda: c.recv(99), b"")], daemon=True).start()
def echo(d):
    while True:
        b, a = d.recvfrom(9); d.sendto(sys.argv[1].encode(), a)
for fam, bind in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    l = socket.socket(fam); l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    d = socket.socket(fam, socket.SOCK_DGRAM)
    if fam == socket.AF_INET6: l.setsockopt(41, 26, 1); d.setsockopt(41, 26, 1)
    l.bind((bind, 443)); l.listen(); d.bind((bind, 53))
    threading.Thread(target=serve, args=(l,), daemon=True).start()
    threading.Thread(target=echo, args=(d,), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
`

// serving runs a program that says ready, until the test ends.
func serving(t testing.TB, w *World, args ...string) *Process {
	t.Helper()
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	t.Cleanup(func() { _ = r.Close() })
	p, err := w.Spawn(t.Context(), Cmd{Args: args, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatalf("Spawn(%q) = %v; want a process", args[0], err)
	}
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if l, err := bufio.NewReader(r).ReadString('\n'); l != "ready\n" {
		t.Fatalf("%q said %q, %v; want ready", args[0], l, err)
	}
	return p
}

func TestFabricHostsTalk(t *testing.T) {
	t.Parallel()
	var hosts []Options
	for range 3 {
		hosts = append(hosts, Options{Record: NewRecord(nil)})
	}
	f := fabricUp(t, hosts...)
	for i, w := range f.Hosts() {
		serving(t, w, "python3", "-c", servers, fmt.Sprint("host", i))
	}
	for i, w := range f.Hosts() {
		var places, want []string
		for j := range 3 {
			for _, a := range addressesOf(j) {
				for _, p := range []string{"tcp,%s,443", "udp,%s,53"} {
					place := fmt.Sprintf(p, a.Addr())
					places = append(places, place)
					want = append(want, fmt.Sprintf("%s answer host%d", place, j))
				}
			}
		}
		peer := addressesOf((i + 1) % 3)
		for _, place := range append([]string{
			"tcp," + peer[0].Addr().String() + ",444", "tcp," + peer[1].Addr().String() + ",444", "udp," + peer[0].Addr().String() + ",54",
			"tcp,fd62:6c61:636b::77,443", "tcp,127.0.0.1,7777",
		}, darkPlaces[:6]...) {
			places = append(places, place)
			want = append(want, place+" silent")
		}
		if got := python(t, w, probe, places...); got != strings.Join(want, "\n") {
			t.Errorf("on host %d:\n%s\nwant\n%s", i, got, strings.Join(want, "\n"))
		}
	}
	out, code := inside(t, f.Hosts()[1], "sh", "-c", "hostname; curl -s --http0.9 -m2 telnet://host2:443 </dev/null | head -c5; echo; tail -n +7 /etc/hosts")
	if want := "host1\nhost2\n127.0.0.1\tlocalhost\n::1\tlocalhost"; out != want || code != 0 {
		t.Errorf("the names: %q, %d; want %q", out, code, want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for i, o := range hosts {
		if err := o.Record.Complete(); err != nil {
			t.Errorf("Complete() of host %d = %v; want nil", i, err)
		}
		got, peer := recordLines(o.Record), addressesOf((i+1)%3)
		for _, want := range []string{
			fmt.Sprintf("inside tcp %s:443 1 %q [syscall nflog]", peer[0].Addr(), ""),
			fmt.Sprintf("inside tcp [%s]:443 1 %q [syscall nflog]", peer[1].Addr(), ""),
			fmt.Sprintf("inside udp %s:53 1 %q [syscall nflog]", peer[0].Addr(), ""),
			fmt.Sprintf("blocked tcp %s:444 1 %q [syscall nflog]", peer[0].Addr(), Silent),
			fmt.Sprintf("blocked tcp [%s]:444 1 %q [syscall nflog]", peer[1].Addr(), Silent),
			fmt.Sprintf("blocked udp %s:54 1 %q [syscall nflog]", peer[0].Addr(), Silent),
			fmt.Sprintf("blocked tcp 192.0.2.77:443 1 %q [syscall nflog]", Silent),
		} {
			if i != 1 && !strings.Contains(got, want) {
				t.Errorf("host %d has no line %s in\n%s", i, want, got)
			}
		}
		for _, a := range o.Record.Attempts() {
			if a.Host != i || a.HostPID == 0 {
				t.Errorf("host %d recorded %+v; want its own programs' only", i, a)
			}
		}
	}
}

// The kinds of dark hold between hosts too, where nothing listens.
func TestFabricDark(t *testing.T) {
	for _, c := range []struct {
		mode              Mode
		peer, other, told string
	}{
		{ModeRefuse, "ConnectionRefusedError 111", "ConnectionRefusedError 111", string(Refused)},
		{ModeWedge, "silent", "wedged", string(Silent)},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			t.Parallel()
			r := NewRecord(nil)
			f := fabricUp(t, Options{Dark: c.mode, Record: r}, Options{Dark: c.mode, Record: r})
			serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
			got := python(t, f.Hosts()[0], probe, "tcp,192.0.2.2,443", "tcp,192.0.2.2,444", "tcp,fd62:6c61:636b::2,444", "tcp,192.0.2.3,443")
			want := fmt.Sprintf("tcp,192.0.2.2,443 answer host1\ntcp,192.0.2.2,444 %s\ntcp,fd62:6c61:636b::2,444 %s\ntcp,192.0.2.3,443 %s", c.peer, c.peer, c.other)
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if got, want := recordLines(r), fmt.Sprintf("blocked tcp 192.0.2.2:444 1 %q [syscall nflog]", c.told); !strings.Contains(got, want) {
				t.Errorf("no line %s in\n%s", want, got)
			}
			if err := r.Complete(); err != nil {
				t.Errorf("Complete() = %v; want nil", err)
			}
		})
	}
}

// A rule about everything beyond does not come between the hosts.
func TestFabricRules(t *testing.T) {
	f := fabricUp(t, Options{}, Options{})
	serving(t, f.Hosts()[1], "python3", "-c", servers, "host1")
	w := f.Hosts()[0]
	l, err := w.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
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
	for mode, want := range map[Mode]string{ModeAllow: "answer relay", ModeWedge: "wedged", ModeRefuse: "ConnectionRefusedError 111"} {
		r := Rule{Proto: "tcp", To: netip.MustParsePrefix("0.0.0.0/0"), Mode: mode}
		if mode == ModeAllow {
			r.Port = uint16(l.Addr().(*net.TCPAddr).Port)
		}
		if err := w.SetRules(t.Context(), []Rule{r}); err != nil {
			t.Fatalf("SetRules(%+v) = %v; want nil", r, err)
		}
		if got, want := python(t, w, probe, "tcp,192.0.2.2,443", "tcp,10.0.0.1,443"), "tcp,192.0.2.2,443 answer host1\ntcp,10.0.0.1,443 "+want; got != want {
			t.Errorf("with %+v:\n%s\nwant\n%s", r, got, want)
		}
	}
}

// What one host puts on the wire by hand comes to another only at its own address.
func TestFabricFrames(t *testing.T) {
	f := fabricUp(t, Options{}, Options{})
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer out.Close()
	_, err = f.Hosts()[1].Spawn(t.Context(), Cmd{Args: []string{"python3", "-uc", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 53)); print("ready")
while True: print(s.recv(99).decode())
`}, Stdout: out, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewReader(r)
	if l, err := lines.ReadString('\n'); l != "ready\n" {
		t.Fatalf("the listener said %q, %v; want ready", l, err)
	}
	python(t, f.Hosts()[0], `
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(("eth0", 0))
def frame(src, dst):
    data = (src + ">" + dst).encode()
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 1, 0, 64, 17, 0, socket.inet_aton(src), socket.inet_aton(dst))
    t = sum(struct.unpack("!10H", h)); t = (t & 0xffff) + (t >> 16); t = (t & 0xffff) + (t >> 16)
    h = h[:10] + struct.pack("!H", 0xffff ^ t) + h[12:]
    s.send(b"\x02blac\x01" + b"\x02blac\x00" + b"\x08\x00" + h + struct.pack("!HHHH", 999, 53, 8 + len(data), 0) + data)
for src in ("192.0.2.1", "10.0.0.9", "127.0.0.1", "192.0.2.2"):
    for dst in ("10.0.0.1", "127.0.0.1", "192.0.2.1", "192.0.2.255", "255.255.255.255", "224.0.0.1"): frame(src, dst)
frame("10.0.0.9", "192.0.2.2"); frame("192.0.2.1", "192.0.2.2")
`)
	if l, err := lines.ReadString('\n'); l != "192.0.2.1>192.0.2.2\n" {
		t.Errorf("first came %q, %v; want only what another host sent to this one", l, err)
	}
}

func TestFabricBadOptions(t *testing.T) {
	r := NewRecord(nil)
	segment := cutRules([]int{1})
	for name, hosts := range map[string][]Options{
		"no host":         {},
		"too many":        make([]Options, maxHosts+1),
		"half a record":   {{Record: r}, {}},
		"a peer's rule":   {{Rules: segment}, {}},
		"bad in one only": {{}, {Dark: "grey"}},
	} {
		if f, err := UpFabric(t.Context(), hosts); f != nil || !errors.Is(err, ErrBadOptions) {
			t.Errorf("UpFabric() with %s = %v, %v; want %v", name, f, err, ErrBadOptions)
		}
	}
	f := fabricUp(t, Options{}, Options{})
	for _, pair := range [][2]int{{0, 0}, {0, 2}, {-1, 0}} {
		if err := f.Partition(t.Context(), pair[:1], pair[1:]); !errors.Is(err, ErrBadOptions) {
			t.Errorf("Partition(%v) = %v; want %v", pair, err, ErrBadOptions)
		}
	}
	if err := f.Hosts()[0].SetRules(t.Context(), segment); !errors.Is(err, ErrBadOptions) {
		t.Errorf("SetRules() about a peer = %v; want %v", err, ErrBadOptions)
	}
}
