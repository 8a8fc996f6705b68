package names

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const frozenZone = `$ORIGIN example.com.
$TTL 600
@ SOA ns h 1 2 3 4 5
@ NS ns
@ MX 10 mail
@ TXT "v=spf1 -all" "two; strings"
ns A 127.0.0.1
mail A 198.51.100.25
mail AAAA 2001:db8::25
www CNAME web
web CNAME host.deep
host.deep A 198.51.100.1
host.deep A 198.51.100.2
_ldap._tcp SRV 0 0 389 ldap
ldap A 198.51.100.3
ldap SSHFP 1 1 0123456789abcdef0123456789abcdef01234567
svc HTTPS 1 . alpn=h2
shop HTTPS 0 pool
pool A 198.51.100.5
old DNAME deep
sub NS ns.sub
ns.sub A 198.51.100.53
*.any A 198.51.100.4
`

func TestFreeze(t *testing.T) {
	t.Parallel()
	other := strings.ReplaceAll(frozenZone, "198.51.100.3", "198.51.100.33")
	bind, knot := startNamed(t, frozenZone), startKnot(t, other, false)
	silent := evil(t, func(*dns.Msg) [][]byte { return nil })
	list := []string{"example.com", "WWW.example.com", "_ldap._tcp.example.com.", "svc.example.com", "absent.example.com", "x.any.example.com", "shop.example.com", "host.old.example.com"}
	now := time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)
	f, err := Freeze(t.Context(), list, Freezing{Resolvers: []netip.AddrPort{bind, knot, silent}, Timeout: 200 * time.Millisecond}, now)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range f.Names {
		got = append(got, n.Name)
	}
	want := "_ldap._tcp.example.com. example.com. host.deep.example.com. host.old.example.com. ldap.example.com. mail.example.com. pool.example.com. shop.example.com. svc.example.com. web.example.com. www.example.com. x.any.example.com."
	if s := strings.Join(got, " "); s != want {
		t.Errorf("Freeze() has %s; want %s", s, want)
	}
	if len(f.Absent) != 1 || f.Absent[0] != "absent.example.com." {
		t.Errorf("Absent = %v; want absent.example.com.", f.Absent)
	}
	if len(f.Disagreements) != 1 || f.Disagreements[0].Name != "ldap.example.com." || f.Disagreements[0].Kept[0] != "198.51.100.3" || len(f.Disagreements[0].Answers) != 2 {
		t.Errorf("Disagreements = %+v; want one, for ldap.example.com., with the first resolver's answer kept", f.Disagreements)
	}
	if want := (len(f.Names) + len(f.Absent)) * len(frozenTypes); len(f.Failures) != want || f.Failures[0].Resolver != silent {
		t.Errorf("there are %d failures; want %d, all of the silent resolver", len(f.Failures), want)
	}
	var zone bytes.Buffer
	if err := f.WriteZone(&zone); err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(t.TempDir(), "zone"), zone.String())
	if out := tool(t, "named-checkzone", f.Origin(), path); !strings.Contains(out, "OK") {
		t.Errorf("named-checkzone %s: %s\n%s", f.Origin(), out, zone.String())
	}
	set := build(t, zone.String())
	if !set.Oldest().Equal(now.Truncate(time.Second)) || set.Zones() != nil {
		t.Errorf("the zone file holds %v of %v; want loose names of %v", set.Zones(), set.Oldest(), now)
	}
	s := start(t, Options{}, set)
	for name, want := range map[string]string{
		"www.example.com.":      "NOERROR web.example.com./600 host.deep.example.com./600 198.51.100.1/600 198.51.100.2/600",
		"host.old.example.com.": "NOERROR host.deep.example.com./600 198.51.100.1/600 198.51.100.2/600", // by the DNAME record
		"x.any.example.com.":    "NOERROR 198.51.100.4/600",
		"y.any.example.com.":    "SERVFAIL EDE20()", // what was not frozen is not known
		"svc.example.com.":      "NOERROR",
		"frozen.invalid.":       "SERVFAIL EDE20()",
		"absent.example.com.":   "SERVFAIL EDE20()",
	} {
		if got := said(client(t, s.Addrs()[0], name, dns.TypeA)); got != want {
			t.Errorf("%s = %s; want %s", name, got, want)
		}
	}
}

func TestFreezeOfManyDomains(t *testing.T) {
	up := evil(t, func(q *dns.Msg) [][]byte {
		return [][]byte{forge(q, "198.51.100.1", func(m *dns.Msg) {
			if q.Question[0].Qtype != dns.TypeA {
				m.Answer = nil
			}
		})}
	})
	f, err := Freeze(t.Context(), []string{"a.example", "b.test", "localhost"}, Freezing{Resolvers: []netip.AddrPort{up}}, time.Now())
	if err != nil || f.Origin() != "." {
		t.Fatalf("Freeze() = %v, origin %q; want the root", err, f.Origin())
	}
	var zone bytes.Buffer
	if err := f.WriteZone(&zone); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "named-checkzone", ".", write(t, filepath.Join(t.TempDir(), "zone"), zone.String())); !strings.Contains(out, "OK") {
		t.Errorf("named-checkzone: %s\n%s", out, zone.String())
	}
	set := build(t, zone.String())
	for name, want := range map[string]outcome{"a.example.": positive, "example.": unknown, "c.test.": unknown, FrozenServer: unknown, ".": unknown} {
		m := new(dns.Msg)
		m.SetQuestion(name, dns.TypeA)
		if _, out := ask(t, set, m, 0); out != want {
			t.Errorf("resolve(%s) = %d; want %d", name, out, want)
		}
	}
}

func TestFreezeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	up := evil(t, func(*dns.Msg) [][]byte { cancel(); return nil })
	begin := time.Now()
	_, err := Freeze(ctx, []string{"a.example"}, Freezing{Resolvers: []netip.AddrPort{up}, Timeout: time.Minute}, time.Now())
	if took := time.Since(begin); !errors.Is(err, context.Canceled) || took > 5*time.Second {
		t.Errorf("Freeze() = %v after %v; want Canceled at once", err, took)
	}
}

func TestTransfer(t *testing.T) {
	t.Parallel()
	key, err := ParseKey(strings.NewReader(`key "transfer" {
	algorithm hmac-sha256;
	secret "` + tsigSecret + `";
};`))
	if err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]netip.AddrPort{"BIND": startNamed(t, frozenZone), "Knot": startKnot(t, frozenZone, false)} {
		t.Run(name, func(t *testing.T) {
			records, err := Transfer(t.Context(), "example.com", at, &key)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "zone")
			out, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteTransfer(out, records, seenAt); err != nil {
				t.Fatal(err)
			}
			out.Close()
			if out := tool(t, "named-checkzone", "example.com", path); !strings.Contains(out, "OK") {
				t.Errorf("named-checkzone: %s", out)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			set := build(t, string(text))
			if z := set.Zones(); len(z) != 1 || z[0] != "example.com." || !set.Oldest().Equal(seenAt) {
				t.Errorf("the zone file holds %v of %v; want example.com. of %v", z, set.Oldest(), seenAt)
			}
			if _, err := Transfer(t.Context(), "example.com", at, nil); err == nil || !strings.Contains(err.Error(), "rcode") {
				t.Errorf("Transfer() without a key = %v; want it refused", err)
			}
			bad := key
			bad.Secret = "AAAA"
			if _, err := Transfer(t.Context(), "example.com", at, &bad); err == nil {
				t.Error("Transfer() with another key = nil; want an error")
			}
		})
	}
}

func TestParseNames(t *testing.T) {
	got, err := ParseNames(strings.NewReader("a.example # one\n\n; none\nb.example.\n"))
	if err != nil || strings.Join(got, " ") != "a.example b.example." {
		t.Errorf("ParseNames() = %v, %v; want the two", got, err)
	}
	for text, want := range map[string]error{"": ErrNoNames, "a b\n": ErrBadData, "a..b\n": ErrBadData, strings.Repeat("a", 64) + "\n": ErrBadData} {
		if _, err := ParseNames(strings.NewReader(text)); !errors.Is(err, want) {
			t.Errorf("ParseNames(%q) = %v; want %v", text, err, want)
		}
	}
	var b strings.Builder
	if err := WriteMissing(&b, []Missed{{"x.example.", "A", 3}}); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseNames(strings.NewReader(b.String())); err != nil || len(got) != 1 || got[0] != "x.example." {
		t.Errorf("ParseNames(%q) = %v, %v; want x.example.", b.String(), got, err)
	}
}
