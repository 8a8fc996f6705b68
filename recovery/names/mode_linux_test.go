package names

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func overrides(t *testing.T, list map[string]string) *Set {
	t.Helper()
	b := NewBuilder()
	for name, addr := range list {
		if err := b.Addresses(name, []netip.Addr{netip.MustParseAddr(addr)}, 30, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestModes(t *testing.T) {
	up := evil(t, func(q *dns.Msg) [][]byte { return [][]byte{forge(q, "198.51.100.1")} })
	over := overrides(t, map[string]string{"pinned.example.com": "192.0.2.99", "*.apps.example.com": "192.0.2.98"})
	for _, c := range []struct {
		mode Mode
		name string
		want string
		why  string
	}{
		{Auth, "www.example.com.", "NOERROR 192.0.2.1/300", "from the server's own data"},
		{Auth, "new.example.com.", "SERVFAIL EDE20()", "not in the server's data"},
		{Auth, "pinned.example.com.", "NOERROR 192.0.2.99/30 EDE4(override)", "set by whoever runs the server"},
		{Auth, "x.y.apps.example.com.", "NOERROR 192.0.2.98/30 EDE4(override)", "override"},
		{LastKnownGood, "www.example.com.", "NOERROR 198.51.100.1/60", "from other servers"},
		{LastKnownGood, "new.example.com.", "NOERROR 198.51.100.1/60", "from other servers"},
		{LastKnownGood, "pinned.example.com.", "NOERROR 192.0.2.99/30 EDE4(override)", "override"},
		{Pin, "www.example.com.", "NOERROR 192.0.2.1/300", "from the server's own data"},
		{Pin, "new.example.com.", "NOERROR 198.51.100.1/60", "from other servers"},
		{Pin, "pinned.example.com.", "NOERROR 192.0.2.99/30 EDE4(override)", "override"},
	} {
		o := Options{Mode: c.mode, Overrides: over}
		if c.mode != Auth {
			o.Upstreams = []netip.AddrPort{up}
		}
		s := start(t, o, frozenSet(t))
		if got := said(client(t, s.Addrs()[0], c.name, dns.TypeA)); got != c.want {
			t.Errorf("%v: %s = %s; want %s", c.mode, c.name, got, c.want)
		}
		a, err := Ask(t.Context(), c.name, "a", s.Addrs()[0])
		if err != nil || !strings.Contains(strings.Join(a.Why, " "), c.why) || a.Found() != strings.HasPrefix(c.want, "NOERROR") {
			t.Errorf("%v: Ask(%s) = %+v, %v; want %q", c.mode, c.name, a, err, c.why)
		}
	}
}

func TestNeverAnOpenResolver(t *testing.T) {
	var asked atomic.Int32
	up := evil(t, func(q *dns.Msg) [][]byte { asked.Add(1); return [][]byte{forge(q, "198.51.100.1")} })
	for _, mode := range []Mode{LastKnownGood, Pin} {
		s := start(t, Options{Mode: mode, Upstreams: []netip.AddrPort{up}, Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, frozenSet(t))
		for name, want := range map[string]string{"www.example.com.": "NOERROR 192.0.2.1/300", "new.example.com.": "REFUSED EDE20()"} {
			m := client(t, s.Addrs()[0], name, dns.TypeA)
			if got := said(m); got != want || m.RecursionAvailable {
				t.Errorf("%v: %s for a client that is not allowed = %s, ra %v; want %s without ra", mode, name, got, m.RecursionAvailable, want)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("upstream was asked %d times; want never", n)
	}
}

func TestLoops(t *testing.T) {
	set := frozenSet(t)
	free := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(freePort(t)))
	for _, c := range []struct{ listen, up netip.AddrPort }{
		{free, free},
		{netip.AddrPortFrom(netip.MustParseAddr("0.0.0.0"), free.Port()), free},
		{netip.AddrPortFrom(netip.MustParseAddr("::"), free.Port()), free},
		{free, netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), free.Port())},
	} {
		o := Options{Listen: []netip.AddrPort{c.listen}, Mode: LastKnownGood, Upstreams: []netip.AddrPort{c.up}}
		if s, err := Listen(t.Context(), o, set); !errors.Is(err, ErrLoop) {
			t.Errorf("Listen(%v, upstream %v) = %v; want ErrLoop", c.listen, c.up, err)
			if err == nil {
				s.Close()
			}
		}
	}
	// Two that ask each other.
	a, b := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(freePort(t))), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), uint16(freePort(t)))
	first := start(t, Options{Listen: []netip.AddrPort{a}, Mode: LastKnownGood, Upstreams: []netip.AddrPort{b}}, set)
	start(t, Options{Listen: []netip.AddrPort{b}, Mode: LastKnownGood, Upstreams: []netip.AddrPort{a}}, set)
	begin := time.Now()
	if got := said(client(t, a, "unknown.example.", dns.TypeA)); !strings.HasPrefix(got, "SERVFAIL") {
		t.Errorf("two that ask each other = %s; want SERVFAIL", got)
	}
	if took := time.Since(begin); took > 300*time.Millisecond {
		t.Errorf("it took %v; want an end at once", took)
	}
	var m bytes.Buffer
	if err := first.WriteMetrics(&m); err != nil || !strings.Contains(m.String(), "blackstart_dns_forwarded_total 2\n") {
		t.Errorf("WriteMetrics() = %v\n%s\nwant 2 forwarded", err, m.String())
	}
}

func TestOptions(t *testing.T) {
	at := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	for name, o := range map[string]Options{
		"nowhere":          {},
		"lkg, no upstream": {Listen: at, Mode: LastKnownGood},
		"auth, upstream":   {Listen: at, Upstreams: at},
		"no such mode":     {Listen: at, Mode: 9},
		"upstream port 0":  {Listen: at, Mode: Pin, Upstreams: at},
	} {
		if s, err := Listen(t.Context(), o, frozenSet(t)); err == nil {
			t.Errorf("%s: Listen() = nil; want an error", name)
			s.Close()
		}
	}
	if _, err := Listen(t.Context(), Options{Listen: at}, nil); !errors.Is(err, ErrNoNames) {
		t.Errorf("Listen() without data = %v; want ErrNoNames", err)
	}
	for _, m := range []Mode{Auth, LastKnownGood, Pin} {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("ParseMode(%v) = %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("x"); err == nil {
		t.Error("ParseMode(x) = nil; want an error")
	}
}

func TestSamples(t *testing.T) {
	var mu sync.Mutex
	var got []Sample
	s := start(t, Options{SampleEvery: 3, Workers: 1, Sample: func(one Sample) { mu.Lock(); defer mu.Unlock(); got = append(got, one) }}, build(t, testZone))
	for range 9 {
		client(t, s.Addrs()[0], "www.example.com.", dns.TypeA)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 3 || got[0].Name != "www.example.com." || got[0].Type != "A" || got[0].Rcode != "NOERROR" || got[0].From != "data" || !got[0].Client.Addr().IsLoopback() {
		t.Errorf("there are %d samples of 9 answers: %+v; want 3", len(got), got)
	}
}

func TestAsk(t *testing.T) {
	s := start(t, Options{}, build(t, largeZone()))
	for _, c := range []struct{ name, typ, rcode, why string }{
		{"deep.example.com", "A", "NOERROR", "www.example.com has A records. deep.example.com is an alias of alias.example.com."},
		{"192.0.2.80", "A", "NOERROR", "has PTR records"},
		{"large.example.com", "A", "NOERROR", "has A records"},
		{"www.example.com", "MX", "NOERROR", "www.example.com is there, but has no MX record."},
		{"nowhere.example.com", "A", "NXDOMAIN", "The zone example.com has no name nowhere.example.com."},
		{"x.sub.example.com", "A", "NOERROR", "sub.example.com is delegated"},
		{"out.example.com", "A", "NOERROR", "The server says nothing of www.elsewhere.example."},
		{"elsewhere.example", "A", "SERVFAIL", "not in the server's data"},
	} {
		a, err := Ask(t.Context(), c.name, c.typ, s.Addrs()[0])
		if err != nil {
			t.Error(err)
			continue
		}
		if why := strings.Join(a.Why, " "); a.Rcode != c.rcode || !strings.Contains(why, c.why) {
			t.Errorf("Ask(%s, %s) = %s, %q; want %s, %q", c.name, c.typ, a.Rcode, why, c.rcode, c.why)
		}
	}
	for _, c := range [][2]string{{"a..b", "A"}, {"a.b", "NOSUCH"}} {
		if _, err := Ask(t.Context(), c[0], c[1], s.Addrs()[0]); !errors.Is(err, ErrBadData) {
			t.Errorf("Ask(%s, %s) = %v; want ErrBadData", c[0], c[1], err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	text, err := os.ReadFile("testdata/golden/rfc5155.txt")
	if err != nil {
		t.Fatal(err)
	}
	hashed, _, _ := strings.Cut(string(text), "\n---\n")
	set := build(t, testZone+"moved DNAME wild\n", hashed)
	s := &Server{o: Options{Overrides: overrides(t, map[string]string{"x.test": "192.0.2.9"})}}
	var q query
	var w reply
	buf := make([]byte, udpSize)
	for _, name := range []string{"www.example.com.", "deep.example.com.", "nowhere.example.com.", "a.b.c.wild.example.com.", "x.sub.example.com.", "x.moved.example.com.", "a.c.x.w.example.", "mc.c.example.", "a.z.w.example.", "x.test.", "unknown.test."} {
		msg := pack(t, name, dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
		handle := func() {
			if v := s.handle(set, &q, &w, msg, buf, netip.Addr{}, false); v.n == 0 {
				t.Fatalf("handle(%s) gives no answer", name)
			}
		}
		handle()
		if n := testing.AllocsPerRun(100, handle); n != 0 {
			t.Errorf("answering %s takes %v allocations; want none", name, n)
		}
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	gate := make(chan struct{})
	up := evil(t, func(q *dns.Msg) [][]byte {
		if strings.HasPrefix(strings.ToLower(q.Question[0].Name), "slow") {
			<-gate
		}
		return [][]byte{forge(q, "198.51.100.1")}
	})
	s := start(t, Options{Mode: Pin, Upstreams: []netip.AddrPort{up}, Timeout: 2 * time.Second, Idle: time.Second}, frozenSet(t))
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	conn := &dns.Conn{Conn: c}
	var all bytes.Buffer
	for i, name := range []string{"slow.example.", "www.example.com.", "www.example.com."} {
		raw := pack(t, name, dns.TypeA, func(m *dns.Msg) { m.Id = uint16(i) })
		all.Write([]byte{byte(len(raw) >> 8), byte(len(raw))})
		all.Write(raw)
	}
	// Several queries in pieces: the length of the first, then the rest.
	for _, piece := range [][]byte{all.Bytes()[:1], all.Bytes()[1:20], all.Bytes()[20:]} {
		if _, err := c.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for range 3 {
		if len(order) == 2 {
			gate <- struct{}{}
			// No more queries, but one answer is owed (RFC 7766, section 6.2.4).
			c.(*net.TCPConn).CloseWrite()
		}
		m, err := conn.ReadMsg()
		if err != nil {
			t.Fatalf("after %v: %v", order, err)
		}
		order = append(order, fmt.Sprint(m.Id))
	}
	if got := strings.Join(order, " "); got != "1 2 0" {
		t.Errorf("answers came in the order %s; want those that are known first", got)
	}
	if _, err := conn.ReadMsg(); err == nil {
		t.Error("the connection stays open; want it closed after the last answer")
	}
}

func TestManyConnections(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Conns: 3000, Idle: time.Minute}, build(t, testZone))
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 4000 {
		c, err := net.Dial("tcp", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// All of them are idle, and the last is served all the same.
	last := &dns.Conn{Conn: conns[len(conns)-1]}
	last.SetDeadline(time.Now().Add(5 * time.Second))
	m := new(dns.Msg)
	m.SetQuestion("www.example.com.", dns.TypeA)
	if err := last.WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	if a, err := last.ReadMsg(); err != nil || len(a.Answer) != 1 {
		t.Errorf("the last of 4,000 connections: %v, %v; want an answer", a, err)
	}
	if n := s.conns.count(); n > 3000 || n < 2900 {
		t.Errorf("%d connections are open; want 3,000", n)
	}
	conns[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conns[0].Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeout) {
		t.Errorf("the first connection = %v; want it closed", err)
	}
}

func TestSlowAndRudeTCPClients(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Idle: 200 * time.Millisecond}, build(t, testZone))
	for name, msg := range map[string][]byte{
		"silent":       nil,
		"too short":    {0, 3, 1, 2, 3},
		"an answer":    append([]byte{0, 12}, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"length zero":  {0, 0},
		"HTTP request": []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := net.Dial("tcp", s.Addrs()[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write(msg); err != nil {
				t.Fatal(err)
			}
			c.SetReadDeadline(time.Now().Add(tcpPatience + 3*time.Second))
			if n, err := c.Read(make([]byte, 100)); err == nil || n > 0 || strings.Contains(err.Error(), "timeout") {
				t.Errorf("Read() = %d, %v; want the connection closed", n, err)
			}
		})
	}
}

// TestClientThatNeverReads: it holds its connection for a while, and nothing else.
func TestClientThatNeverReads(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Workers: 1}, build(t, largeZone()))
	c, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw := pack(t, "large.example.com.", dns.TypeA)
	many := bytes.Repeat(append([]byte{byte(len(raw) >> 8), byte(len(raw))}, raw...), 1000)
	begin := time.Now()
	c.SetWriteDeadline(begin.Add(tcpPatience + 5*time.Second))
	served := 0
	for err == nil && time.Since(begin) < tcpPatience+5*time.Second {
		_, err = c.Write(many)
		if a := client(t, s.Addrs()[0], "www.example.com.", dns.TypeA); len(a.Answer) == 1 {
			served++
		}
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write() = %v after %v; want the connection closed", err, time.Since(begin))
	}
	if served == 0 {
		t.Error("nobody else was served meanwhile")
	}
	for deadline := time.Now().Add(time.Minute); s.conns.count() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open; want none", s.conns.count())
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}
