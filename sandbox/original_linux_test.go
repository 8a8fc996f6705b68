package sandbox

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// redirectNet is a network namespace of its own, where every address is local
// and all TCP and UDP but DNS goes to one port. What it returns runs a function
// in there.
func redirectNet(t *testing.T, port int) func(func()) {
	t.Helper()
	work, ready := make(chan func()), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- err
			return
		}
		cmd := exec.Command("sh", "-ec", "ip link set lo up; ip route add local default dev lo; ip -6 route add local default dev lo; nft -f -")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`table inet r { chain turn {
			type nat hook output priority -100
			meta l4proto { tcp, udp } th dport != 53 redirect to :%d
		}
		}`, port))
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		ready <- err
		for f := range work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(work) })
	return func(f func()) {
		done := make(chan struct{})
		work <- func() { defer close(done); f() }
		<-done
	}
}

func TestOriginalDestination(t *testing.T) {
	do := redirectNet(t, 7000)
	var listeners []net.Listener
	var packets []net.PacketConn
	fd := -1
	do(func() {
		for _, a := range []string{"127.0.0.1:7000", "[::1]:7000"} {
			l, err := net.Listen("tcp", a)
			if err != nil {
				t.Fatal(err)
			}
			p, err := net.ListenPacket("udp", a)
			if err != nil {
				t.Fatal(err)
			}
			listeners, packets = append(listeners, l), append(packets, p)
		}
		var err error
		if fd, err = OpenConntrack(); err != nil {
			t.Fatal(err)
		}
	})
	tracking := NewConntrack(fd)
	defer tracking.Close()
	tcp, udp := tcpServer(t, echo), udpServer(t)
	record := NewRecord(nil)
	r, err := NewRelay(RelayOptions{
		Names: NewNames(), Record: record, Original: OriginalDestination, OriginalPacket: tracking.Original,
		Capabilities: []Capability{
			mustCapability(t, "tcp:10.0.0.0/8:1-6000"), mustCapability(t, "tcp:[2001:db8::/32]:443"), mustCapability(t, "dns:store.example"),
			mustCapability(t, "udp:10.0.0.0/8:123-124"), mustCapability(t, "udp:[2001:db8::/32]:123"),
		},
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, map[string]string{"tcp": tcp, "udp": udp}[network])
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range listeners {
		background(t, func(ctx context.Context) error { return r.ServeTCP(ctx, l) })
	}
	for _, p := range packets {
		background(t, func(ctx context.Context) error { return r.ServeUDP(ctx, p) })
	}
	for _, c := range []struct{ proto, to, name string }{
		{"tcp", "10.0.0.1:443", ""},
		{"tcp", "10.1.2.3:5000", ""},
		{"tcp", "[2001:db8::7]:443", ""},
		{"tcp", "198.18.0.1:22", "store.example"},
		{"tcp", "[fd62:6c61:636b:35::1]:22", "store.example"},
		{"udp", "10.0.0.1:123", ""},
		{"udp", "[2001:db8::7]:123", ""},
		{"udp", "[fd62:6c61:636b:35::1]:4433", "store.example"},
	} {
		var conn net.Conn
		do(func() { conn, err = net.DialTimeout(c.proto, c.to, 5*time.Second) })
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		send(t, conn, "hello")
		expect(t, conn, "hello")
		conn.Close()
		a := wantAttempt(t, record, c.proto, c.to, Allowed, func(a Attempt) bool { return a.Received == 5 })
		if a.Name != c.name {
			t.Errorf("Name of %s = %q; want %q", c.to, a.Name, c.name)
		}
	}
	// One socket that talks to many: each answer comes from where it was asked.
	var p net.PacketConn
	do(func() { p, err = net.ListenPacket("udp4", ":0") })
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_ = p.SetDeadline(time.Now().Add(5 * time.Second))
	for _, to := range []string{"10.0.0.1:123", "10.0.0.2:123", "10.0.0.2:124", "10.0.0.1:123"} {
		addr, err := net.ResolveUDPAddr("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteTo([]byte(to), addr); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, from, err := p.ReadFrom(b)
		if err != nil || string(b[:n]) != to || from.String() != to {
			t.Errorf("asking %s: %q from %v, %v; want its echo", to, b[:n], from, err)
		}
	}
	if _, err := tracking.Original(addrPort(packets[0].LocalAddr()), addrPort(udpAddr("10.9.9.9:9"))); err == nil {
		t.Error("Original() of nobody's datagram = nil; want an error")
	}
}

func udpAddr(s string) net.Addr {
	a, _ := net.ResolveUDPAddr("udp", s)
	return a
}

// A connection that was not redirected has its own address as destination.
func TestOriginalDestinationDirect(t *testing.T) {
	got := make(chan string, 1)
	addr := tcpServer(t, func(c *net.TCPConn) {
		a, err := OriginalDestination(c)
		got <- fmt.Sprint(a, err)
	})
	dial(t, addr)
	if s := <-got; !strings.Contains(s, addr) && !strings.Contains(s, "no such file") {
		t.Errorf("OriginalDestination() = %s; want %s or ENOENT", s, addr)
	}
}
