package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestMain lets this test binary be a name server: NAMES_TEST_SERVE is an address, NAMES_TEST_ZONE a zone file. See
// killedAt for what else it is.
func TestMain(m *testing.M) {
	if at := os.Getenv("NAMES_TEST_SERVE"); at != "" {
		if err := serveZone(at, os.Getenv("NAMES_TEST_ZONE")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if name := os.Getenv(lookupEnv); name != "" {
		lookup(name)
		return
	}
	if spec := os.Getenv(killEnv); spec != "" {
		killedAt(spec)
	}
	os.Exit(m.Run())
}

func serveZone(at, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	b := NewBuilder()
	if err := b.Zone(f, "", file, time.Time{}); err != nil {
		return err
	}
	set, err := b.Build()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	o := Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(at)}}
	o.Workers, _ = strconv.Atoi(os.Getenv("NAMES_TEST_WORKERS"))
	s, err := Listen(ctx, o, set)
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}

const testZone = `$ORIGIN example.com.
@ 3600 SOA ns1 hostmaster 7 3600 600 86400 60
@ NS ns1
@ NS ns2.example.net.
ns1 300 A 192.0.2.1
www 300 A 192.0.2.80
www 300 AAAA 2001:db8::80
alias CNAME www
deep CNAME alias
out CNAME www.elsewhere.example.
gone CNAME nowhere
loop1 CNAME loop2
loop2 CNAME loop1
*.wild TXT "from the wildcard"
sub NS ns.sub
ns.sub A 192.0.2.53
big TXT "BIG"
`

// start serves until the test ends and returns the server.
func start(t *testing.T, o Options, set *Set) *Server {
	t.Helper()
	if o.Listen == nil {
		o.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Listen(ctx, o, set)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve() = %v; want nil", err)
			}
		case <-time.After(time.Minute):
			t.Error("Serve() did not return within a minute of its context's end")
		}
	})
	return s
}

func largeZone() string {
	var b strings.Builder
	b.WriteString(testZone)
	for i := range 100 {
		fmt.Fprintf(&b, "large A 10.1.0.%d\n", i)
	}
	return b.String()
}

// tool runs a program and returns what it prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	return toolFor(t, 20*time.Second, name, args...)
}

func toolFor(t *testing.T, patience time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestTools(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")}}, build(t, largeZone()))
	v4, v6 := s.Addrs()[0], s.Addrs()[1]
	p4, p6 := strconv.Itoa(int(v4.Port())), strconv.Itoa(int(v6.Port()))
	for _, c := range []struct {
		args string
		want []string
		not  string
	}{
		{"dig @127.0.0.1 -p 4 www.example.com A", []string{"status: NOERROR", "qr aa rd;", "www.example.com.	300	IN	A	192.0.2.80", "EDNS: version: 0, flags:; udp: 1232"}, ""},
		{"dig @::1 -p 6 www.example.com AAAA", []string{"www.example.com.	300	IN	AAAA	2001:db8::80"}, ""},
		{"dig @::1 -p 6 +tcp www.example.com AAAA", []string{"www.example.com.	300	IN	AAAA	2001:db8::80"}, ""},
		{"kdig @127.0.0.1 -p 4 +tcp deep.example.com A", []string{"alias.example.com.  	300	IN	CNAME	www.example.com.", "www.example.com.    	300	IN	A	192.0.2.80"}, ""},
		{"dig @127.0.0.1 -p 4 gone.example.com A", []string{"status: NXDOMAIN", "CNAME	nowhere.example.com.", "SOA	ns1.example.com."}, ""},
		{"dig @127.0.0.1 -p 4 out.example.com A", []string{"status: NOERROR", "CNAME	www.elsewhere.example."}, ""},
		{"dig @127.0.0.1 -p 4 loop1.example.com A", []string{"status: NOERROR"}, ""},
		{"dig @127.0.0.1 -p 4 x.y.wild.example.com TXT", []string{"x.y.wild.example.com.	", "from the wildcard"}, ""},
		{"dig @127.0.0.1 -p 4 host.sub.example.com A", []string{"flags: qr rd;", "sub.example.com.	300	IN	NS	ns.sub.example.com.", "ns.sub.example.com.	300	IN	A	192.0.2.53"}, ""},
		{"dig @127.0.0.1 -p 4 -x 192.0.2.80", []string{"www.example.com.\n"}, ""},
		{"dig @::1 -p 6 -x 2001:db8::80", []string{"www.example.com.\n"}, ""},
		{"dig @127.0.0.1 -p 4 +ignore large.example.com A", []string{"tc rd;", "ANSWER: 0"}, ""},
		{"dig @127.0.0.1 -p 4 large.example.com A", []string{"Truncated, retrying in TCP mode", "ANSWER: 100"}, ""},
		{"dig @127.0.0.1 -p 4 +notcp +ignore ANY www.example.com", []string{"ANSWER: 1,"}, ""},
		{"dig @127.0.0.1 -p 4 ANY www.example.com", []string{"ANSWER: 2,"}, ""},
		{"dig @127.0.0.1 -p 4 CH TXT version.bind", []string{"status: REFUSED", "ANSWER: 0"}, ""},
		{"dig @127.0.0.1 -p 4 elsewhere.example A", []string{"status: SERVFAIL", "EDE: 20 (Not Authoritative)"}, ""},
		{"dig @127.0.0.1 -p 4 +noedns WwW.ExAmPlE.cOm A", []string{"WwW.ExAmPlE.cOm.	300	IN	A"}, "OPT"},
		{"dig @127.0.0.1 -p 4 +edns=1 +noednsneg www.example.com A", []string{"status: BADVERS"}, ""},
		{"dig @127.0.0.1 -p 4 +opcode=NOTIFY www.example.com SOA", []string{"status: NOTIMP"}, ""},
		{"kdig @127.0.0.1 -p 4 example.com AXFR", []string{"REFUSED"}, ""},
		{"kdig @127.0.0.1 -p 4 +nsid +cookie +subnet=192.0.2.0/24 +padding=64 www.example.com A", []string{"status: NOERROR", "Version: 0; flags: ; UDP size: 1232 B; ext-rcode: NOERROR", "192.0.2.80"}, "NSID"},
		{"kdig @127.0.0.1 -p 4 +ignore +bufsize=512 large.example.com A", []string{"Flags: qr aa tc rd;", "ANSWER: 0;"}, ""},
		{"kdig @127.0.0.1 -p 4 +ignore +bufsize=4096 large.example.com A", []string{"Flags: qr aa tc rd;"}, ""}, // what fits one packet only
		{"kdig @127.0.0.1 -p 4 +tcp +keepopen large.example.com A www.example.com A", []string{"ANSWER: 100;", "192.0.2.80"}, ""},
		{"kdig @127.0.0.1 -p 4 +bufsize=0 +dnssec www.example.com A", []string{"flags: do;", "192.0.2.80"}, ""},
	} {
		args := strings.Fields(c.args)
		for i := range args {
			switch {
			case args[i] == "4":
				args[i] = p4
			case args[i] == "6":
				args[i] = p6
			}
		}
		out, _ := exec.Command(args[0], args[1:]...).CombinedOutput()
		for _, w := range c.want {
			if !strings.Contains(string(out), w) {
				t.Errorf("%s: no %q in\n%s", c.args, w, out)
			}
		}
		if c.not != "" && strings.Contains(string(out), c.not) {
			t.Errorf("%s: %q in\n%s", c.args, c.not, out)
		}
	}
}

// exchange sends raw bytes over UDP and returns the answer, or nil if none came within 300 ms.
func exchange(t *testing.T, at netip.AddrPort, msg []byte) []byte {
	t.Helper()
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

func pack(t testing.TB, name string, typ uint16, change ...func(*dns.Msg)) []byte {
	t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.Id = 0x1234
	for _, c := range change {
		c(m)
	}
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestMalformed(t *testing.T) {
	t.Parallel()
	s := start(t, Options{}, build(t, testZone))
	good := pack(t, "www.example.com.", dns.TypeA)
	edns := pack(t, "www.example.com.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	change := func(from []byte, at int, to ...byte) []byte {
		m := bytes.Clone(from)
		copy(m[at:], to)
		return m
	}
	const silence = -1
	for name, c := range map[string]struct {
		msg  []byte
		want int
	}{
		"good":                   {good, dns.RcodeSuccess},
		"empty":                  {[]byte{}, silence},
		"11 bytes":               {good[:11], silence},
		"an answer":              {change(good, 2, 0x80), silence},
		"header only":            {change(good[:12], 4, 0, 0), dns.RcodeFormatError},
		"no question":            {change(good, 4, 0, 0), dns.RcodeFormatError},
		"two questions":          {change(good, 4, 0, 2), dns.RcodeFormatError},
		"65535 questions":        {change(good, 4, 255, 255), dns.RcodeFormatError},
		"cut in the name":        {good[:20], dns.RcodeFormatError},
		"cut in the type":        {good[:len(good)-3], dns.RcodeFormatError},
		"trailing":               {append(bytes.Clone(good), 1), dns.RcodeFormatError},
		"compressed question":    {change(good, 12, 0xc0, 12), dns.RcodeFormatError},
		"pointer to itself":      {append(change(good[:12], 5, 1), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		"label type 01":          {change(good, 12, 0x41), dns.RcodeFormatError},
		"an answer in the query": {change(good, 6, 0, 1), dns.RcodeFormatError},
		"missing additional":     {change(good, 10, 0, 1), dns.RcodeFormatError},
		"65535 additional":       {change(edns, 10, 255, 255), dns.RcodeFormatError},
		"OPT not at root":        {append(change(good, 10, 0, 1), 1, 'a', 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0), dns.RcodeFormatError},
		"two OPT":                {append(change(edns, 10, 0, 2), 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0), dns.RcodeFormatError},
		"OPT too long":           {change(edns, len(edns)-2, 0, 9), dns.RcodeFormatError},
		"option cut":             {append(change(edns, len(edns)-2, 0, 3), 1, 2, 3), dns.RcodeFormatError},
		"option too long":        {append(change(edns, len(edns)-2, 0, 4), 0, 10, 0, 1), dns.RcodeFormatError},
		"update":                 {change(good, 2, 5<<3), dns.RcodeNotImplemented},
		"opcode 15":              {change(good, 2, 15<<3), dns.RcodeNotImplemented},
		"type 0":                 {pack(t, "www.example.com.", 0), dns.RcodeFormatError},
		"type OPT":               {pack(t, "www.example.com.", dns.TypeOPT), dns.RcodeFormatError},
		"type MAILB":             {pack(t, "www.example.com.", dns.TypeMAILB), dns.RcodeNotImplemented},
		"class CHAOS":            {change(good, len(good)-1, 3), dns.RcodeRefused},
		"class NONE":             {change(good, len(good)-1, 254), dns.RcodeRefused},
		"oversize":               {append(bytes.Clone(good), make([]byte, 5000)...), silence},
		"name of 256": {
			append(append(change(good[:12], 5, 1), bytes.Repeat([]byte("\x3f"+strings.Repeat("a", 63)), 4)...), 0, 0, 1, 0, 1),
			dns.RcodeFormatError,
		},
	} {
		answer := exchange(t, s.Addrs()[0], c.msg)
		got := silence
		if answer != nil {
			got = int(answer[3] & 15)
			var m dns.Msg
			if err := m.Unpack(answer); err != nil || !m.Response || m.Id != 0x1234 {
				t.Errorf("%s: the answer is no DNS message: %v, %v", name, err, m)
			}
		}
		if got != c.want {
			t.Errorf("%s: rcode = %d; want %d", name, got, c.want)
		}
	}
}

func TestWildcardListener(t *testing.T) {
	s := start(t, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0")}}, build(t, testZone))
	for _, at := range []string{
		"127.0.0.1:" + strconv.Itoa(int(s.Addrs()[0].Port())), "127.0.0.77:" + strconv.Itoa(int(s.Addrs()[0].Port())),
		"[::1]:" + strconv.Itoa(int(s.Addrs()[1].Port())),
	} {
		// The socket is connected: an answer from another address would not arrive.
		if a := exchange(t, netip.MustParseAddrPort(at), pack(t, "www.example.com.", dns.TypeA)); a == nil || a[3]&15 != 0 {
			t.Errorf("asking %s = %x; want an answer", at, a)
		}
	}
}

func TestNobodyElsesPort(t *testing.T) {
	s := start(t, Options{}, build(t, testZone))
	_, err := Listen(t.Context(), Options{Listen: s.Addrs()}, s.Set())
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Listen() on a port that is taken = %v; want EADDRINUSE", err)
	}
}

func TestRateLimit(t *testing.T) {
	s := start(t, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}, Rate: 20, Workers: 1}, build(t, testZone))
	c, err := net.Dial("udp", "127.0.0.1:"+strconv.Itoa(int(s.Addrs()[0].Port())))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	msg := pack(t, "www.example.com.", dns.TypeA)
	for range 200 {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	full, slipped := 0, 0
	c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	for buf := make([]byte, 2048); ; {
		n, err := c.Read(buf)
		if err != nil {
			break
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		if m.Truncated {
			slipped++
		} else {
			full++
		}
	}
	// The second may change in between.
	if full < 20 || full > 40 || slipped < 75 || slipped > 90 {
		t.Errorf("200 queries in a moment: %d answers and %d truncated; want 20 (or 40) and half of the rest", full, slipped)
	}
	for _, how := range []string{"+tcp", "-b127.0.9.9"} { // the same client over TCP, one of another network
		for range 100 {
			c.Write(msg)
		}
		if out := tool(t, "dig", "@127.0.0.1", "-p", strconv.Itoa(int(s.Addrs()[0].Port())), how, "+ignore", "+short", "www.example.com"); out != "192.0.2.80\n" {
			t.Errorf("dig %s meanwhile: %q; want the address", how, out)
		}
	}
}

func TestSwapLosesNoQuery(t *testing.T) {
	first, second := build(t, testZone), build(t, strings.ReplaceAll(testZone, "192.0.2.80", "192.0.2.81"))
	s := start(t, Options{}, first)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			c, err := net.Dial("udp", s.Addrs()[0].String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 2048)
			msg := pack(t, "www.example.com.", dns.TypeA)
			for {
				select {
				case <-stop:
					return
				default:
				}
				c.SetDeadline(time.Now().Add(2 * time.Second))
				if _, err := c.Write(msg); err != nil {
					t.Error(err)
					return
				}
				n, err := c.Read(buf)
				if err != nil {
					t.Errorf("a query was lost: %v", err)
					return
				}
				if last := buf[n-1]; buf[3]&15 != 0 || last != 80 && last != 81 {
					t.Errorf("an answer was wrong: %x", buf[:n])
					return
				}
			}
		})
	}
	for i := range 200 {
		s.Swap([]*Set{first, second}[i%2])
		time.Sleep(time.Millisecond) // paces the reloads
	}
	close(stop)
	wg.Wait()
}
