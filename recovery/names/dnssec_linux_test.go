package names

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// signed is example.com with signatures, and the key for delv.
func signed(t *testing.T) (zone, anchor string) {
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
	text := "$ORIGIN example.com.\n$TTL 600\n@ SOA ns h 1 2 3 4 5\n@ NS ns\nns A 127.0.0.1\nwww A 198.51.100.1\nalias CNAME www\n*.wild A 198.51.100.2\na.ent TXT x\nsub NS ns.sub\nns.sub A 198.51.100.3\n" + string(key)
	path := write(t, filepath.Join(dir, "zone"), text)
	s := exec.Command("dnssec-signzone", "-q", "-z", "-o", "example.com", "-f", path+".signed", "-K", dir, path)
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

func TestValidators(t *testing.T) {
	t.Parallel()
	zone, anchor := signed(t)
	anchors := write(t, filepath.Join(t.TempDir(), "anchor"), anchor)
	own := start(t, Options{}, build(t, zone))
	through := start(t, Options{Mode: LastKnownGood, Upstreams: []netip.AddrPort{startNamed(t, zone)}}, frozenSet(t))
	for who, at := range map[string]netip.AddrPort{"our data": own.Addrs()[0], "passed on from BIND": through.Addrs()[0]} {
		for _, c := range []struct{ name, typ, want string }{
			{"www.example.com", "A", "; fully validated"},
			{"alias.example.com", "A", "; fully validated"},
			{"x.wild.example.com", "A", "; fully validated"},
			{"www.example.com", "AAAA", "; negative response, fully validated"},
			{"x.wild.example.com", "AAAA", "; negative response, fully validated"},
			{"ent.example.com", "A", "; negative response, fully validated"},
			{"nowhere.example.com", "A", "; negative response, fully validated"},
			{"sub.example.com", "DS", "; negative response, fully validated"},
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
