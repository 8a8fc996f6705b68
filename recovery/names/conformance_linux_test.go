package names

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestEveryRFC finds a file of questions and answers for each RFC that this package keeps to.
func TestEveryRFC(t *testing.T) {
	for _, n := range []int{1034, 1035, 2181, 2308, 4035, 4592, 5155, 6672, 6891, 7766, 8020, 8482, 8767, 8914} {
		found := false
		for _, dir := range []string{"golden", "messages"} {
			_, err := os.Stat(fmt.Sprintf("testdata/%s/rfc%d.txt", dir, n))
			found = found || err == nil
		}
		if !found {
			t.Errorf("there is no rfc%d.txt in testdata", n)
		}
	}
}

// liar is an upstream for the files in testdata/messages.
func liar(kind string) func(q *dns.Msg) [][]byte {
	rcode, ok := map[string]int{"servfail": dns.RcodeServerFailure, "refused": dns.RcodeRefused, "nxdomain": dns.RcodeNameError, "nodata": dns.RcodeSuccess}[kind]
	return func(q *dns.Msg) [][]byte {
		switch {
		case kind == "silent":
			return nil
		case ok:
			return [][]byte{forge(q, "192.0.2.9", func(m *dns.Msg) { m.Rcode, m.Answer = rcode, nil })}
		}
		return [][]byte{forge(q, "198.51.100.1")}
	}
}

// TestMessages is TestGolden over the wire: what a server makes of whole messages. The words behind a question say how
// it is asked: see message. upstream=WORD asks one in the mode lkg whose upstream is such a liar.
func TestMessages(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir("testdata/messages")
	if err != nil || len(files) == 0 {
		t.Fatalf("reading testdata/messages: %d files, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(f.Name(), ".txt"), func(t *testing.T) {
			t.Parallel()
			path := "testdata/messages/" + f.Name()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			head, cases, ok := strings.Cut(string(text), "\n---\n")
			if !ok {
				t.Fatalf("%s has no line of ---", path)
			}
			set := build(t, head)
			servers := map[string]netip.AddrPort{}
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
				m, tcp, upstream := message(t, strings.Fields(line[2:]))
				if !servers[upstream].IsValid() {
					o := Options{Timeout: 200 * time.Millisecond, Overrides: overrides(t, map[string]string{"pinned.test": "192.0.2.99"})}
					if upstream != "" {
						o.Mode, o.Upstreams = LastKnownGood, []netip.AddrPort{evil(t, liar(upstream))}
					}
					servers[upstream] = start(t, o, set).Addrs()[0]
				}
				c := dns.Client{Timeout: 5 * time.Second}
				if tcp {
					c.Net = "tcp"
				}
				a, _, err := c.Exchange(m, servers[upstream].String())
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				got.WriteString(whole(a))
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

// message makes a query of the words of a golden file.
func message(t *testing.T, words []string) (m *dns.Msg, tcp bool, upstream string) {
	t.Helper()
	m = new(dns.Msg)
	typ, ok := dns.StringToType[words[1]]
	if n, err := strconv.Atoi(strings.TrimPrefix(words[1], "TYPE")); !ok && err == nil {
		typ, ok = uint16(n), true
	}
	if !ok {
		t.Fatalf("no type %s", words[1])
	}
	m.SetQuestion(words[0], typ)
	edns := func() *dns.OPT {
		if m.IsEdns0() == nil {
			m.SetEdns0(1232, false)
		}
		return m.IsEdns0()
	}
	for _, w := range words[2:] {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch key {
		case "tcp":
			tcp = true
		case "edns":
			edns().SetUDPSize(uint16(n))
		case "version":
			edns().SetVersion(uint8(n))
		case "do":
			edns().SetDo()
		case "option":
			data, _ := hex.DecodeString("c0ffee")
			edns().Option = append(edns().Option, &dns.EDNS0_LOCAL{Code: uint16(n), Data: data})
		case "class":
			m.Question[0].Qclass = dns.StringToClass[value]
		case "opcode":
			m.Opcode = n
		case "norec":
			m.RecursionDesired = false
		case "cd":
			m.CheckingDisabled = true
		case "ad":
			m.AuthenticatedData = true
		case "bits": // those of answers, and the one without a meaning
			m.Authoritative, m.RecursionAvailable, m.Zero, m.Rcode = true, true, true, dns.RcodeNotZone
		case "upstream":
			upstream = value
		default:
			t.Fatalf("no such word %q", w)
		}
	}
	return m, tcp, upstream
}

var ago = regexp.MustCompile(`\d+d\d+h ago`)

// whole is a message in text.
func whole(m *dns.Msg) string {
	var b strings.Builder
	rcode := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeBadVers {
		rcode = "BADVERS" // with TSIG the same number is BADSIG
	}
	b.WriteString(rcode)
	for _, f := range []struct {
		on   bool
		name string
	}{
		{m.Opcode != dns.OpcodeQuery, "opcode=" + strconv.Itoa(m.Opcode)},
		{m.Authoritative, "aa"},
		{m.Truncated, "tc"},
		{m.RecursionDesired, "rd"},
		{m.RecursionAvailable, "ra"},
		{m.Zero, "z"},
		{m.AuthenticatedData, "ad"},
		{m.CheckingDisabled, "cd"},
	} {
		if f.on {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteString("\n")
	if o := m.IsEdns0(); o != nil {
		fmt.Fprintf(&b, "edns version=%d size=%d do=%v", o.Version(), o.UDPSize(), o.Do())
		for _, opt := range o.Option {
			if e, ok := opt.(*dns.EDNS0_EDE); ok {
				fmt.Fprintf(&b, " ede=%d %q", e.InfoCode, ago.ReplaceAllString(e.ExtraText, "AGE ago"))
			} else {
				fmt.Fprintf(&b, " option=%d", opt.Option())
			}
		}
		b.WriteString("\n")
	}
	for _, q := range m.Question {
		fmt.Fprintf(&b, "question %s\n", strings.Join(strings.Fields(strings.TrimPrefix(q.String(), ";")), " "))
	}
	for _, s := range []struct {
		name    string
		records []dns.RR
	}{{"answer", m.Answer}, {"authority", m.Ns}, {"additional", m.Extra}} {
		if len(s.records) > 8 {
			fmt.Fprintf(&b, "%s of %d records\n", s.name, len(s.records))
			continue
		}
		for _, rr := range s.records {
			if rr.Header().Rrtype != dns.TypeOPT {
				fmt.Fprintf(&b, "%s %s\n", s.name, strings.Join(strings.Fields(rr.String()), " "))
			}
		}
	}
	return b.String()
}
