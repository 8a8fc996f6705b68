package sandbox

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestNames(t *testing.T) {
	n := NewNames()
	v4, v6, err := n.Addresses("a.example")
	if err != nil || v4.String() != "198.18.0.1" || v6.String() != "fd62:6c61:636b:35::1" {
		t.Errorf("Addresses() = %v, %v, %v; want the first of both pools", v4, v6, err)
	}
	for range 300 {
		_, _, _ = n.Addresses(strings.Repeat("x", len(n.names)) + ".example")
	}
	if again, _, _ := n.Addresses("a.example"); again != v4 {
		t.Errorf("Addresses() = %v the second time; want %v", again, v4)
	}
	for _, a := range []netip.Addr{v4, v6, netip.AddrFrom16(v4.As16())} {
		if name, ok := n.Name(a); name != "a.example" || !ok {
			t.Errorf("Name(%v) = %q, %v; want a.example", a, name, ok)
		}
	}
	for _, s := range []string{"198.18.0.0", "198.18.1.200", "198.19.255.255", "198.20.0.1", "10.0.0.1", "fd62:6c61:636b:35::", "fd62:6c61:636b:35:1::1", "fd62:6c61:636b:35::ffff", "::1"} {
		if name, ok := n.Name(netip.MustParseAddr(s)); ok {
			t.Errorf("Name(%s) = %q; want none", s, name)
		}
	}
	v4, v6, _ = n.Addresses("last.example")
	for _, a := range []netip.Addr{v4, v6} {
		if name, _ := n.Name(a); name != "last.example" {
			t.Errorf("Name(%v) = %q; want last.example", a, name)
		}
		if !n.Prefixes()[0].Contains(a) && !n.Prefixes()[1].Contains(a) {
			t.Errorf("%v lies outside of %v", a, n.Prefixes())
		}
	}
	for len(n.names) < maxNames {
		_, _, _ = n.Addresses(strings.Repeat("y", len(n.names)%200) + string(rune(len(n.names))))
		n.names = append(n.names, "")
	}
	if _, _, err := n.Addresses("one.too.many"); err == nil {
		t.Error("Addresses() of a full pool = nil; want ErrNoAddresses")
	}
}

// newResolver serves on one port, UDP and TCP.
func newResolver(t testing.TB, denied Denial, capabilities ...string) (port string, record *Record) {
	t.Helper()
	record = NewRecord(nil)
	o := ResolverOptions{Names: NewNames(), Record: record, Denied: denied, Address: "127.0.0.53:53"}
	for _, c := range capabilities {
		o.Capabilities = append(o.Capabilities, mustCapability(t, c))
	}
	r := NewResolver(o)
	addr := serveTCP(t, r.ServeTCP)
	pc, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return r.ServeUDP(ctx, pc) })
	_, port, _ = net.SplitHostPort(addr)
	return port, record
}

func TestResolverDig(t *testing.T) {
	t.Parallel()
	port, record := newResolver(t, DenySilence, "dns:store.example:443,name=store", "http:https://api.example;GET", "http:http://10.0.0.1")
	// The process that asks is found by the resolver it asks.
	record.Add(Attempt{
		Proto: "udp", Destination: "127.0.0.53:53", HostPID: 4711, PID: 7, Executable: "/usr/bin/dig", Count: 1,
		First: time.Now(), Sources: []Source{FromSyscall},
	})
	dig := func(args ...string) string {
		out, _ := exec.Command("dig", append([]string{"-r", "@127.0.0.1", "-p", port, "+tries=1", "+time=1"}, args...)...).CombinedOutput()
		return string(out)
	}
	var all sync.WaitGroup
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"+short", "store.example"}, "198.18.0.1\n"},
		{[]string{"+short", "store.example."}, "198.18.0.1\n"},
		{[]string{"+short", "+tcp", "AAAA", "store.example"}, "fd62:6c61:636b:35::1\n"},
		{[]string{"+short", "api.example"}, "198.18.0.2\n"},
		{[]string{"StOrE.eXaMpLe"}, "StOrE.eXaMpLe.\t\t60\tIN\tA\t198.18.0.1"},
		{[]string{"TXT", "store.example"}, "status: NOERROR"},
		{[]string{"TXT", "store.example"}, "ANSWER: 0"},
		{[]string{"HTTPS", "store.example"}, "ANSWER: 0"},
		{[]string{"+dnssec", "store.example"}, "ANSWER: 1"},
		{[]string{"+noedns", "store.example"}, "ADDITIONAL: 0"},
		{[]string{"+opcode=4", "store.example"}, "status: NOTIMP"},
		{[]string{"other.example"}, "no servers could be reached"},
		{[]string{"+tcp", "other.example"}, "no servers could be reached"},
		{[]string{"sub.store.example"}, "no servers could be reached"},
		{[]string{"CH", "TXT", "store.example"}, "no servers could be reached"},
	} {
		all.Go(func() { wantText(t, "dig "+strings.Join(c.args, " "), dig(c.args...), c.want) })
	}
	all.Wait()
	a := wantAttempt(t, record, "dns", "store.example A", Allowed, func(a Attempt) bool { return a.Count >= 4 })
	if a.Capability != "store" || a.PID != 7 || a.Executable != "/usr/bin/dig" {
		t.Errorf("record = %+v; want it under store, by the process that asked", a)
	}
	if a := wantAttempt(t, record, "dns", "sub.store.example A", Blocked, whatever); a.Outcome != Silent || a.Capability != "" {
		t.Errorf("record = %+v; want never answered", a)
	}
	for _, c := range []struct {
		denied  Denial
		want    string
		outcome Outcome
	}{{DenyUnknown, "status: NXDOMAIN", NotFound}, {DenyRefused, "status: REFUSED", Denied}} {
		port, record = newResolver(t, c.denied, "dns:store.example:443")
		wantText(t, "dig", dig("other.example"), c.want)
		wantAttempt(t, record, "dns", "other.example A", Blocked, func(a Attempt) bool { return a.Outcome == c.outcome })
	}
}

func TestResolverHostile(t *testing.T) {
	r := NewResolver(ResolverOptions{Names: NewNames(), Capabilities: []Capability{mustCapability(t, "dns:store.example")}})
	for name, b := range map[string][]byte{
		"nothing":        {},
		"short":          make([]byte, 11),
		"a response":     {0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1},
		"half a header":  {0, 1, 0},
		"response, torn": {0, 1, 0x80, 0, 0, 9, 0, 9, 0, 9, 0, 9},
	} {
		if got := r.answer("udp", b); got != nil {
			t.Errorf("answer(%s) = %x; want silence", name, got)
		}
	}
	for name, b := range map[string][]byte{
		"no question":    {0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"two questions":  {0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1},
		"pointer loop":   {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1},
		"name cut short": {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 'a'},
	} {
		var p dnsmessage.Parser
		h, err := p.Start(r.answer("udp", b))
		if err != nil || h.RCode != dnsmessage.RCodeFormatError || h.ID != 1 || !h.Response {
			t.Errorf("answer(%s) = %+v, %v; want FORMERR", name, h, err)
		}
	}
}

func FuzzResolver(f *testing.F) {
	for _, name := range []string{"store.example.", "other.example.", "."} {
		for _, typ := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeALL, 65} {
			m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}}}
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	r := NewResolver(ResolverOptions{
		Names: NewNames(), Record: NewRecord(nil), Denied: DenyUnknown,
		Capabilities: []Capability{{Kind: KindDNS, Host: "store.example"}},
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		out := r.answer("udp", b)
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatalf("answer(%x) = %x: %v; want a message", b, out, err)
		}
		if !m.Response || len(m.Answers) > 1 || len(out) > len(b)+64 {
			t.Errorf("answer(%x) = %x; want a response with one answer at most", b, out)
		}
		if len(m.Answers) == 1 && !strings.EqualFold(m.Answers[0].Header.Name.String(), "store.example.") {
			t.Errorf("answer(%x) is about %s; want store.example", b, m.Answers[0].Header.Name)
		}
	})
}
