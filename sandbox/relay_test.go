package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rig is a relay on loopback: what it is asked for is said by the test, and
// whatever it dials is the test's server.
type rig struct {
	*Relay
	record *Record
	addr   string // of the relay's TCP listener

	mu     sync.Mutex
	to     netip.AddrPort
	dialed []string
}

func mustCapability(t testing.TB, s string) Capability {
	t.Helper()
	c, err := ParseCapability(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newRig relays to server; to is the original destination, an address or a name
// with a port.
func newRig(t testing.TB, to, server string, change func(*RelayOptions), capabilities ...string) *rig {
	t.Helper()
	r := &rig{record: NewRecord(nil)}
	o := RelayOptions{
		Names: NewNames(), Record: r.record,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			r.mu.Lock()
			r.dialed = append(r.dialed, network+" "+address)
			r.mu.Unlock()
			var d net.Dialer
			return d.DialContext(ctx, network, server)
		},
		Original: func(net.Conn) (netip.AddrPort, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.to, nil
		},
		OriginalPacket: func(_, _ netip.AddrPort) (netip.AddrPort, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.to, nil
		},
	}
	for _, c := range capabilities {
		o.Capabilities = append(o.Capabilities, mustCapability(t, c))
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Relay, err = NewRelay(o); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(to)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if ip, _, err = o.Names.Addresses(host); err != nil {
			t.Fatal(err)
		}
	}
	r.to = netip.MustParseAddrPort(net.JoinHostPort(ip.String(), port))
	r.addr = serveTCP(t, r.ServeTCP)
	return r
}

// serveTCP runs a server on a new loopback port until the test ends.
func serveTCP(t testing.TB, serve func(context.Context, net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return serve(ctx, l) })
	return l.Addr().String()
}

// background runs something until the test ends, and sees it end.
func background(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serving ended with %v; want nil", err)
			}
		case <-time.After(time.Minute):
			t.Error("serving did not end with its context")
		}
	})
}

// tcpServer answers every connection with handle.
func tcpServer(t testing.TB, handle func(*net.TCPConn)) string {
	t.Helper()
	return serveTCP(t, func(ctx context.Context, l net.Listener) error {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		var all sync.WaitGroup
		defer all.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return nil
			}
			all.Go(func() {
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
}

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func send(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("Write(%q) = %v; want nil", s, err)
	}
}

func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("Read() = %q, %v; want %q", b[:n], err, want)
	}
}

// silent sees that nothing comes for a while.
func silent(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
	if n, err := c.Read(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("Read() = %d, %v; want silence", n, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
}

// wantAttempt waits for an entry of the record.
func wantAttempt(t testing.TB, r *Record, proto, dest string, v Verdict, ok func(Attempt) bool) Attempt {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		for _, a := range r.Attempts() {
			if a.Proto == proto && a.Destination == dest && a.Verdict == v && ok(a) {
				return a
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s %s %s as wanted in the record: %+v", v, proto, dest, r.Attempts())
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func whatever(Attempt) bool { return true }

func TestRelayHalfClose(t *testing.T) {
	server := tcpServer(t, func(c *net.TCPConn) {
		b, err := io.ReadAll(c)
		fmt.Fprintf(c, "%d %v", len(b), err)
	})
	r := newRig(t, "10.0.0.1:443", server, nil, "tcp:10.0.0.0/8:443,name=store")
	c := dial(t, r.addr)
	sent := bytes.Repeat([]byte("0123456789"), 300_000)
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); string(b) != "3000000 <nil>" || err != nil {
		t.Errorf("ReadAll() = %q, %v; want an answer after the half-close", b, err)
	}
	a := wantAttempt(t, r.record, "tcp", "10.0.0.1:443", Allowed, func(a Attempt) bool { return a.Received > 0 })
	if a.Sent != 3000000 || a.Received != 13 || a.Outcome != Answered || a.Capability != "store" || a.Count != 1 {
		t.Errorf("record = %+v; want one answered attempt under store with 3000000 and 13 bytes", a)
	}
	c = dial(t, r.addr) // that says nothing
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "0 <nil>" || err != nil {
		t.Errorf("ReadAll() = %q, %v; want an answer to nothing", b, err)
	}
	if want := "tcp 10.0.0.1:443"; len(r.dialed) != 2 || r.dialed[0] != want {
		t.Errorf("dialed %q; want %q", r.dialed, want)
	}
}

func TestRelayResets(t *testing.T) {
	seen := make(chan error, 1)
	server := tcpServer(t, func(c *net.TCPConn) {
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); err != nil {
			seen <- err
			return
		}
		if string(b) == "die!" {
			_ = c.SetLinger(0)
			return
		}
		_, err := c.Read(b)
		seen <- err
	})
	r := newRig(t, "10.0.0.1:443", server, nil, "tcp:10.0.0.1:443")
	c := dial(t, r.addr)
	send(t, c, "die!")
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read() from a server that resets = %v; want ECONNRESET", err)
	}
	wantAttempt(t, r.record, "tcp", "10.0.0.1:443", Allowed, func(a Attempt) bool { return a.Outcome == Refused && a.Sent == 4 })
	c = dial(t, r.addr)
	send(t, c, "live")
	_ = c.SetLinger(0)
	c.Close()
	if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server's Read() from a client that resets = %v; want ECONNRESET", err)
	}
}

// connectAndRead sees a reset, which may come before connect has returned.
func connectAndRead(addr string) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	return err
}

func TestRelayUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := newRig(t, "10.0.0.1:443", l.Addr().String(), nil, "tcp:10.0.0.1:443")
	if err := connectAndRead(r.addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("connecting and reading: %v; want ECONNRESET", err)
	}
	wantAttempt(t, r.record, "tcp", "10.0.0.1:443", Allowed, func(a Attempt) bool {
		return a.Outcome == Broken && strings.Contains(a.Detail, "refused")
	})
}

func TestRelayNotCovered(t *testing.T) {
	r := newRig(t, "10.0.0.2:443", "127.0.0.1:1", nil, "tcp:10.0.0.1:443", "udp:10.0.0.2:443", "dns:store.example:443")
	c := dial(t, r.addr)
	send(t, c, "hello")
	silent(t, c)
	wantAttempt(t, r.record, "tcp", "10.0.0.2:443", Blocked, func(a Attempt) bool { return a.Count == 1 && a.Outcome == Wedged })
	// A synthetic address is its name and nothing else, whatever prefix covers it.
	r = newRig(t, "store.example:444", "127.0.0.1:1", nil, "dns:store.example:443", "tcp:0.0.0.0/0:*")
	silent(t, dial(t, r.addr))
	if len(r.dialed) != 0 {
		t.Errorf("dialed %q; want nothing", r.dialed)
	}
}

func TestRelayNames(t *testing.T) {
	server := tcpServer(t, echo)
	r := newRig(t, "store.example:443", server, nil, "dns:other.example", "dns:store.example:443")
	c := dial(t, r.addr)
	send(t, c, "hi")
	expect(t, c, "hi")
	a := wantAttempt(t, r.record, "tcp", "198.18.0.2:443", Allowed, whatever)
	if a.Name != "store.example" {
		t.Errorf("Name = %q; want store.example", a.Name)
	}
	// at= replaces the look-up, and its addresses are tried in turn.
	tries := 0
	r2 := newRig(t, "store.example:443", server, func(o *RelayOptions) {
		ok := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if tries++; address == "10.9.9.1:443" {
				return nil, errors.New("down")
			}
			if address != "[fd00::2]:443" {
				t.Errorf("dialed %s; want [fd00::2]:443", address)
			}
			return ok(ctx, network, address)
		}
	}, "dns:store.example:443,at=10.9.9.1+fd00::2")
	c = dial(t, r2.addr)
	send(t, c, "hi")
	expect(t, c, "hi")
	if tries != 2 {
		t.Errorf("%d dials; want 2", tries)
	}
	if want := "tcp store.example:443"; r.dialed[0] != want {
		t.Errorf("dialed %q; want %q", r.dialed[0], want)
	}
}

func TestRelayDarkAndBack(t *testing.T) {
	for _, dark := range []Mode{ModeDrop, ModeWedge} {
		t.Run(string(dark), func(t *testing.T) {
			r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), nil, "tcp:10.0.0.1:80,name=it")
			old := dial(t, r.addr)
			for range 3 { // far into the spliced part
				send(t, old, "before")
				expect(t, old, "before")
			}
			if err := r.SetMode("it", dark); err != nil {
				t.Fatal(err)
			}
			send(t, old, "while")
			silent(t, old)
			fresh := dial(t, r.addr)
			send(t, fresh, "hello")
			silent(t, fresh)
			wantAttempt(t, r.record, "tcp", "10.0.0.1:80", Blocked, func(a Attempt) bool { return a.Count == 1 && a.Outcome == Wedged })
			if err := r.SetMode("it", ModeAllow); err != nil {
				t.Fatal(err)
			}
			expect(t, old, "while")
			expect(t, fresh, "hello")
			send(t, old, "after")
			expect(t, old, "after")
		})
	}
}

func TestRelayRefuse(t *testing.T) {
	r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), nil, "tcp:10.0.0.1:80,name=it", "tcp:10.0.0.2:80,name=other")
	old, dark := dial(t, r.addr), (*net.TCPConn)(nil)
	send(t, old, "x")
	expect(t, old, "x")
	if err := r.SetMode("it", ModeDrop); err != nil {
		t.Fatal(err)
	}
	dark = dial(t, r.addr)
	send(t, dark, "x")
	silent(t, dark)
	if err := r.SetMode("it", ModeRefuse); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{old, dark} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read() = %v; want ECONNRESET", err)
		}
	}
	if err := connectAndRead(r.addr); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a new connection: %v; want ECONNRESET", err)
	}
	wantAttempt(t, r.record, "tcp", "10.0.0.1:80", Blocked, func(a Attempt) bool { return a.Outcome == Refused })
	if err := r.SetMode("nobody", ModeRefuse); !errors.Is(err, ErrNoCapability) {
		t.Errorf("SetMode(nobody) = %v; want ErrNoCapability", err)
	}
}

// Going dark and back while a lot is on its way loses and repeats nothing.
func TestRelayFlapping(t *testing.T) {
	r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), nil, "tcp:10.0.0.1:80,name=it")
	c := dial(t, r.addr)
	const size = 64 << 20
	go func() {
		src := rand.NewChaCha8([32]byte{1})
		_, _ = io.CopyN(c, src, size)
		_ = c.CloseWrite()
	}()
	stop := make(chan struct{})
	var flap sync.WaitGroup
	flap.Go(func() {
		for {
			for _, m := range []Mode{ModeDrop, ModeAllow} {
				_ = r.SetMode("it", m)
				select {
				case <-stop:
					_ = r.SetMode("it", ModeAllow)
					return
				case <-time.After(time.Millisecond):
				}
			}
		}
	})
	want := rand.NewChaCha8([32]byte{1})
	buf, wanted := make([]byte, 64<<10), make([]byte, 64<<10)
	for got := 0; got < size; {
		n, err := io.ReadFull(c, buf[:min(len(buf), size-got)])
		_, _ = want.Read(wanted[:n])
		if err != nil || !bytes.Equal(buf[:n], wanted[:n]) {
			t.Fatalf("at byte %d: %v, or other bytes than were sent", got, err)
		}
		got += n
	}
	if _, err := c.Read(buf); !errors.Is(err, io.EOF) {
		t.Errorf("Read() after all = %v; want EOF", err)
	}
	close(stop)
	flap.Wait()
	wantAttempt(t, r.record, "tcp", "10.0.0.1:80", Allowed, func(a Attempt) bool { return a.Sent == size && a.Received == size })
}

func TestRelayLatency(t *testing.T) {
	r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), nil, "tcp:10.0.0.1:80,latency=60ms")
	c := dial(t, r.addr)
	for i, want := range [][2]time.Duration{{120 * time.Millisecond, 400 * time.Millisecond}, {0, 60 * time.Millisecond}} {
		start := time.Now()
		send(t, c, "x")
		expect(t, c, "x")
		if d := time.Since(start); d < want[0] || d > want[1] {
			t.Errorf("round trip %d took %v; want %v to %v", i+1, d, want[0], want[1])
		}
	}
}

func TestRelayRate(t *testing.T) {
	server := tcpServer(t, func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 500_000)) })
	r := newRig(t, "10.0.0.1:80", server, nil, "tcp:10.0.0.1:80,rate=1MB")
	start := time.Now()
	n, err := io.Copy(io.Discard, dial(t, r.addr))
	if d := time.Since(start); n != 500_000 || err != nil || d < 400*time.Millisecond || d > 1200*time.Millisecond {
		t.Errorf("%d bytes, %v, in %v; want 500000 in about 500ms", n, err, d)
	}
}

func TestRelayLoss(t *testing.T) {
	r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), nil, "tcp:10.0.0.1:80,loss=100%")
	c := dial(t, r.addr)
	send(t, c, "x")
	silent(t, c)
	wantAttempt(t, r.record, "tcp", "10.0.0.1:80", Blocked, func(a Attempt) bool { return a.Outcome == Silent })
}

func TestRelayUnix(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", dir+"/inside.sock")
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, "10.0.0.1:80", tcpServer(t, echo), func(o *RelayOptions) {
		ok := o.Dial
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if network != "unix" || address != "/run/x.sock" {
				t.Errorf("dialed %s %s; want unix /run/x.sock", network, address)
			}
			return ok(ctx, "tcp", address)
		}
	}, "unix:/run/x.sock")
	background(t, func(ctx context.Context) error { return r.ServeUnix(ctx, l, "/run/x.sock") })
	c, err := net.Dial("unix", dir+"/inside.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(t, c, "hello")
	expect(t, c, "hello")
	wantAttempt(t, r.record, "unix", "/run/x.sock", Allowed, whatever)
}

// darkening is a connection that goes dark in the moment its deadline is lifted.
type darkening struct {
	net.Conn
	g    *gate
	once sync.Once
}

func (d *darkening) SetReadDeadline(at time.Time) error {
	if at.IsZero() {
		d.once.Do(func() { d.g.set(ModeDrop) })
	}
	return nil
}

func TestRelayReadyInTheDark(t *testing.T) {
	g := newGate(Capability{Mode: ModeAllow})
	_, f := newFlow(t.Context(), &Relay{}, &net.TCPConn{}, Attempt{})
	f.gate.Store(g)
	ready := make(chan error, 1)
	go func() { ready <- f.ready(&darkening{g: g}) }()
	select {
	case err := <-ready:
		t.Errorf("ready() = %v while it is dark; want it to wait", err)
	case <-time.After(50 * time.Millisecond):
		g.set(ModeAllow)
		if err := <-ready; err != nil {
			t.Errorf("ready() = %v; want nil", err)
		}
	}
}
