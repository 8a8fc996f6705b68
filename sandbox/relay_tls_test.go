package sandbox

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secureRig is a rig in front of a real TLS server for store.example with a
// certificate of its own authority; the files are its and the vacuum's trust.
func secureRig(t testing.TB, to string, change func(*RelayOptions, *tls.Certificate), capabilities ...string) (r *rig, theirs, ours string) {
	t.Helper()
	dir := t.TempDir()
	real, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := real.leaf("store.example")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cert := write("cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}))
	keyFile := write("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	server := nginxAt(t, "ssl http2", "server_name store.example; ssl_certificate "+cert+"; ssl_certificate_key "+keyFile+";")
	mine, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r = newRig(t, to, server, func(o *RelayOptions) {
		o.Authority, o.Roots = mine, x509.NewCertPool()
		o.Roots.AddCert(real.certificate)
		if change != nil {
			change(o, leaf)
		}
	}, capabilities...)
	return r, write("theirs", real.PEM()), write("ours", mine.PEM())
}

func TestTLS(t *testing.T) {
	r, _, ours := secureRig(t, "store.example:443", nil, "http:https://store.example;GET;/v2/*,name=read")
	url := "https://store.example"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{url + "/v2/list", url + "/v2/deep/x"}, "[]\n[200 1]deep\n[200 0]"},
		{[]string{"--http1.0", url + "/v2/list"}, "[]\n[200 1]"},
		{[]string{"--tls-max", "1.2", url + "/v2/list"}, "[]\n[200 1]"},
		{[]string{"-X", "DELETE", url + "/v2/list"}, "method DELETE is not among GET\n[403 1]"},
		{[]string{url + "/secret/key"}, "path /secret/key is not under /v2/*\n[403 1]"},
		{[]string{"-H", "Host: hidden.example", url + "/v2/list"}, `host "hidden.example" is not`},
		{[]string{"https://hidden.example/v2/list"}, "(exit status 35)"},
	} {
		args := append([]string{"--cacert", ours}, c.args...)
		wantText(t, "curl "+strings.Join(c.args, " "), r.curl(t, args...), c.want)
	}
	wantAttempt(t, r.record, "tcp", "198.18.0.1:443", Blocked, func(a Attempt) bool {
		return a.Outcome == Denied && strings.Contains(a.Detail, "hidden.example")
	})
	wantAttempt(t, r.record, "http", "DELETE https://store.example/v2/list", Blocked, whatever)
	if l := r.NotEnforced(); len(l) != 0 {
		t.Errorf("NotEnforced() = %q; want nothing", l)
	}
	// No server name, and no TLS at all.
	for _, in := range []string{"GET / HTTP/1.1\r\nHost: store.example\r\n\r\n", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", strings.Repeat("\xff", 1000)} {
		if got := raw(t, r, in); strings.Contains(got, "HTTP/1.1 200") {
			t.Errorf("%.20q got %q; want no answer", in, got)
		}
	}
	conf := &tls.Config{InsecureSkipVerify: true}
	if _, err := tls.Dial("tcp", r.addr, conf); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("Dial() without a server name = %v; want the alert unrecognized name", err)
	}
}

func TestTLSPython(t *testing.T) {
	r, _, ours := secureRig(t, "store.example:443", nil, "http:https://store.example;GET;/v2/*,name=read")
	script := `
import ssl, socket, http.client, sys
ctx = ssl.create_default_context(cafile=sys.argv[2])
host, port = sys.argv[1].split(":")
s = ctx.wrap_socket(socket.create_connection((host, int(port))), server_hostname="store.example")
c = http.client.HTTPSConnection("store.example"); c.sock = s
for method, path in (("GET", "/v2/list"), ("POST", "/v2/list")):
    c.request(method, path, body=b"x" if method == "POST" else None)
    a = c.getresponse(); print(a.status, a.read())
`
	out, err := exec.Command("python3", "-c", script, r.addr, ours).CombinedOutput()
	if want := "200 b'[]\\n'\n403 b'blackstart: read does not let this pass: method POST"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("python: %v, %s; want %s", err, out, want)
	}
}

func TestTLSPins(t *testing.T) {
	r, theirs, _ := secureRig(t, "store.example:443", nil, "http:https://store.example;GET;/v2/*,name=read")
	url := "https://store.example/v2/list"
	// A client that trusts its own server only.
	wantText(t, "first", r.curl(t, "--cacert", theirs, url), "(exit status 60)")
	wantText(t, "second", r.curl(t, "--cacert", theirs, url), "[]\n[200 1]")
	a := wantAttempt(t, r.record, "http", "* https://store.example", Allowed, whatever)
	if a.Outcome != NoMethod || a.Capability != "read" {
		t.Errorf("record = %+v; want %q under read", a, NoMethod)
	}
	if l := r.NotEnforced(); len(l) != 1 || l[0] != "read" {
		t.Errorf("NotEnforced() = %q; want [read]", l)
	}
	wantText(t, "another name", r.curl(t, "-k", "https://hidden.example/"), "(exit status 35)")
}

func TestTLSOtherProtocol(t *testing.T) {
	r, theirs, _ := secureRig(t, "store.example:443", nil, "http:https://store.example;GET;/v2/*,name=read")
	pem, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: "store.example", RootCAs: roots, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatalf("Dial() = %v; want the server itself", err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Errorf("protocol = %q; want h2", p)
	}
	wantAttempt(t, r.record, "http", "* https://store.example", Allowed, func(a Attempt) bool { return a.Outcome == NoMethod })
}

// The server is verified, by the roots or by the pin.
func TestTLSUpstream(t *testing.T) {
	noRoots := func(o *RelayOptions, _ *tls.Certificate) { o.Roots = x509.NewCertPool() }
	pinned := func(right bool) func(*RelayOptions, *tls.Certificate) {
		return func(o *RelayOptions, leaf *tls.Certificate) {
			o.Roots = x509.NewCertPool()
			c, err := x509.ParseCertificate(leaf.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
			if !right {
				sum[0]++
			}
			o.Capabilities[0].Pin = hex.EncodeToString(sum[:])
		}
	}
	for name, c := range map[string]struct {
		change func(*RelayOptions, *tls.Certificate)
		want   string
	}{
		"roots":     {nil, "[200 1]"},
		"no roots":  {noRoots, "certificate signed by unknown authority\n[502 1]"},
		"pin":       {pinned(true), "[200 1]"},
		"wrong pin": {pinned(false), "pinned is sha256:"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _, ours := secureRig(t, "store.example:443", c.change, "http:https://store.example")
			wantText(t, "curl", r.curl(t, "--cacert", ours, "https://store.example/v2/list"), c.want)
		})
	}
}

func TestTLSAddress(t *testing.T) {
	a, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server, _ := upstreamHTTP(t)
	r := newRig(t, "10.0.0.5:443", server, func(o *RelayOptions) { o.Authority = a }, "http:https://10.0.0.5")
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	c, err := tls.Dial("tcp", r.addr, &tls.Config{ServerName: "10.0.0.5", RootCAs: roots})
	if err != nil {
		t.Fatalf("Dial() = %v; want a certificate for the address", err)
	}
	c.Close()
	if _, err := NewRelay(RelayOptions{Names: NewNames(), Capabilities: []Capability{mustCapability(t, "http:https://10.0.0.5")}}); err == nil {
		t.Error("NewRelay() without an authority = nil; want an error")
	}
}

func FuzzHello(f *testing.F) {
	for _, c := range []*tls.Config{{ServerName: "store.example"}, {ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}, MaxVersion: tls.VersionTLS12}} {
		client, server := net.Pipe()
		go func() { _ = tls.Client(client, c).HandshakeContext(context.Background()) }()
		h, err := readHello(server)
		if err != nil {
			f.Fatal(err)
		}
		server.Close()
		f.Add(h.bytes)
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		client, server := net.Pipe()
		go func() {
			_, _ = client.Write(b)
			client.Close()
		}()
		h, err := readHello(server)
		server.Close()
		if err == nil && string(h.bytes) != string(b[:len(h.bytes)]) {
			t.Errorf("readHello(%x) kept %x; want what was sent", b, h.bytes)
		}
	})
}

func TestAlerts(t *testing.T) {
	hello := "\x16\x03\x01\x00\x04abcd"
	for _, c := range []struct {
		in   string
		want bool
	}{
		{hello + "\x15\x03\x03\x00\x02\x02\x30", true},                              // unknown_ca
		{hello + "\x14\x03\x03\x00\x01\x01" + "\x15\x03\x03\x00\x02\x02\x2a", true}, // bad_certificate
		{hello + "\x15\x03\x03\x00\x02\x02\x28", false},                             // handshake_failure
		{hello + "\x17\x03\x03\x00\x07\x15\x03\x03\x00\x02\x02\x30", false},         // inside a record
		{"\x15\x03", false},
	} {
		for _, step := range []int{1, 3, 100} {
			client, server := net.Pipe()
			go func() {
				for b := []byte(c.in); len(b) > 0; b = b[min(step, len(b)):] {
					_, _ = client.Write(b[:min(step, len(b))])
				}
				client.Close()
			}()
			a := &alerts{Conn: server}
			if b, err := io.ReadAll(a); string(b) != c.in || err != nil || a.refused != c.want {
				t.Errorf("reading %q by %d: %q, %v, refused %v; want %v", c.in, step, b, err, a.refused, c.want)
			}
		}
	}
}
