package names

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const unsigned = `$ORIGIN example.com.
$TTL 600
@ SOA ns h 1 2 3 4 5
@ NS ns
ns A 127.0.0.1
www A 198.51.100.1
alias CNAME www
*.wild A 198.51.100.2
a.ent TXT x
sub NS ns.sub
ns.sub A 198.51.100.3
d.e.f NS ns.sub
old DNAME sub2
www.sub2 A 198.51.100.4
`

// signed is example.com as dnssec-signzone signs it, and the key for delv.
func signed(t *testing.T, how ...string) (zone, anchor string) {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("dnssec-keygen", "-q", "-K", dir, "-a", "ECDSAP256SHA256", "-f", "KSK", "example.com")
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, strings.TrimSpace(string(out))+".key"))
	if err != nil {
		t.Fatal(err)
	}
	text := unsigned + string(key)
	path := write(t, filepath.Join(dir, "zone"), text)
	s := exec.Command("dnssec-signzone", append(how, "-q", "-z", "-o", "example.com", "-f", path+".signed", "-K", dir, path)...)
	s.Dir = dir
	if out, err := s.CombinedOutput(); err != nil {
		t.Fatalf("dnssec-signzone: %v\n%s", err, out)
	}
	zoneText, err := os.ReadFile(path + ".signed")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(key)) {
		if w := strings.Fields(line); len(w) > 6 && w[2] == "DNSKEY" {
			return string(zoneText), "trust-anchors { \"example.com\" static-key " + strings.Join(w[3:6], " ") + " \"" + strings.Join(w[6:], "") + "\"; };\n"
		}
	}
	t.Fatalf("no key in %s", key)
	return "", ""
}

// signedByKnot is the same, signed by Knot and got by a transfer.
func signedByKnot(t *testing.T) (zone, anchor string) {
	t.Helper()
	at := startKnot(t, unsigned, true)
	records, err := Transfer(t.Context(), "example.com", at, &Key{Name: "transfer.", Algorithm: "hmac-sha256.", Secret: tsigSecret})
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := WriteTransfer(&text, records, seenAt); err != nil {
		t.Fatal(err)
	}
	for _, rr := range records {
		if k, ok := rr.(*dns.DNSKEY); ok {
			return text.String(), fmt.Sprintf("trust-anchors { \"example.com\" static-key %d %d %d \"%s\"; };\n", k.Flags, k.Protocol, k.Algorithm, k.PublicKey)
		}
	}
	t.Fatal("Knot has not signed it")
	return "", ""
}

// TestValidators has a validator check what is passed on of zones signed with NSEC, and with NSEC3 in all its ways.
func TestValidators(t *testing.T) {
	t.Parallel()
	for name, how := range map[string][]string{
		"NSEC":           nil,
		"NSEC3":          {"-3", "-"},
		"NSEC3, opt-out": {"-3", "aabbccdd", "-H", "7", "-A"},
		"by Knot":        {"knot"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var zone, anchor string
			if name == "by Knot" {
				zone, anchor = signedByKnot(t)
			} else {
				zone, anchor = signed(t, how...)
			}
			wildcard := "; fully validated"
			if strings.HasSuffix(name, "opt-out") {
				wildcard = "; unsigned answer" // it could be a name left out of the chain
			}
			validate(t, zone, anchor, wildcard)
		})
	}
}

func validate(t *testing.T, zone, anchor, wildcard string) {
	t.Helper()
	anchors := write(t, filepath.Join(t.TempDir(), "anchor"), anchor)
	own := start(t, Options{}, build(t, zone))
	through := start(t, Options{Mode: LastKnownGood, Upstreams: []netip.AddrPort{startNamed(t, zone)}}, frozenSet(t))
	const found, denied = "; fully validated", "; negative response, fully validated"
	for who, at := range map[string]netip.AddrPort{"our data": own.Addrs()[0], "passed on from BIND": through.Addrs()[0]} {
		for _, c := range []struct{ name, typ, want string }{
			{"www.example.com", "A", found},
			{"alias.example.com", "A", found},
			{"x.wild.example.com", "A", wildcard},
			{"x.y.wild.example.com", "A", wildcard},
			{"www.old.example.com", "A", found},
			{"old.example.com", "DNAME", found},
			{"www.example.com", "AAAA", denied},
			{"x.wild.example.com", "AAAA", denied},
			{"ent.example.com", "A", denied},
			{"nowhere.example.com", "A", denied},
			{"a.b.nowhere.example.com", "A", denied},
			{"nowhere.old.example.com", "A", "ncache nxdomain\n" + found},
			{"sub.example.com", "DS", denied},
			{"d.e.f.example.com", "DS", denied},
			{"e.f.example.com", "A", denied},
		} {
			out, _ := exec.Command("delv", "@127.0.0.1", "-p", strconv.Itoa(int(at.Port())), "-a", anchors, "+root=example.com", c.name, c.typ).CombinedOutput()
			if !strings.Contains(string(out), c.want) {
				t.Errorf("%s: delv %s %s: no %q in\n%s", who, c.name, c.typ, c.want, out)
			}
		}
	}
	// Who does not ask for signatures gets none.
	if m := client(t, own.Addrs()[0], "www.example.com.", dns.TypeA); len(m.Answer) != 1 || len(m.Ns) != 0 {
		t.Errorf("without DO: %v; want the address alone", m)
	}
}
