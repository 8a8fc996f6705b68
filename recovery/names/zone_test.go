package names

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// ask answers a question from a Set as a server would, over TCP unless size is given.
func ask(t *testing.T, s *Set, m *dns.Msg, size int) (*dns.Msg, outcome) {
	t.Helper()
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	rcode := q.parse(raw, size == 0)
	if rcode != 0 {
		t.Fatalf("parse(%v) = %d; want 0", m, rcode)
	}
	if size != 0 {
		q.size = size
	}
	var w reply
	buf := make([]byte, dns.MaxMsgSize)
	w.begin(&q, buf, 0)
	out := s.resolve(&q, &w)
	n := w.finish(&q, out.rcode(), false, extendedError{})
	var a dns.Msg
	if err := a.Unpack(buf[:n]); err != nil {
		t.Fatalf("the answer to %s does not unpack: %v\n%x", m.Question[0].String(), err, buf[:n])
	}
	return &a, out
}

// brief is an answer in one line per record, as golden files hold it.
func brief(a *dns.Msg, out outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", dns.RcodeToString[a.Rcode])
	for _, f := range []struct {
		on   bool
		name string
	}{{a.Authoritative, "aa"}, {a.Truncated, "tc"}, {out == unknown, "unknown"}} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteString("\n")
	for _, s := range []struct {
		name    string
		records []dns.RR
	}{{"answer", a.Answer}, {"authority", a.Ns}, {"additional", a.Extra}} {
		for _, rr := range s.records {
			if rr.Header().Rrtype != dns.TypeOPT {
				fmt.Fprintf(&b, "%s %s\n", s.name, strings.Join(strings.Fields(rr.String()), " "))
			}
		}
	}
	return b.String()
}

func build(t testing.TB, zones ...string) *Set {
	t.Helper()
	b := NewBuilder()
	for i, z := range zones {
		if err := b.Zone(strings.NewReader(z), "", fmt.Sprintf("zone %d", i), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestGolden asks the questions of testdata/golden/*.txt and compares the answers: a zone file up to a line of ---,
// then questions, each a line that begins with > and followed by its answer. GOLDEN=write writes the answers anew.
func TestGolden(t *testing.T) {
	files, err := os.ReadDir("testdata/golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("reading testdata/golden: %d files, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(f.Name(), ".txt"), func(t *testing.T) {
			path := "testdata/golden/" + f.Name()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			head, cases, ok := strings.Cut(string(text), "\n---\n")
			if !ok {
				t.Fatalf("%s has no line of ---", path)
			}
			s := build(t, strings.Split(head, "\n=== next zone\n")...)
			var got strings.Builder
			got.WriteString(head + "\n---\n")
			for line := range strings.Lines(cases) {
				if strings.HasPrefix(line, "#") || line == "\n" {
					got.WriteString(line)
				}
				if !strings.HasPrefix(line, "> ") {
					continue
				}
				got.WriteString(line)
				words := strings.Fields(line[2:])
				m := new(dns.Msg)
				m.SetQuestion(words[0], dns.StringToType[words[1]])
				size := 0
				for _, w := range words[2:] {
					switch w {
					case "do":
						m.SetEdns0(4096, true)
					case "udp":
						size = 512
					default:
						t.Fatalf("%s: no such word %q", path, w)
					}
				}
				got.WriteString(brief(ask(t, s, m, size)))
			}
			if os.Getenv("GOLDEN") == "write" {
				if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got.String() != string(text) {
				t.Errorf("%s: got\n%s\nwant\n%s", path, got.String(), text)
			}
		})
	}
}

func TestBadData(t *testing.T) {
	for name, c := range map[string]struct {
		zone string
		want error
	}{
		"empty":         {"", ErrNoNames},
		"only comments": {"; nothing\n$TTL 5\n", ErrNoNames},
		"include":       {"$INCLUDE /etc/passwd\n", ErrBadData},
		"garbage":       {"\x00\xff\x01garbage", ErrBadData},
		"two zones":     {"a. 1 SOA a. a. 1 1 1 1 1\nb. 1 SOA a. a. 1 1 1 1 1\n", ErrBadData},
		"class":         {"a. 1 CH TXT x\n", ErrBadData},
		"meta type":     {"a. 1 IN TYPE252 \\# 0\n", ErrBadData},
		"set too large": {strings.Repeat(`a. 1 TXT "`+strings.Repeat("x", 200)+"\"\n", 1) + many(), ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBuilder()
			err := b.Zone(strings.NewReader(c.zone), "", "f", time.Time{})
			if err == nil {
				_, err = b.Build()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("Zone(%.60q) = %v; want %v", c.zone, err, c.want)
			}
		})
	}
}

func many() string {
	var b strings.Builder
	for i := range 400 {
		fmt.Fprintf(&b, "a. 1 TXT \"%d%s\"\n", i, strings.Repeat("x", 200))
	}
	return b.String()
}

func TestMillionNames(t *testing.T) {
	names := 50_000
	if os.Getenv("NAMES_LARGE") != "" {
		names = 1_000_000
	}
	var zone bytes.Buffer
	zone.WriteString("$ORIGIN example.\n@ 60 SOA ns hostmaster 1 2 3 4 5\n@ NS ns\n")
	for i := range names {
		fmt.Fprintf(&zone, "host-%07d.rack-%d 300 IN A 10.%d.%d.%d\n", i, i%1000, i>>16&255, i>>8&255, i&255)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	s := build(t, zone.String())
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	t.Logf("%d names in %v, %d MB from the system beyond the %d MB of the test's text", s.Names(), took, (after.Sys-before.Sys)>>20, zone.Len()>>20)
	if want := 2*names + 1; s.Names() != want {
		t.Errorf("Names() = %d; want %d", s.Names(), want)
	}
	m := new(dns.Msg)
	m.SetQuestion("host-0000007.rack-7.example.", dns.TypeA)
	if a, out := ask(t, s, m, 0); out != positive || len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != "10.0.0.7" {
		t.Errorf("A = %v; want 10.0.0.7", a)
	}
	m.SetQuestion("7.0.0.10.in-addr.arpa.", dns.TypePTR)
	if a, out := ask(t, s, m, 0); out != positive || a.Answer[0].(*dns.PTR).Ptr != "host-0000007.rack-7.example." {
		t.Errorf("PTR = %v; want host-0000007.rack-7.example.", a)
	}
	if limit := 5 * time.Second; took > limit {
		t.Errorf("loading took %v; want at most %v", took, limit)
	}
	runtime.KeepAlive(s)
}
