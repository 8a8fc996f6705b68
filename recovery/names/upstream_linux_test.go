package names

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// freePort is a port that is free on 127.0.0.1 for UDP and TCP, and outside of the range of
// ephemeral ports, where nobody would take it meanwhile.
func freePort(t *testing.T) int {
	t.Helper()
	u, l := listenBoth(t)
	u.Close()
	l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func listenBoth(t *testing.T) (*net.UDPConn, net.Listener) {
	t.Helper()
	for range 100 {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(25000+rand.IntN(7000)))
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", at.String())
		if err == nil {
			return u, l
		}
		u.Close()
	}
	t.Fatal("no free port")
	return nil, nil
}

// daemon starts a name server and waits until it answers; it ends with the test.
func daemon(t *testing.T, at netip.AddrPort, name string, args ...string) {
	t.Helper()
	c := exec.Command(name, args...)
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Wait(); close(done) }()
	t.Cleanup(func() {
		c.Process.Kill()
		<-done
	})
	client := dns.Client{Timeout: 200 * time.Millisecond}
	m := new(dns.Msg)
	m.SetQuestion("example.com.", dns.TypeSOA)
	for deadline := time.Now().Add(time.Minute); ; {
		if a, _, err := client.Exchange(m, at.String()); err == nil && a.Rcode == dns.RcodeSuccess {
			return
		}
		select {
		case <-done:
			t.Fatalf("%s ended:\n%s", name, log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer:\n%s", name, log.String())
		}
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const tsigSecret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI="

// startNamed starts BIND with example.com.
func startNamed(t *testing.T, zone string) netip.AddrPort {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "zone"), zone)
	port := freePort(t)
	conf := write(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
key "transfer" { algorithm hmac-sha256; secret "%s"; };
options { directory "%s"; pid-file none; listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; allow-transfer { key "transfer"; }; session-keyfile none; dnssec-validation no; notify no; };
controls { };
zone "example.com" { type primary; file "%[2]s/zone"; check-integrity no; };
`, tsigSecret, dir, port))
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	daemon(t, at, "named", "-g", "-n", "1", "-c", conf)
	return at
}

// startKnot starts Knot with example.com, which it signs with NSEC3 if that is asked for.
func startKnot(t *testing.T, zone string, sign bool) netip.AddrPort {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "zone"), zone)
	port := freePort(t)
	conf := write(t, filepath.Join(dir, "knot.conf"), fmt.Sprintf(`
server:
  rundir: %[1]s
  listen: 127.0.0.1@%[2]d
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
database:
  storage: %[1]s
key:
  - id: transfer
    algorithm: hmac-sha256
    secret: %[3]s
acl:
  - id: transfer
    key: transfer
    action: transfer
policy:
  - id: hashed
    algorithm: ecdsap256sha256
    single-type-signing: on
    nsec3: on
    nsec3-iterations: 3
    nsec3-salt-length: 4
zone:
  - domain: example.com
    file: %[1]s/zone
    zonefile-sync: -1
    journal-content: none
    acl: transfer
    semantic-checks: soft
    dnssec-signing: %[4]v
    dnssec-policy: hashed
`, dir, port, tsigSecret, sign))
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))
	daemon(t, at, "knotd", "-c", conf)
	return at
}

// client asks a server over UDP with EDNS0, over TCP where that is truncated.
func client(t *testing.T, at netip.AddrPort, name string, typ uint16) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.SetEdns0(1232, false)
	c := dns.Client{Timeout: 5 * time.Second}
	a, _, err := c.Exchange(m, at.String())
	if err == nil && a.Truncated {
		c.Net = "tcp"
		a, _, err = c.Exchange(m, at.String())
	}
	if err != nil {
		t.Fatalf("asking for %s %s: %v", name, typeName(typ), err)
	}
	return a
}

// said is an answer in short: rcode, records' data and TTLs, extended errors' codes and texts.
func said(m *dns.Msg) string {
	words := []string{dns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		words = append(words, fmt.Sprintf("%s/%d", data, rr.Header().Ttl))
	}
	if o := m.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if e, ok := opt.(*dns.EDNS0_EDE); ok {
				words = append(words, fmt.Sprintf("EDE%d(%s)", e.InfoCode, e.ExtraText))
			}
		}
	}
	return strings.Join(words, " ")
}

var seenAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// frozenSet is what was known of example.com name by name.
func frozenSet(t *testing.T) *Set {
	t.Helper()
	b := NewBuilder()
	for name, addr := range map[string]string{"www.example.com": "192.0.2.1", "lost.example.com": "192.0.2.2", "untyped.example.com": "192.0.2.3"} {
		if err := b.Addresses(name, []netip.Addr{netip.MustParseAddr(addr)}, 300, seenAt); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLastKnownGood(t *testing.T) {
	t.Parallel()
	zone := "$ORIGIN example.com.\n$TTL 600\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 127.0.0.1\nwww A 198.51.100.1\nnew A 198.51.100.9\nuntyped TXT x\n" + many2("large")
	for name, up := range map[string]netip.AddrPort{"BIND": startNamed(t, zone), "Knot": startKnot(t, zone, false)} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Mode: LastKnownGood, Upstreams: []netip.AddrPort{up}}, frozenSet(t))
			at := s.Addrs()[0]
			for _, c := range []struct{ name, want string }{
				{"www.example.com.", "NOERROR 198.51.100.1/600"},
				{"WWW.EXAMPLE.com.", "NOERROR 198.51.100.1/600"},
				{"new.example.com.", "NOERROR 198.51.100.9/600"},
				{"absent.example.com.", "NXDOMAIN"},
				{"lost.example.com.", "NOERROR 192.0.2.2/30 EDE3(frozen 2026-03-01T12:00:00Z, "},
				{"untyped.example.com.", "NOERROR 192.0.2.3/30 EDE3(frozen 2026-03-01T12:00:00Z, "},
				// The upstream refuses this one.
				{"elsewhere.example.", "SERVFAIL EDE22(upstream answers REFUSED)"},
			} {
				m := client(t, at, c.name, dns.TypeA)
				if got := said(m); !strings.HasPrefix(got, c.want) {
					t.Errorf("%s = %s; want %s", c.name, got, c.want)
				} else if strings.HasPrefix(c.want, "NOERROR") && m.Answer[0].Header().Name != c.name {
					t.Errorf("%s = %s; want the name as asked", c.name, m.Answer[0])
				}
			}
			if m := client(t, at, "lost.example.com.", dns.TypeA); !strings.HasSuffix(said(m), " ago; upstream denies it)") || m.Authoritative || !m.RecursionAvailable {
				t.Errorf("lost.example.com. = %s, aa %v, ra %v; want the age and the denial, ra without aa", said(m), m.Authoritative, m.RecursionAvailable)
			}
			if m := client(t, at, "large.example.com.", dns.TypeTXT); len(m.Answer) != 40 {
				t.Errorf("large.example.com. TXT has %d records; want all 40, over TCP", len(m.Answer))
			}
			if miss := s.Missing(); len(miss) != 1 || miss[0].Name != "elsewhere.example." || miss[0].Count != 1 {
				t.Errorf("Missing() = %v; want elsewhere.example.", miss)
			}
		})
	}
}

func many2(name string) string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "%s TXT \"%d%s\"\n", name, i, strings.Repeat("x", 100))
	}
	return b.String()
}

// evil is an upstream that answers with whatever its function returns.
func evil(t *testing.T, answers func(q *dns.Msg) [][]byte) netip.AddrPort {
	t.Helper()
	c, l := listenBoth(t)
	at := l.Addr().(*net.TCPAddr).AddrPort()
	var wg sync.WaitGroup
	wg.Go(func() {
		for buf := make([]byte, 4096); ; {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			var q dns.Msg
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			for _, a := range answers(&q) {
				c.WriteToUDPAddrPort(a, from)
			}
		}
	})
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	})
	t.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
	return at
}

// forge answers a query with an address.
func forge(q *dns.Msg, address string, change ...func(*dns.Msg)) []byte {
	m := new(dns.Msg)
	m.SetReply(q)
	rr, _ := dns.NewRR(q.Question[0].Name + " 60 A " + address)
	m.Answer = []dns.RR{rr}
	for _, c := range change {
		c(m)
	}
	raw, _ := m.Pack()
	return raw
}

func TestEvilUpstreams(t *testing.T) {
	t.Parallel()
	const frozen = "NOERROR 192.0.2.1/30 EDE3(frozen 2026-03-01T12:00:00Z, "
	swapCase := func(m *dns.Msg) {
		m.Question[0].Name = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
				return r ^ 0x20
			}
			return r
		}, m.Question[0].Name)
	}
	rcode := func(r int) func(q *dns.Msg) [][]byte {
		return func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Rcode, m.Answer = r, nil })}
		}
	}
	for name, c := range map[string]struct {
		answers func(q *dns.Msg) [][]byte
		want    string
	}{
		"silent":   {func(*dns.Msg) [][]byte { return nil }, frozen},
		"SERVFAIL": {rcode(dns.RcodeServerFailure), frozen},
		"REFUSED":  {rcode(dns.RcodeRefused), frozen},
		"NXDOMAIN": {rcode(dns.RcodeNameError), frozen},
		"NODATA":   {rcode(dns.RcodeSuccess), frozen},
		"FORMERR":  {rcode(dns.RcodeFormatError), frozen},
		"only another id": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Id++ })}
		}, frozen},
		"another question": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Question[0].Name = "www.example.net." })}
		}, frozen},
		"another type": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })}
		}, frozen},
		"another case": {func(q *dns.Msg) [][]byte { return [][]byte{forge(q, "203.0.113.66", swapCase)} }, frozen},
		"a query": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Response = false })}
		}, frozen},
		"garbage": {func(q *dns.Msg) [][]byte { return [][]byte{[]byte("garbage"), {}, bytes.Repeat([]byte{0xc0}, 300)} }, frozen},
		"broken records": {func(q *dns.Msg) [][]byte {
			a := forge(q, "203.0.113.66")
			return [][]byte{a[:len(a)-2]}
		}, frozen},
		"truncated, and no TCP": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Truncated = true })}
		}, frozen},
		"spoofed before the real one": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "203.0.113.66", func(m *dns.Msg) { m.Id ^= 0xff }), forge(q, "198.51.100.1")}
		}, "NOERROR 198.51.100.1/60"},
		"twice": {func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "198.51.100.1"), forge(q, "203.0.113.66")}
		}, "NOERROR 198.51.100.1/60"},
		"many spoofed": {func(q *dns.Msg) [][]byte {
			var all [][]byte
			for i := range 40 {
				all = append(all, forge(q, "203.0.113.66", func(m *dns.Msg) { m.Id += uint16(i) + 1 }))
			}
			return all
		}, frozen},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, Options{Mode: LastKnownGood, Timeout: 200 * time.Millisecond, Upstreams: []netip.AddrPort{evil(t, c.answers)}}, frozenSet(t))
			begin := time.Now()
			got := said(client(t, s.Addrs()[0], "www.example.com.", dns.TypeA))
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("www.example.com. = %s; want %s", got, c.want)
			}
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("it took %v; want an answer within the timeout", took)
			}
		})
	}
}

func TestLateAnswer(t *testing.T) {
	gate := make(chan struct{})
	up := evil(t, func(q *dns.Msg) [][]byte { <-gate; return [][]byte{forge(q, "198.51.100.1")} })
	t.Cleanup(func() { close(gate) })
	s := start(t, Options{Mode: LastKnownGood, Timeout: 100 * time.Millisecond, Upstreams: []netip.AddrPort{up}}, frozenSet(t))
	c, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(pack(t, "www.example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, err := c.Read(buf)
	if err != nil || buf[n-1] != 1 || buf[n-4] != 192 {
		t.Fatalf("answer = %x, %v; want 192.0.2.1", buf[:n], err)
	}
	gate <- struct{}{}
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, err := c.Read(buf); err == nil {
		t.Errorf("a second answer came: %x", buf[:n])
	}
}

func TestBreaker(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	up := evil(t, func(*dns.Msg) [][]byte { mu.Lock(); defer mu.Unlock(); asked++; return nil })
	s := start(t, Options{Mode: LastKnownGood, Timeout: 100 * time.Millisecond, Upstreams: []netip.AddrPort{up}}, frozenSet(t))
	for range breakAfter {
		client(t, s.Addrs()[0], "www.example.com.", dns.TypeA)
	}
	begin := time.Now()
	for range 50 {
		if got := said(client(t, s.Addrs()[0], "www.example.com.", dns.TypeA)); !strings.Contains(got, "upstream has failed lately") {
			t.Fatalf("with the breaker open = %s; want a frozen answer that says so", got)
		}
	}
	if took := time.Since(begin); took > 600*time.Millisecond {
		t.Errorf("50 answers with the breaker open took %v; want no wait", took)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked != breakAfter {
		t.Errorf("upstream was asked %d times; want %d", asked, breakAfter)
	}
	var b bytes.Buffer
	if err := s.WriteMetrics(&b); err != nil || !strings.Contains(b.String(), fmt.Sprintf("blackstart_dns_upstream_left_alone{upstream=%q} 1\n", up)) ||
		!strings.Contains(b.String(), `blackstart_dns_answers_total{from="frozen",rcode="NOERROR"} 53`) {
		t.Errorf("WriteMetrics() = %v\n%s", err, b.String())
	}
}

func TestSecondUpstream(t *testing.T) {
	t.Parallel()
	good := func(q *dns.Msg) [][]byte { return [][]byte{forge(q, "198.51.100.1")} }
	for name, first := range map[string]func(*dns.Msg) [][]byte{
		"silent": func(*dns.Msg) [][]byte { return nil },
		"denying": func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "", func(m *dns.Msg) { m.Rcode, m.Answer = 3, nil })}
		},
		"failing": func(q *dns.Msg) [][]byte {
			return [][]byte{forge(q, "", func(m *dns.Msg) { m.Rcode, m.Answer = 2, nil })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Options{Mode: LastKnownGood, Upstreams: []netip.AddrPort{evil(t, first), evil(t, good)}}, frozenSet(t))
			if got := said(client(t, s.Addrs()[0], "www.example.com.", dns.TypeA)); got != "NOERROR 198.51.100.1/60" {
				t.Errorf("www.example.com. = %s; want the second upstream's answer", got)
			}
		})
	}
}

func TestQueriesUpstreamAreHardToGuess(t *testing.T) {
	var q query
	if q.parse(pack(t, "www.some-longer-name.example.com.", dns.TypeA), false) != 0 {
		t.Fatal("parse() does not take a good query")
	}
	ids, cases := map[string]bool{}, map[string]bool{}
	for range 50 {
		msg := q.upstream()
		name := msg[headerSize : headerSize+q.n]
		ids[string(msg[:2])], cases[string(name)] = true, true
		if lowered := bytes.ToLower(name); !bytes.Equal(lowered, q.asked()) {
			t.Fatalf("upstream() asks for %q; want %q in some case", name, q.asked())
		}
	}
	if len(ids) < 45 || len(cases) < 45 {
		t.Errorf("50 queries have %d ids and %d spellings; want them to differ", len(ids), len(cases))
	}
}
