package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// acmeServer runs certs serve with ACME, where every name of example.org is 127.0.0.1 and the challenge is fetched at port.
func acmeServer(t *testing.T, port int) (a *Authority, at netip.AddrPort, dir string) {
	t.Helper()
	a = authority(t, time.Now(), nil)
	at = serving(t, a, ServeOptions{Extra: ACME(ACMEOptions{
		Issue:   func(_ context.Context, r Request) (Issued, error) { return a.Issue(time.Now(), r) },
		Service: a.policy.Find,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			host, p, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			if strings.HasSuffix(host, ".example.org") {
				host = "127.0.0.1"
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(host, p))
		},
		Port: port, Now: time.Now,
	})})
	return a, at, write(t, map[string][]byte{"root.pem": pemCert(a.root)})
}

func TestLegoGetsACertificate(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	a, at, dir := acmeServer(t, port)
	run := func(domain string) (string, error) {
		if _, err := exec.LookPath("lego"); err != nil && os.Getenv("REQUIRE_KERNEL") == "" {
			t.Skip(err)
		}
		c := exec.Command("lego", "--server", "https://"+at.String()+"/acme/directory", "--accept-tos", "--email", "a@example.org", "--path", dir, "--http", "--http.port", fmt.Sprintf("127.0.0.1:%d", port), "--domains", domain, "run")
		c.Env = append(os.Environ(), "LEGO_CA_CERTIFICATES="+filepath.Join(dir, "root.pem"))
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run("a.etcd.example.org"); err != nil {
		t.Fatalf("lego: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "certificates", "a.etcd.example.org.crt"))
	if err != nil {
		t.Fatal(err)
	}
	l := leafOf(t, Issued{Cert: b})
	if !slices.Equal(l.DNSNames, []string{"a.etcd.example.org"}) || l.Subject.CommonName != "etcd" || len(l.ExtKeyUsage) != 1 {
		t.Errorf("lego got a certificate for %v of %s", l.DNSNames, l.Subject)
	}
	mustTool(t, dir, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "certificates/a.etcd.example.org.crt", "certificates/a.etcd.example.org.crt")
	if out, err := run("www.example.com"); err == nil || !strings.Contains(out, "rejectedIdentifier") {
		t.Errorf("lego for a name outside the policy: %v\n%s", err, out)
	}
	_ = a
}

func TestCertbotGetsACertificate(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	_, at, dir := acmeServer(t, port)
	if _, err := exec.LookPath("certbot"); err != nil && os.Getenv("REQUIRE_KERNEL") == "" {
		t.Skip(err)
	}
	c := exec.Command("certbot", "certonly", "--standalone", "--non-interactive", "--agree-tos", "--register-unsafely-without-email", "--server", "https://"+at.String()+"/acme/directory",
		"--http-01-address", "127.0.0.1", "--http-01-port", fmt.Sprint(port), "--config-dir", dir+"/c", "--work-dir", dir+"/w", "--logs-dir", dir+"/l", "-d", "b.etcd.example.org", "-d", "c.etcd.example.org")
	c.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+filepath.Join(dir, "root.pem"))
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("certbot: %v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "c/live/b.etcd.example.org/fullchain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if l := leafOf(t, Issued{Cert: b}); !slices.Equal(l.DNSNames, []string{"b.etcd.example.org", "c.etcd.example.org"}) {
		t.Errorf("certbot got a certificate for %v", l.DNSNames)
	}
}

// acmeClient is a client that may do everything wrong.
type acmeClient struct {
	t    *testing.T
	http *http.Client
	base string
	key  *ecdsa.PrivateKey
	kid  string
}

func (c *acmeClient) jwk() jwk {
	raw, err := c.key.PublicKey.Bytes()
	if err != nil {
		c.t.Fatal(err)
	}
	return jwk{Kty: "EC", Crv: "P-256", X: base64.RawURLEncoding.EncodeToString(raw[1:33]), Y: base64.RawURLEncoding.EncodeToString(raw[33:])}
}

func (c *acmeClient) nonce() string {
	resp, err := c.http.Head(c.base + "nonce")
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Replay-Nonce")
}

// post signs and sends; change may spoil the message.
func (c *acmeClient) post(url string, payload any, change func(*jwsHeader, *jws)) (int, string, http.Header) {
	h := jwsHeader{Alg: "ES256", Nonce: c.nonce(), URL: url, KID: c.kid}
	if c.kid == "" {
		k := c.jwk()
		h.JWK = &k
	}
	m := jws{}
	if change != nil {
		change(&h, nil)
	}
	text, _ := json.Marshal(h)
	m.Protected = base64.RawURLEncoding.EncodeToString(text)
	if payload != nil {
		text, _ = json.Marshal(payload)
		m.Payload = base64.RawURLEncoding.EncodeToString(text)
	}
	sum := sha256.Sum256([]byte(m.Protected + "." + m.Payload))
	r, s, err := ecdsa.Sign(rand.Reader, c.key, sum[:])
	if err != nil {
		c.t.Fatal(err)
	}
	m.Signature = base64.RawURLEncoding.EncodeToString(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	if change != nil {
		change(nil, &m)
	}
	body, _ := json.Marshal(m)
	resp, err := c.http.Post(url, "application/jose+json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(got), resp.Header
}

func TestACMERefuses(t *testing.T) {
	a := authority(t, time.Now(), nil)
	var answer atomic.Value
	answer.Store("")
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer.Load()) }))
	defer host.Close()
	_, port, err := net.SplitHostPort(host.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var number int
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := httptest.NewTLSServer(ACME(ACMEOptions{
		Issue:   func(_ context.Context, r Request) (Issued, error) { return a.Issue(time.Now(), r) },
		Service: a.policy.Find, Dial: (&net.Dialer{}).DialContext, Port: number, Now: func() time.Time { return now },
	}))
	defer s.Close()
	client := func() *acmeClient {
		k, err := newKey(P256)
		if err != nil {
			t.Fatal(err)
		}
		c := &acmeClient{t: t, http: s.Client(), base: s.URL + "/acme/", key: k.(*ecdsa.PrivateKey)}
		return c
	}
	c := client()
	want := func(what string, status, wantStatus int, body, word string) {
		t.Helper()
		if status != wantStatus || !strings.Contains(body, word) {
			t.Errorf("%s = %d %s; want %d with %q", what, status, body, wantStatus, word)
		}
	}
	account := map[string]bool{"termsOfServiceAgreed": true}
	status, body, _ := c.post(c.base+"account", account, func(_ *jwsHeader, m *jws) {
		if m != nil {
			m.Signature = m.Signature[:10] + "AAAA" + m.Signature[14:]
		}
	})
	want("a wrong signature", status, 403, body, "signature")
	used := c.nonce()
	setNonce := func(h *jwsHeader, _ *jws) {
		if h != nil {
			h.Nonce = used
		}
	}
	status, body, head := c.post(c.base+"account", account, setNonce)
	want("a new account", status, 201, body, "valid")
	c.kid = head.Get("Location")
	status, body, _ = c.post(c.base+"order", map[string]any{}, setNonce)
	want("a nonce used twice", status, 400, body, "badNonce")
	status, body, _ = c.post(c.base+"order", map[string]any{}, func(h *jwsHeader, _ *jws) {
		if h != nil {
			h.URL = c.base + "account"
		}
	})
	want("another URL", status, 403, body, "another URL")
	status, body, _ = c.post(c.base+"order", map[string]any{}, func(h *jwsHeader, _ *jws) {
		if h != nil {
			h.Alg = "none"
		}
	})
	want("alg none", status, 403, body, "signature")
	order := func(c *acmeClient, ids ...acmeName) (string, string) {
		status, body, head := c.post(c.base+"order", map[string]any{"identifiers": ids}, nil)
		if status != 201 {
			return "", body
		}
		return strings.TrimPrefix(head.Get("Location"), c.base+"order/"), body
	}
	for _, bad := range []acmeName{{"dns", "www.example.com"}, {"dns", "*.etcd.example.org"}, {"dns", "10.0.0.1"}, {"ip", "a"}, {"ip", "192.0.2.1"}, {"x", "y"}} {
		if id, body := order(c, bad); id != "" || !strings.Contains(body, "rejectedIdentifier") {
			t.Errorf("an order of %v = %s %s; want it refused", bad, id, body)
		}
	}
	ip := acmeName{"ip", "127.0.0.1"}
	id, body := order(c, ip)
	if id == "" {
		t.Fatal(body)
	}
	csr := func(r Request) map[string]string {
		b := csrOf(t, r.DNS...)
		raw, err := ParseCSR(b)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"csr": base64.RawURLEncoding.EncodeToString(raw.Raw)}
	}
	status, body, _ = c.post(c.base+"finalize/"+id, csr(Request{}), nil)
	want("finalize before the challenge", status, 403, body, "orderNotReady")
	stranger := client()
	_, _, head = stranger.post(stranger.base+"account", account, nil)
	stranger.kid = head.Get("Location")
	status, body, _ = stranger.post(c.base+"order/"+id, nil, nil)
	want("somebody else's order", status, 400, body, "no such order")
	answer.Store("hello")
	status, body, _ = c.post(c.base+"challenge/"+id+"/0", map[string]string{}, nil)
	want("a challenge with a wrong answer", status, 200, body, "invalid")
	status, body, _ = c.post(c.base+"order/"+id, nil, nil)
	want("an order whose challenge failed", status, 200, body, `"status":"invalid"`)

	id, _ = order(c, ip)
	_, body, _ = c.post(c.base+"authz/"+id+"/0", nil, nil)
	var z struct{ Challenges []struct{ Token string } }
	if err := json.Unmarshal([]byte(body), &z); err != nil || len(z.Challenges) != 1 {
		t.Fatalf("authz = %s, %v", body, err)
	}
	answer.Store(z.Challenges[0].Token + "." + c.jwk().thumbprint())
	status, body, _ = c.post(c.base+"challenge/"+id+"/0", map[string]string{}, nil)
	want("a challenge", status, 200, body, `"status":"valid"`)
	status, body, _ = c.post(c.base+"finalize/"+id, csr(Request{DNS: []string{"a.etcd.example.org"}}), nil)
	want("a CSR with more than was proven", status, 403, body, "not granted")
	status, body, _ = c.post(c.base+"finalize/"+id, map[string]string{"csr": "AAAA"}, nil)
	want("a CSR that is none", status, 400, body, "badCSR")
	status, body, _ = c.post(c.base+"finalize/"+id, csr(Request{}), nil)
	want("finalize", status, 200, body, `"status":"valid"`)
	status, body, _ = c.post(c.base+"cert/"+id, nil, nil)
	want("the certificate", status, 200, body, "BEGIN CERTIFICATE")
	if l := leafOf(t, Issued{Cert: []byte(body)}); len(l.IPAddresses) != 1 || len(l.DNSNames) != 0 {
		t.Errorf("the certificate is for %v %v; want the address alone", l.IPAddresses, l.DNSNames)
	}
	now = now.Add(2 * time.Hour)
	status, body, _ = c.post(c.base+"cert/"+id, nil, nil)
	want("an order that is over", status, 400, body, "no such order")
}

func FuzzJWS(f *testing.F) {
	f.Add([]byte(`{"protected":"eyJhbGciOiJFUzI1NiIsImp3ayI6eyJrdHkiOiJFQyIsImNydiI6IlAtMjU2IiwieCI6IkFBIiwieSI6IkFBIn0sIm5vbmNlIjoieCIsInVybCI6InkifQ","payload":"e30","signature":"AA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, h, err := parseJWS(b)
		if err != nil || h.JWK == nil {
			return
		}
		key, err := h.JWK.public()
		if err != nil {
			return
		}
		if _, err := m.verify(h.Alg, key); err == nil && len(m.Signature) < 40 {
			t.Error("verify() takes a signature of a few bytes")
		}
	})
}
