package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// udpServer echoes datagrams.
func udpServer(t testing.TB) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().String()
}

func (r *rig) udp(t testing.TB) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return r.ServeUDP(ctx, c) })
	return c.LocalAddr().String()
}

func udpClient(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestRelayUDP(t *testing.T) {
	r := newRig(t, "10.0.0.1:123", udpServer(t), nil, "udp:10.0.0.1:123,name=clock")
	addr := r.udp(t)
	a, b := udpClient(t, addr), udpClient(t, addr)
	for _, s := range []string{"one", "two", string(make([]byte, 9000))} {
		send(t, a, s+"a")
		send(t, b, s+"b")
		expect(t, a, s+"a")
		expect(t, b, s+"b")
	}
	if err := r.SetMode("clock", ModeDrop); err != nil {
		t.Fatal(err)
	}
	send(t, a, "dark")
	silent(t, a)
	if err := r.SetMode("clock", ModeAllow); err != nil {
		t.Fatal(err)
	}
	send(t, a, "back")
	expect(t, a, "back") // and what was sent in the dark is lost
	got := wantAttempt(t, r.record, "udp", "10.0.0.1:123", Allowed, func(a Attempt) bool { return a.Received == a.Sent })
	if got.Sent != 2*9001+8*2+4 || got.Outcome != Answered || got.Capability != "clock" {
		t.Errorf("record = %+v; want %d bytes answered under clock", got, 2*9001+8*2+4)
	}
	wantAttempt(t, r.record, "udp", "10.0.0.1:123", Blocked, func(a Attempt) bool { return a.Outcome == Silent && a.Count == 1 })
	if len(r.dialed) != 2 || r.dialed[0] != "udp 10.0.0.1:123" {
		t.Errorf("dialed %q; want udp 10.0.0.1:123 for each socket", r.dialed)
	}
}

func TestRelayUDPNotCovered(t *testing.T) {
	r := newRig(t, "10.0.0.1:443", udpServer(t), nil, "http:http://10.0.0.1:443", "tcp:10.0.0.1:443")
	c := udpClient(t, r.udp(t))
	send(t, c, "QUIC") // what is not TCP stays dark
	silent(t, c)
	wantAttempt(t, r.record, "udp", "10.0.0.1:443", Blocked, func(a Attempt) bool { return a.Outcome == Silent })
	if len(r.dialed) != 0 {
		t.Errorf("dialed %q; want nothing", r.dialed)
	}
}

func TestRelayUDPSlow(t *testing.T) {
	r := newRig(t, "10.0.0.1:123", udpServer(t), nil, "udp:10.0.0.1:123,latency=50ms")
	c := udpClient(t, r.udp(t))
	for range 2 {
		start := time.Now()
		send(t, c, "x")
		expect(t, c, "x")
		if d := time.Since(start); d < 100*time.Millisecond || d > 400*time.Millisecond {
			t.Errorf("round trip = %v; want about 100ms", d)
		}
	}
	r = newRig(t, "10.0.0.1:123", udpServer(t), nil, "udp:10.0.0.1:123,loss=100%")
	c = udpClient(t, r.udp(t))
	send(t, c, "x")
	silent(t, c)
}

func TestRelayUDPManyFlows(t *testing.T) {
	r := newRig(t, "10.0.0.1:123", udpServer(t), nil, "udp:10.0.0.1:123")
	addr := r.udp(t)
	for range maxUDPFlows + 400 {
		c, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		send(t, c, "x")
		expect(t, c, "x")
		c.Close()
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil || len(fds) > maxUDPFlows+200 {
		t.Errorf("%d descriptors, %v; want about %d", len(fds), err, maxUDPFlows)
	}
}

func TestRelayUDPRefused(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	r := newRig(t, "10.0.0.1:123", c.LocalAddr().String(), nil, "udp:10.0.0.1:123")
	p := udpClient(t, r.udp(t))
	send(t, p, "x")
	wantAttempt(t, r.record, "udp", "10.0.0.1:123", Allowed, func(a Attempt) bool { return a.Outcome == Refused })
	_ = p.SetReadDeadline(time.Now())
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read() = %v; want nothing", err)
	}
}
