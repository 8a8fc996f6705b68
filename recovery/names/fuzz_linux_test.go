package names

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzQuery answers whatever arrives, over UDP and TCP: an answer is a DNS message to that query, and not too large.
func FuzzQuery(f *testing.F) {
	f.Add(pack(f, "www.example.com.", dns.TypeA))
	f.Add(pack(f, "deep.example.com.", dns.TypeANY, func(m *dns.Msg) { m.SetEdns0(4096, true) }))
	f.Add(pack(f, "a.b.wild.example.com.", dns.TypeTXT, func(m *dns.Msg) { m.SetEdns0(0, false) }))
	f.Add(pack(f, "large.example.com.", dns.TypeA))
	f.Add(pack(f, "x.sub.example.com.", dns.TypeDS))
	f.Add(pack(f, "www.old.example.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	f.Add(pack(f, "short.long.example.", dns.TypeA))
	f.Add(pack(f, "a.c.x.w.hashed.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	f.Add(pack(f, "mc.c.hashed.", dns.TypeMX, func(m *dns.Msg) { m.SetEdns0(1232, true) }))
	f.Add(pack(f, "version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }))
	f.Add([]byte("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	zones := []string{largeZone()}
	for _, file := range []string{"rfc5155", "rfc6672"} {
		text, err := os.ReadFile("testdata/golden/" + file + ".txt")
		if err != nil {
			f.Fatal(err)
		}
		zone, _, _ := strings.Cut(string(text), "\n---\n")
		zone, _, _ = strings.Cut(zone, "\n=== next zone\n")
		if file == "rfc5155" {
			zone = strings.Replace(zone, "$ORIGIN example.", "$ORIGIN hashed.", 1)
		}
		zones = append(zones, zone)
	}
	set := build(f, zones...)
	s := &Server{}
	f.Fuzz(func(t *testing.T, msg []byte) {
		for _, tcp := range []bool{false, true} {
			var q query
			var w reply
			buf := make([]byte, dns.MaxMsgSize)
			v := s.handle(set, &q, &w, msg, buf, netip.Addr{}, tcp)
			if v.n == 0 {
				if len(msg) >= headerSize && msg[2]&0x80 == 0 {
					t.Fatalf("handle(%x) is silent; want an answer", msg)
				}
				continue
			}
			var m dns.Msg
			if err := m.Unpack(buf[:v.n]); err != nil {
				t.Fatalf("handle(%x) = %x, which does not unpack: %v", msg, buf[:v.n], err)
			}
			if !m.Response || m.Id != binary.BigEndian.Uint16(msg) || v.n > q.size {
				t.Fatalf("handle(%x) = %d bytes, %v; want an answer of at most %d bytes", msg, v.n, m, q.size)
			}
			if q.wire != nil && !bytes.Equal(buf[headerSize:headerSize+len(q.wire)], q.wire) {
				t.Fatalf("handle(%x) = %x; want the question as it came", msg, buf[:v.n])
			}
			if v.rcode == dns.RcodeFormatError || v.from == fromError {
				continue
			}
			j := &worker{q: q}
			if v = s.standIn(set, j, buf, errTimeout); v.n > q.size || m.Unpack(buf[:v.n]) != nil {
				t.Fatalf("standIn(%x) = %x; want an answer of at most %d bytes", msg, buf[:v.n], q.size)
			}
			for _, rr := range append(m.Answer, m.Ns...) {
				if rr.Header().Ttl > frozenTTL {
					t.Fatalf("standIn(%x) = %v; want TTLs of at most %d", msg, rr, frozenTTL)
				}
			}
		}
	})
}

// FuzzUpstream relays whatever upstream answers.
func FuzzUpstream(f *testing.F) {
	raw := pack(f, "www.example.com.", dns.TypeA, func(m *dns.Msg) { m.SetEdns0(1232, true) })
	var asked dns.Msg
	if err := asked.Unpack(raw); err != nil {
		f.Fatal(err)
	}
	f.Add(forge(&asked, "192.0.2.1"))
	f.Add(forge(&asked, "192.0.2.1", func(m *dns.Msg) { m.Rcode, m.Answer = 3, nil; m.SetEdns0(1232, true) }))
	f.Add(forge(&asked, "192.0.2.1", func(m *dns.Msg) {
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: dns.RR_Header{Name: "WWW.example.com.", Rrtype: 5, Class: 1}, Target: "www.example.com."})
	}))
	s := &Server{}
	f.Fuzz(func(t *testing.T, answer []byte) {
		var q query
		if q.parse(raw, false) != 0 || verify(answer, raw) != nil {
			return
		}
		m := new(dns.Msg)
		if m.Unpack(answer) != nil {
			return
		}
		credible(m, q.typ, positive)
		buf := make([]byte, dns.MaxMsgSize)
		v := s.relay(m, &q, buf)
		var back dns.Msg
		if err := back.Unpack(buf[:v.n]); err != nil || back.Id != q.id || !back.Response || v.n > q.size {
			t.Fatalf("relay(%x) = %x, %v", answer, buf[:v.n], err)
		}
	})
}

// FuzzZone loads whatever is in a zone file and answers from it.
func FuzzZone(f *testing.F) {
	f.Add(testZone)
	f.Add(frozenZone)
	f.Add("$ORIGIN .\n* 1 CNAME *\n")
	f.Add("$TTL 1w2d\n$ORIGIN example.\na\tIN ( 5\n TXT \"\\\"\\000\" )\n$GENERATE 1-3 h$ A 10.0.0.$\n")
	f.Add("a. 1 IN TYPE65280 \\# 3 aabbcc\n")
	f.Add("@ SOA frozen.blackstart.invalid. nobody.invalid. 1 1 1 1 1\n@ NS frozen.blackstart.invalid.\na A 1.2.3.4 ; observed_at=2026-03-01T12:00:00Z\n")
	if files, err := os.ReadDir("testdata/golden"); err == nil {
		for _, e := range files {
			if text, err := os.ReadFile("testdata/golden/" + e.Name()); err == nil {
				zone, _, _ := strings.Cut(string(text), "\n---\n")
				f.Add(zone)
			}
		}
	}
	f.Fuzz(func(t *testing.T, zone string) {
		if strings.Contains(zone, "GENERATE") && len(zone) > 200 {
			return // many records take long, no more
		}
		b := NewBuilder()
		err := b.Zone(strings.NewReader(zone), "example", "zone", seenAt)
		if err == nil {
			var s *Set
			if s, err = b.Build(); err == nil {
				askAll(t, s)
				return
			}
		}
		if !errors.Is(err, ErrBadData) && !errors.Is(err, ErrNoNames) && !errors.Is(err, ErrTooLarge) {
			t.Fatalf("Zone(%q) = %v; want one of this package's errors", zone, err)
		}
	})
}

// askAll asks for names that are in a Set, and below, and above.
func askAll(t *testing.T, s *Set) {
	t.Helper()
	asked := 0
	for name := range s.All() {
		if asked++; asked > 50 {
			return
		}
		for _, n := range []string{name, "x." + name, up(name)} {
			for _, typ := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeTXT, dns.TypeDS} {
				if _, err := wireName(n); err != nil {
					continue
				}
				m := new(dns.Msg)
				m.SetQuestion(n, typ)
				m.SetEdns0(1232, true)
				if _, err := m.Pack(); err != nil {
					continue
				}
				ask(t, s, m, 0)
				ask(t, s, m, 512)
			}
		}
	}
}

func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost\n::1 localhost ip6-localhost # both\n10.0.0.1\ta.example a\n")
	f.Add("fe80::1%eth0 x\n::ffff:10.0.0.1 *.y\n")
	f.Fuzz(func(t *testing.T, hosts string) {
		b := NewBuilder()
		err := b.Hosts(strings.NewReader(hosts), "hosts", time.Time{})
		if err == nil {
			var s *Set
			if s, err = b.Build(); err == nil {
				askAll(t, s)
				return
			}
		}
		if !errors.Is(err, ErrBadData) && !errors.Is(err, ErrNoNames) && !strings.Contains(err.Error(), "token too long") {
			t.Fatalf("Hosts(%q) = %v; want one of this package's errors", hosts, err)
		}
	})
}

func TestHosts(t *testing.T) {
	b := NewBuilder()
	hosts := "# comment\n10.0.0.1 one.example alias.example\n10.0.0.1 more.example\n2001:db8::1 one.example # two families\n"
	if err := b.Hosts(strings.NewReader(hosts), "hosts", time.Time{}); err != nil {
		t.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"alias.example.", dns.TypeA, "10.0.0.1"},
		{"one.example.", dns.TypeAAAA, "2001:db8::1"},
		{"1.0.0.10.in-addr.arpa.", dns.TypePTR, "one.example."},
		{"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypePTR, "one.example."},
	} {
		m := new(dns.Msg)
		m.SetQuestion(c.name, c.typ)
		a, _ := ask(t, s, m, 0)
		if len(a.Answer) != 1 || !strings.HasSuffix(a.Answer[0].String(), "\t"+c.want) {
			t.Errorf("%s %s = %v; want %s", c.name, typeName(c.typ), a.Answer, c.want)
		}
	}
	for text, want := range map[string]string{"x y\n": "line 1", "10.0.0.1\n": "line 1", "\n\n10.0.0.1 a..b\n": "line 3"} {
		if err := NewBuilder().Hosts(strings.NewReader(text), "hosts", time.Time{}); !errors.Is(err, ErrBadData) || !strings.Contains(err.Error(), want) {
			t.Errorf("Hosts(%q) = %v; want ErrBadData at %s", text, err, want)
		}
	}
}

func FuzzKeyAndNames(f *testing.F) {
	f.Add(`key "k" { algorithm hmac-sha256; secret "AAAA"; };`)
	f.Add("a.example # x\n")
	f.Fuzz(func(t *testing.T, text string) {
		if k, err := ParseKey(strings.NewReader(text)); err == nil && (k.Name == "" || k.Secret == "") {
			t.Fatalf("ParseKey(%q) = %+v", text, k)
		}
		if list, err := ParseNames(strings.NewReader(text)); err == nil && len(list) == 0 {
			t.Fatalf("ParseNames(%q) = nothing and no error", text)
		}
	})
}

// FuzzTakeover takes over with whatever is in resolv.conf, and releases by whatever is in a state file: what was there
// comes back, and nothing outside of the root is touched.
func FuzzTakeover(f *testing.F) {
	f.Add("nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:2\n", []byte(`{"changes":[{"path":"etc/resolv.conf","was":"file","content":"eA==","mode":420}]}`))
	f.Add("search .\ndomain\n\x00", []byte(`{"changes":[{"path":"../outside","was":"absent"},{"path":"etc/../../outside","was":"link","target":"/"}]}`))
	f.Add("", []byte(`{"changes":[{"path":"etc/x/y","was":"absent","made":["etc","..",""]},{"path":"","was":"file"}]}`))
	f.Fuzz(func(t *testing.T, resolv string, state []byte) {
		dir := t.TempDir()
		h := Takeover{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
		mkdir(t, h.Root+"/etc")
		mkdir(t, h.Root+"/run/systemd/resolve")
		write(t, h.Root+"/etc/resolv.conf", resolv)
		outside := write(t, filepath.Join(dir, "outside"), "untouched")
		before := picture(t, h.Root)
		if _, err := h.Take(t.Context(), seenAt); err != nil {
			t.Fatalf("Take() with resolv.conf %q = %v", resolv, err)
		}
		if err := h.Release(t.Context()); err != nil {
			t.Fatalf("Release() with resolv.conf %q = %v", resolv, err)
		}
		if after := picture(t, h.Root); after != before {
			t.Fatalf("after Release():\n%s\nwant\n%s", after, before)
		}
		write(t, h.State, string(state))
		_ = h.Release(t.Context()) // whatever it says
		if data, err := os.ReadFile(outside); err != nil || string(data) != "untouched" {
			t.Fatalf("Release() by %q made of the file outside %q, %v", state, data, err)
		}
	})
}
