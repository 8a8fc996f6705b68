package fetch

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// authority signs certificates for web servers.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	der, key := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of the kit"},
		NotBefore: time.Now().AddDate(-20, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.pem = key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a certificate and its key. by is nil where it signs itself.
func sign(t *testing.T, c *x509.Certificate, by *authority) ([]byte, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &authority{cert: c, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// server writes a certificate for a name and 127.0.0.1 and its key into one file,
// and gives what pins it.
func (a *authority) server(t *testing.T, file, name string, until time.Time) digest.Digest {
	t.Helper()
	der, key := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: until.AddDate(-1, 0, 0), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a)
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})...)
	if err := os.WriteFile(file, both, 0o600); err != nil {
		t.Fatal(err)
	}
	return SPKI(c)
}

// web is an nginx on loopback. Below its root is kit/, a layout with one blob;
// content, the blob itself; and site/, a directory with a page about itself.
type web struct {
	http, https, https2, expired string // addresses
	ca                           []byte
	pin, expiredPin              digest.Digest
	content                      []byte
	blob                         digest.Digest
}

// webName is the one name that the certificates are for.
const webName = "mirror.blackstart.example"

const webConfig = `
daemon off; master_process off; pid DIR/pid; error_log stderr warn;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
  ssl_certificate DIR/good.pem; ssl_certificate_key DIR/good.pem;
  server {
    listen HTTP; listen HTTPS ssl; listen HTTP2 ssl http2;
    root DIR/www; autoindex off;
    location /private/ { alias DIR/www/kit/; auth_basic kit; auth_basic_user_file DIR/users; }
    location /moved/ { rewrite ^/moved/(.*)$ /private/$1 redirect; }
    location /away/ { rewrite ^/away/(.*)$ http://WEBNAME:HTTPPORT/kit/$1 redirect; }
    location /noranges/ { alias DIR/www/kit/; max_ranges 0; }
    location /nohead/ { alias DIR/www/kit/; if ($request_method = HEAD) { return 405; } }
    location /site/ { index index.html; }
    location /forbidden/ { return 403 "not\tyou\n\nnever"; default_type text/plain; }
  }
  server { listen EXPIRED ssl; ssl_certificate DIR/old.pem; ssl_certificate_key DIR/old.pem; root DIR/www; }
}
`

func startNginx(t *testing.T) *web {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" {
			t.Skipf("no nginx here: %v", err)
		}
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca := newAuthority(t)
	w := &web{content: pattern(4<<20 + 321), ca: ca.pem}
	w.blob = digest.FromBytes(w.content)
	w.pin = ca.server(t, filepath.Join(dir, "good.pem"), webName, time.Now().AddDate(0, 6, 0))
	w.expiredPin = ca.server(t, filepath.Join(dir, "old.pem"), webName, time.Now().AddDate(-1, 0, 0))
	storeWith(t, filepath.Join(dir, "www/kit"), w.content, nil)
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "www/site"), 0o755),
		os.WriteFile(filepath.Join(dir, "www/site/index.html"), []byte("<html>welcome"), 0o600),
		os.Link(filepath.Join(dir, "www/kit/blobs/sha256", w.blob.Encoded()), filepath.Join(dir, "www/content")),
		os.WriteFile(filepath.Join(dir, "users"), []byte("operator:{PLAIN}"+testSecret+"\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for _, a := range []*string{&w.http, &w.https, &w.https2, &w.expired} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() // all are held until none can be given twice
		*a = l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := net.SplitHostPort(w.http)
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("WEBNAME", webName, "HTTPPORT", port, "HTTPS", w.https, "HTTP2", w.https2, "HTTP", w.http,
		"EXPIRED", w.expired, "DIR", dir).Replace(webConfig)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(path, "-p", dir, "-e", "stderr", "-c", conf)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("nginx: %s", &stderr)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", w.http)
		if err == nil {
			_ = c.Close()
			return w
		}
		select {
		case <-ended:
			t.Fatalf("nginx has ended: %s", &stderr)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("nginx does not answer: %v", err)
		}
	}
}

// byName has the server's name, and the login.
func byName() Net {
	return Net{
		Names: map[string][]netip.Addr{webName: {netip.MustParseAddr("127.0.0.1")}},
		Login: func(string) (string, string, bool) { return "operator", testSecret, true },
	}
}

func dialWeb(t *testing.T, p Place, n Net) Source {
	t.Helper()
	s, err := Dial(p, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return s
}

func named(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return net.JoinHostPort(webName, port)
}

func TestHTTPSource(t *testing.T) {
	w := startNginx(t)
	for _, c := range []struct {
		name, url string
		ca        bool
		traits    []sourceTrait
	}{
		{name: "layout", url: "http://" + w.http + "/kit"},
		{name: "layout with a slash", url: "http://" + w.http + "/kit/"},
		{name: "content", url: "http://" + w.http + "/content", traits: []sourceTrait{oneContent}},
		{name: "content by a query", url: "http://" + w.http + "/content?token=" + testSecret, traits: []sourceTrait{oneContent}},
		{name: "name", url: "http://" + named(w.http) + "/kit"},
		{name: "TLS", url: "https://" + w.https + "/kit", ca: true},
		{name: "TLS by name", url: "https://" + named(w.https) + "/kit", ca: true},
		{name: "HTTP 2", url: "https://" + w.https2 + "/kit", ca: true},
		{name: "login", url: "http://" + w.http + "/private"},
		{name: "redirect, and login", url: "http://" + w.http + "/moved"},
		{name: "redirect to a name", url: "http://" + w.http + "/away"},
		{name: "redirect to a name without TLS", url: "http://" + w.http + "/away/"},
		{name: "no HEAD", url: "http://" + w.http + "/nohead"},
		{name: "no ranges", url: "http://" + w.http + "/noranges", traits: []sourceTrait{noRanges}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Place{URL: c.url}
			if c.ca {
				p.CA = w.ca
			}
			testSource(t, dialWeb(t, p, byName()), w.blob, w.content, c.traits...)
		})
	}
	t.Run("empty blob", func(t *testing.T) {
		empty := digest.FromBytes(nil)
		for _, path := range []string{"/kit", "/nohead"} {
			s := dialWeb(t, Place{URL: "http://" + w.http + path}, Net{})
			wantPart(t, s, empty, nil, 0, -1)
			if n, err := s.Stat(t.Context(), empty); n != 0 || err != nil {
				t.Errorf("Stat(empty) of %s = %d, %v; want 0", path, n, err)
			}
			wantNothing(t, s, empty, 0, 1)
		}
	})
	t.Run("directory with a page", func(t *testing.T) {
		for _, path := range []string{"/site", "/site/", "/kit", "", "/"} {
			s := dialWeb(t, Place{URL: "http://" + w.http + path}, Net{})
			none := digest.FromString("missing")
			if _, _, err := s.Open(t.Context(), none, 0, -1); !errors.Is(err, ErrNotFound) {
				t.Errorf("Open(missing) of %s = %v; want %v", path, err, ErrNotFound)
			}
			if path == "/kit" { // nothing wrong was learnt from it
				wantPart(t, s, w.blob, w.content, 4096, 4096)
			}
		}
	})
	t.Run("refused", func(t *testing.T) {
		for path, want := range map[string]string{
			"/forbidden/": `403 Forbidden: not\tyou`,
			"/private/":   `401 Unauthorized`,
		} {
			s := dialWeb(t, Place{URL: "http://" + w.http + path}, Net{})
			_, _, err := s.Open(t.Context(), w.blob, 0, -1)
			if err == nil || errors.Is(err, ErrNotFound) || !strings.HasSuffix(err.Error(), want) {
				t.Errorf("Open() of %s = %v; want … %s", path, err, want)
			}
		}
		s := dialWeb(t, Place{URL: "http://" + w.http + "/kit"}, Net{})
		_, _, err := s.Open(t.Context(), w.blob, 5<<20, 10)
		if want := fmt.Sprintf(`416 Requested Range Not Satisfiable: it has no bytes there, but "bytes */%d"`, len(w.content)); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("Open(5 MiB, 10) = %v; want … %s", err, want)
		}
	})
}

func TestHTTPTrust(t *testing.T) {
	w := startNginx(t)
	other := newAuthority(t)
	lastYear := func() time.Time { return time.Now().AddDate(-1, -1, 0) }
	pins := func(d ...digest.Digest) []digest.Digest { return d }
	for _, c := range []struct {
		name, host string
		place      Place
		now        func() time.Time
		ok         bool
		want       error  // any, where it is nil
		said       string // in the error
	}{
		{name: "CA", host: w.https, place: Place{CA: w.ca}, ok: true},
		{name: "CA, name", host: named(w.https), place: Place{CA: w.ca}, ok: true},
		{name: "one of several CAs", host: w.https, place: Place{CA: append(other.pem, w.ca...)}, ok: true},
		{name: "CA, expired", host: w.expired, place: Place{CA: w.ca}, said: "expired"},
		{name: "CA, expired, clock of then", host: w.expired, place: Place{CA: w.ca}, now: lastYear, ok: true},
		{name: "pin", host: w.https, place: Place{Pins: pins(w.pin)}, ok: true},
		{name: "one of several pins", host: w.https, place: Place{Pins: pins(w.expiredPin, w.pin)}, ok: true},
		{name: "pin, HTTP 2", host: w.https2, place: Place{Pins: pins(w.pin)}, ok: true},
		{name: "pin, expired", host: w.expired, place: Place{Pins: pins(w.expiredPin)}, ok: true},
		{name: "wrong pin", host: w.https, place: Place{Pins: pins(w.expiredPin)}, want: ErrPeer},
		{name: "wrong pin, HTTP 2", host: w.https2, place: Place{Pins: pins(w.expiredPin)}, want: ErrPeer},
		{name: "unknown CA", host: w.https, place: Place{CA: other.pem}, said: "unknown authority"},
		{name: "the system's CAs", host: w.https, said: "unknown authority"},
		{name: "CA, another name", host: strings.Replace(named(w.https), "mirror", "other", 1), place: Place{CA: w.ca}, said: "valid for " + webName},
		{name: "pin, another name", host: strings.Replace(named(w.https), "mirror", "other", 1), place: Place{Pins: pins(w.pin)}, ok: true},
		{name: "unknown name", host: "unknown.example", place: Place{CA: w.ca}, want: ErrName},
		{name: "localhost", host: strings.Replace(w.https, "127.0.0.1", "localhost", 1), place: Place{CA: w.ca}, want: ErrName},
		{name: "TLS where there is none", host: w.http, place: Place{CA: w.ca}, said: "HTTP response to HTTPS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := c.place
			p.URL = "https://" + c.host + "/kit"
			n := byName()
			n.Now = c.now
			n.Names["other.blackstart.example"] = n.Names[webName]
			s := dialWeb(t, p, n)
			if c.ok {
				wantPart(t, s, w.blob, w.content, 100, 100)
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if n, err := s.Stat(ctx, w.blob); err == nil || !errors.Is(err, c.want) && c.want != nil || !strings.Contains(err.Error(), c.said) {
				t.Errorf("Stat() = %d, %v; want %v, %s", n, err, c.want, c.said)
			}
		})
	}
}

func TestHTTPPlaces(t *testing.T) {
	for _, place := range []string{
		"http:", "http:kit", "https:///kit", "http://:80/kit", "http://10.0.0.1/kit#x",
		"http://operator@10.0.0.1/kit", "http://operator:" + testSecret + "@10.0.0.1/kit",
	} {
		s, err := Dial(Place{URL: place}, Net{})
		if !errors.Is(err, ErrPlace) || strings.Contains(err.Error(), testSecret) {
			t.Errorf("Dial(%s) = %v, %v; want %v, no password in it", place, s, err, ErrPlace)
		}
	}
	if _, err := Dial(Place{URL: "https://10.0.0.1", CA: []byte("none")}, Net{}); err == nil {
		t.Error("Dial() with a CA that is none = nil; want an error")
	}
}
