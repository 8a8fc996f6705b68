package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestSuggest(t *testing.T) {
	block := func(proto, dest, name string) Attempt {
		return Attempt{Verdict: Blocked, Proto: proto, Destination: dest, Name: name, Count: 1, Outcome: Silent}
	}
	deny := func(dest string) Attempt {
		return Attempt{Verdict: Blocked, Proto: "http", Destination: dest, Capability: "read", Outcome: Denied}
	}
	dark := block("tcp", "10.9.9.9:1", "")
	dark.Capability = "store"
	ok := block("tcp", "10.8.8.8:1", "")
	ok.Verdict = Allowed
	for name, c := range map[string]struct {
		in   []Attempt
		want []string
	}{
		"nothing":        {nil, nil},
		"ports together": {[]Attempt{block("tcp", "10.0.0.1:443", ""), block("tcp", "10.0.0.1:80", ""), block("tcp", "10.0.0.1:81", ""), block("tcp", "10.0.0.1:443", "")}, []string{"tcp:10.0.0.1:80-81,443"}},
		"families":       {[]Attempt{block("udp", "[2001:db8::1]:123", ""), block("udp", "10.0.0.1:123", "")}, []string{"udp:10.0.0.1:123", "udp:[2001:db8::1]:123"}},
		"names first":    {[]Attempt{block("dns", "store.example A", ""), block("dns", "store.example AAAA", ""), block("tcp", "198.18.0.1:443", "store.example"), block("tcp", "[fd62::1]:443", "store.example")}, []string{"dns:store.example:443"}},
		"names alone":    {[]Attempt{block("dns", "a.example A", ""), block("dns", "a.example AAAA", ""), block("dns", "1.0.0.10.in-addr.arpa PTR", ""), block("dns", ". NS", "")}, []string{"dns:a.example"}},
		"loopback":       {[]Attempt{block("tcp", "127.0.0.1:2379", ""), block("tcp", "[::1]:2379", ""), block("udp", "127.0.0.1:53", "")}, []string{"loopback:2379", "udp:127.0.0.1:53"}},
		"unix":           {[]Attempt{block("unix", "/run/a,b.sock", ""), block("abstract", "@x", ""), block("unix", "relative", "")}, []string{"unix:/run/a%2Cb.sock"}},
		"requests": {[]Attempt{
			deny("GET https://s.example/v2/a"), deny("HEAD https://s.example/v2/a"), deny("GET https://s.example/v2/%2e%2e/b"), deny("DELETE https://s.example/b"), deny("HEAD https://s.example/c"),
			deny("GET https://s.example/c"), deny("CONNECT https://s.example/x"), deny("? https://s.example"),
		}, []string{"http:https://s.example;DELETE,GET;/b", "http:https://s.example;GET,HEAD;/c;/v2/a"}},
		"a request resolves": {[]Attempt{block("dns", "s.example A", ""), deny("GET http://s.example/a")}, []string{"http:http://s.example;GET;/a"}},
		"no capability can":  {[]Attempt{block("icmp", "10.0.0.1", ""), block("raw", "10.0.0.1", ""), block("packet", "socket", ""), block("vsock", "2:1", "")}, nil},
		"dark on purpose":    {[]Attempt{dark, ok}, nil},
	} {
		var got []string
		for _, s := range Suggest(c.in) {
			got = append(got, s.String())
			if again, err := ParseCapability(s.String()); err != nil || again.String() != s.String() {
				t.Errorf("ParseCapability(%q) = %v, %v; want what was suggested", s, again, err)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("Suggest(%s) = %q; want %q", name, got, c.want)
		}
	}
	var scan []Attempt
	for p := 1; p < 400; p += 2 {
		scan = append(scan, block("tcp", fmt.Sprintf("10.0.0.1:%d", p), ""))
	}
	got := Suggest(scan)
	for _, a := range []uint16{1, 2, 399} {
		if open := slices.ContainsFunc(got, func(c Capability) bool { return c.HasPort(a) }); open != (a%2 == 1) {
			t.Errorf("port %d is open: %v in %v; want what was tried and no more", a, open, got)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	err := Table(&b, []Attempt{
		{Verdict: Allowed, Proto: "tcp", Destination: "198.18.0.1:443", Name: "store.example", Capability: "package-store:read", PID: 52, Command: []string{"/usr/bin/curl", "-s"}, Count: 1, Outcome: Answered, Sent: 120, Received: 3400},
		{Verdict: Blocked, Proto: "tcp", Destination: "10.0.0.1:443", Capability: "package-store", PID: 41, Command: []string{"/usr/bin/etcd"}, Count: 12, Outcome: Silent},
		{Verdict: Blocked, Proto: "dns", Destination: "db.example A", Executable: "/usr/lib/jvm/java", PID: 7, Container: "zk1", Count: 2, Outcome: Silent},
		{Verdict: Blocked, Proto: "udp", Destination: "10.0.0.1:53", Count: 1, Outcome: Silent},
		{Verdict: Inside, Proto: "unix", Destination: "/run/\x1b]0;pwn\x07.sock", Command: []string{"a\u202eb\x00\xff"}, Count: 1, Host: 2},
		{Verdict: Blocked, Proto: "http", Destination: "DELETE https://s.example/v2/x", Capability: "read", PID: 9, Executable: "/bin/sh", Count: 1, Outcome: Denied, Detail: "method DELETE is not among GET,HEAD"},
		{Verdict: Allowed, Proto: "tcp", Destination: "10.0.0.9:1"},
	})
	want := `blocked
  etcd (pid 41) on host 0 tried 10.0.0.1:443 (package-store), 12 times, never answered
  java (pid 7) in zk1 on host 0 asked for the name db.example A, twice, never answered
  a program on host 0 tried udp 10.0.0.1:53, never answered
  sh (pid 9) on host 0 tried DELETE https://s.example/v2/x (read), denied: method DELETE is not among GET,HEAD
allowed
  curl (pid 52) on host 0 reached store.example:443 (package-store:read), answered, 120 B out, 3.4 kB in
inside
  a\u202eb\x00\xff on host 2 used /run/\x1b]0;pwn\a.sock
`
	if err != nil || b.String() != want {
		t.Errorf("Table() = %v, %s; want %s", err, b.String(), want)
	}
	b.Reset()
	if err := Table(&b, nil); err != nil || b.String() != "nothing was tried\n" {
		t.Errorf("Table(nil) = %v, %q; want that nothing was tried", err, b.String())
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[2J", "a\u202eb", "\xff\xfe", "é\u200b", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Printable(s) {
			if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
				t.Errorf("Printable(%q) holds %U; want none", s, r)
			}
		}
	})
}
