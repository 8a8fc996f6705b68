package certs

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serving runs certs serve on loopback for an authority.
func serving(t *testing.T, a *Authority, o ServeOptions) netip.AddrPort {
	t.Helper()
	self, err := a.Issue(time.Now(), etcd())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Self = self
	o.Issue = func(_ context.Context, r Request) (Issued, error) { return a.Issue(time.Now(), r) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v; want nil", err)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func tokens(t *testing.T) *Tokens {
	t.Helper()
	tk, err := OpenTokens(filepath.Join(t.TempDir(), "tokens"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tk.Close() })
	return tk
}

func TestEnrollAndRenew(t *testing.T) {
	a := authority(t, time.Now(), nil)
	tk := tokens(t)
	at := serving(t, a, ServeOptions{Tokens: tk})
	token, err := tk.New(Grant{Request: Request{Service: "etcd", DNS: []string{"b.etcd.example.org"}, Use: []Use{Server, Client}, For: time.Hour}, Expires: time.Now().Add(time.Hour)}, a.root)
	if err != nil {
		t.Fatal(err)
	}
	out, err := Enroll(t.Context(), EnrollOptions{Server: at, Token: token, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if l := leafOf(t, out); l.DNSNames[0] != "b.etcd.example.org" || l.Subject.CommonName != "etcd" {
		t.Errorf("Enroll() = a certificate for %v of %s", l.DNSNames, l.Subject)
	}
	_, err = Enroll(t.Context(), EnrollOptions{Server: at, Token: token, Now: time.Now()})
	wantErr(t, "Enroll() with a used token", err, ErrRefused, "it was used")
	again, err := Renew(t.Context(), at, out, time.Now(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	l := leafOf(t, again)
	if l.DNSNames[0] != "b.etcd.example.org" || again.Serial == out.Serial || string(again.Key) == string(out.Key) || again.NotAfter.Sub(again.NotBefore) != 25*time.Hour {
		t.Errorf("Renew() = %v, %s to %s; want the same name and life, another key", l.DNSNames, again.NotBefore, again.NotAfter)
	}
	// One for servers alone renews as well; one that is over does not.
	web, err := a.Issue(time.Now(), Request{Service: "web", DNS: []string{"a.web.example.org"}, Use: []Use{Server}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Renew(t.Context(), at, web, time.Now(), time.Time{}); err != nil {
		t.Errorf("Renew() of a server's certificate = %v", err)
	}
	old, key := rogue(t, a, func(c *x509.Certificate) {
		c.NotAfter, c.DNSNames = time.Now().Add(-time.Minute), []string{"a.etcd.example.org"}
	})
	_, err = Renew(t.Context(), at, Issued{Cert: old, Key: key, Root: out.Root}, time.Now(), time.Time{})
	wantErr(t, "Renew() with a certificate that is over", err, ErrRefused, "expired")
	other := authority(t, time.Now(), nil)
	stolen, err := tk.New(Grant{Request: etcd(), Expires: time.Now().Add(time.Hour)}, other.root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Enroll(t.Context(), EnrollOptions{Server: at, Token: stolen, Now: time.Now()})
	wantErr(t, "Enroll() at a server with another root", err, ErrRefused, "not the one in the token")
	foreign, err := other.Issue(time.Now(), etcd())
	if err != nil {
		t.Fatal(err)
	}
	foreign.Root = out.Root
	if _, err := Renew(t.Context(), at, foreign, time.Now(), time.Time{}); err == nil {
		t.Error("Renew() with another authority's certificate = nil; want it refused")
	}
	late, err := tk.New(Grant{Request: etcd(), Expires: time.Now().Add(-time.Second)}, a.root)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Enroll(t.Context(), EnrollOptions{Server: at, Token: late, Now: time.Now()})
	wantErr(t, "Enroll() with a token that is over", err, ErrExpired)
	_, err = Enroll(t.Context(), EnrollOptions{Server: at, Token: "bs1.x.y", Now: time.Now()})
	wantErr(t, "Enroll() with no token", err, ErrToken)
}

// With nothing but openssl and curl.
func TestEnrollWithCurl(t *testing.T) {
	a := authority(t, time.Now(), nil)
	tk := tokens(t)
	at := serving(t, a, ServeOptions{Tokens: tk})
	dir := write(t, map[string][]byte{"root.pem": pemCert(a.root)})
	mustTool(t, dir, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:c.etcd.example.org", "-out", "csr.pem")
	mustTool(t, dir, "openssl", "req", "-new", "-newkey", "rsa:1024", "-nodes", "-keyout", "weak.key", "-subj", "/CN=x", "-out", "weak.pem")
	grant := Grant{Request: Request{Service: "etcd", DNS: []string{"c.etcd.example.org"}}, Expires: time.Now().Add(time.Hour)}
	post := func(token, csr, path string, more ...string) (string, error) {
		header := filepath.Join(dir, "header")
		if err := os.WriteFile(header, []byte("Authorization: Bearer "+token), 0o600); err != nil {
			t.Fatal(err)
		}
		return tool(t, dir, append([]string{"curl", "-sS", "--max-time", "10", "--cacert", "root.pem", "-H", "@header", "--data-binary", "@" + csr, "https://" + at.String() + path}, more...)...)
	}
	token, err := tk.New(grant, a.root)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := post(token, "weak.pem", "/v1/enroll"); err != nil || !strings.Contains(got, "1024 bits") {
		t.Errorf("curl with a weak key = %s, %v; want it refused", got, err)
	}
	got, err := post(token, "csr.pem", "/v1/enroll")
	if err != nil || !strings.HasPrefix(got, "-----BEGIN CERTIFICATE") {
		t.Fatalf("curl /v1/enroll = %s, %v; want a chain", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte(got), 0o600); err != nil {
		t.Fatal(err)
	}
	mustTool(t, dir, "openssl", "verify", "-CAfile", "root.pem", "-untrusted", "cert.pem", "cert.pem")
	if got, err := post("x", "csr.pem", "/v1/renew", "--cert", "cert.pem", "--key", "key.pem"); err != nil || !strings.HasPrefix(got, "-----BEGIN CERTIFICATE") {
		t.Errorf("curl /v1/renew = %s, %v; want a chain", got, err)
	}
	if got, err := post("x", "csr.pem", "/v1/renew"); err != nil || !strings.Contains(got, "client certificate") {
		t.Errorf("curl /v1/renew without a certificate = %s, %v; want it refused", got, err)
	}
	grant.Request.DNS = []string{"d.etcd.example.org"}
	if token, err = tk.New(grant, a.root); err != nil {
		t.Fatal(err)
	}
	if got, err := post(token, "csr.pem", "/v1/enroll"); err != nil || !strings.Contains(got, "was not granted") {
		t.Errorf("curl with a CSR for another name = %s, %v; want it refused", got, err)
	}
}

func TestTokenIsSpentOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	root := authority(t, noon, nil).root
	var files [4]*Tokens
	for i := range files {
		f, err := OpenTokens(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	token, err := files[0].New(Grant{Request: etcd(), Expires: noon.Add(time.Hour)}, root)
	if err != nil {
		t.Fatal(err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			g, err := files[i%4].Spend(noon, token)
			if err == nil && g.Request.Service == "etcd" {
				won.Add(1)
			} else if !errors.Is(err, ErrToken) {
				t.Errorf("Spend() = %v; want ErrToken", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("a token was spent %d times; want 1", won.Load())
	}
	b, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(b), strings.Split(token, ".")[1]) {
		t.Errorf("the file of tokens holds a token itself, or %v", err)
	}
	// A torn line is cut off, whatever else is wrong is left alone.
	if err := os.WriteFile(path, append(b, []byte(`{"hash":"ab`)...), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if got, _ := os.ReadFile(path); string(got) != string(b) {
		t.Errorf("after a torn line the file has %d bytes; want %d", len(got), len(b))
	}
	if err := os.WriteFile(path, append([]byte("hello\n"), b...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenTokens(path)
	wantErr(t, "OpenTokens() of garbage", err, ErrChanged)
}

// spendTokens reads tokens and says of each when it is spent.
func spendTokens(path string) error {
	tk, err := OpenTokens(path)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if _, err := tk.Spend(noon, lines.Text()); err != nil {
			return err
		}
		fmt.Println(lines.Text())
	}
	return nil
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(`{"hash":"ab","grant":{"request":{"service":"etcd"},"expires":"2026-11-21T13:00:00Z"}}`+"\n"+`{"hash":"ab","used":"2026-11-21T12:30:00Z"}`+"\n"), "bs1.AAAA.BBBB")
	f.Fuzz(func(t *testing.T, file []byte, token string) {
		path := filepath.Join(t.TempDir(), "tokens")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		tk, err := OpenTokens(path)
		if err != nil {
			if !errors.Is(err, ErrChanged) {
				t.Errorf("OpenTokens() = %v; want ErrChanged", err)
			}
			return
		}
		defer tk.Close()
		if _, err := tk.Spend(noon, token); !errors.Is(err, ErrToken) {
			t.Errorf("Spend() of a token that was made up = %v; want ErrToken", err)
		}
	})
}

func TestKilledServerSpendsNothingTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	tk, err := OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	root := authority(t, noon, nil).root
	var all []string
	for range 200 {
		token, err := tk.New(Grant{Request: etcd(), Expires: noon.Add(time.Hour)}, root)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, token)
	}
	tk.Close()
	left := all
	for round := range 4 {
		p, out := spawn(t, strings.Join(left, "\n")+"\n", "tokens", path)
		var spent int
		for {
			line, err := out.ReadString('\n')
			if err != nil {
				break
			}
			spent++
			if spent == 3+7*round {
				if err := p.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			_ = line
		}
		_ = p.Wait()
		tk, err := OpenTokens(path)
		if err != nil {
			t.Fatalf("round %d: OpenTokens() after kill -9 = %v", round, err)
		}
		for _, token := range left[:spent] {
			if _, err := tk.Spend(noon, token); !errors.Is(err, ErrToken) {
				t.Errorf("round %d: Spend() of a token that was spent before the kill = %v; want ErrToken", round, err)
			}
		}
		tk.Close()
		// The one after may have been spent without a word; it is left out of the next round.
		if left = left[min(spent+1, len(left)):]; len(left) == 0 {
			break
		}
	}
}
