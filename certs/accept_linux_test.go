package certs

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"maps"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pki puts a certificate and its authority into files.
func pki(t *testing.T, a *Authority, cert, key []byte) string {
	return write(t, map[string][]byte{"root.pem": pemCert(a.root), "inter.pem": a.chain, "chain.pem": cert, "leaf.pem": pemCert(leafOf(t, Issued{Cert: cert})), "key.pem": key})
}

// rogue is a certificate that the intermediate's key signs without asking this package: what somebody who stole it could make.
func rogue(t *testing.T, a *Authority, change func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	k, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	tm := &x509.Certificate{
		Subject: pkix.Name{Organization: []string{"rogue"}}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(tm)
	c, err := create(tm, a.intermediate, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return append(pemCert(c), a.chain...), pemKey(p8)
}

// verifiers say whether a stock tool accepts leaf.pem for the use of a server.
var verifiers = map[string]func(t *testing.T, dir string) (string, error){
	"openssl": func(t *testing.T, dir string) (string, error) {
		return tool(t, dir, "openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "root.pem", "-untrusted", "inter.pem", "leaf.pem")
	},
	"gnutls": func(t *testing.T, dir string) (string, error) {
		out, err := tool(t, dir, "certtool", "--verify", "--load-ca-certificate", "root.pem", "--infile", "chain.pem")
		if err == nil && !strings.Contains(out, "Chain verification output: Verified.") {
			err = fmt.Errorf("not verified")
		}
		return out, err
	},
	"go": func(t *testing.T, dir string) (string, error) {
		roots, inter := x509.NewCertPool(), x509.NewCertPool()
		for name, pool := range map[string]*x509.CertPool{"root.pem": roots, "inter.pem": inter} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			pool.AppendCertsFromPEM(b)
		}
		b, err := os.ReadFile(filepath.Join(dir, "leaf.pem"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := oneCert(b)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter})
		return fmt.Sprint(err), err
	},
}

// javaVerdicts lets Java check the chains in many directories, as a TLS client would.
func javaVerdicts(t *testing.T, dirs []string) map[string]bool {
	t.Helper()
	dir := write(t, map[string][]byte{"Check.java": []byte(`import java.io.*; import java.nio.file.*; import java.security.cert.*; import java.util.*;
public class Check { public static void main(String[] dirs) throws Exception {
  CertificateFactory f = CertificateFactory.getInstance("X.509");
  for (String d : dirs) {
    try (InputStream r = Files.newInputStream(Path.of(d, "root.pem")); InputStream c = Files.newInputStream(Path.of(d, "chain.pem"))) {
      X509Certificate root = (X509Certificate) f.generateCertificate(r);
      CertPath path = f.generateCertPath(new ArrayList<Certificate>(f.generateCertificates(c)));
      PKIXParameters p = new PKIXParameters(Set.of(new TrustAnchor(root, null)));
      p.setRevocationEnabled(false);
      CertPathValidator.getInstance("PKIX").validate(path, p);
      System.out.println("yes " + d);
    } catch (Exception e) { System.out.println("no " + d + " " + e); }
  } } }`)})
	out := mustTool(t, dir, append([]string{"java", "Check.java"}, dirs...)...)
	verdicts := map[string]bool{}
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); len(words) > 1 && (words[0] == "yes" || words[0] == "no") {
			verdicts[words[1]] = words[0] == "yes"
		}
	}
	if len(verdicts) != len(dirs) {
		t.Fatalf("java judged %d chains of %d\n%s", len(verdicts), len(dirs), out)
	}
	return verdicts
}

func TestStockToolsAccept(t *testing.T) {
	t.Parallel()
	names := map[string]string{}
	for _, key := range []KeyType{P256, Ed25519} {
		a := authority(t, time.Now(), func(o *InitOptions) { o.Key = key })
		for name, r := range map[string]Request{
			"dns and ip":        etcd(),
			"ed25519 leaf":      {Service: "etcd", DNS: []string{"etcd.example.org"}, Key: Ed25519},
			"wildcard":          {Service: "etcd", DNS: []string{"*.etcd.example.org"}},
			"a service's CSR":   {Service: "etcd", CSR: csrOf(t, "b.etcd.example.org")},
			"uri":               {Service: "etcd", URI: []string{"spiffe://recovery.example.org/etcd/a"}},
			"service of a path": {Service: "etcd", IP: []netip.Addr{netip.MustParseAddr("10.0.0.7")}},
		} {
			out, err := a.Issue(time.Now(), r)
			if err != nil {
				t.Fatal(err)
			}
			dir := pki(t, a, out.Cert, out.Key)
			names[dir] = name
			for tool, verify := range verifiers {
				t.Run(string(key)+"/"+name+"/"+tool, func(t *testing.T) {
					got, err := verify(t, dir)
					if err != nil {
						t.Errorf("a certificate within the constraints was refused\n%s", got)
					}
				})
			}
		}
	}
	for dir, yes := range javaVerdicts(t, slices.Sorted(maps.Keys(names))) {
		if !yes {
			t.Errorf("java refuses the certificate with %s", names[dir])
		}
	}
}

// Both families, each alone and together, are taken by everybody.
func TestStockToolsAcceptBothFamilies(t *testing.T) {
	t.Parallel()
	v4, v6 := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")
	names := map[string]string{}
	for name, scope := range map[string]Scope{"v4": {IP: []netip.Prefix{v4}}, "v6": {IP: []netip.Prefix{v6}}, "both": {IP: []netip.Prefix{v4, v6}}} {
		c, alice := ceremony(t, time.Now(), func(o *InitOptions) { o.Scope = scope })
		a := openCeremony(t, c, alice.key, AuthorityOptions{})
		for _, p := range scope.IP {
			out, err := a.Issue(time.Now(), Request{Service: "x", IP: []netip.Addr{p.Addr().Next()}})
			if err != nil {
				t.Fatal(err)
			}
			dir := pki(t, a, out.Cert, out.Key)
			names[dir] = name + " " + p.String()
			for tool, verify := range verifiers {
				if got, err := verify(t, dir); err != nil {
					t.Errorf("%s refuses %s in the scope %s\n%s", tool, p, name, got)
				}
			}
		}
	}
	for dir, yes := range javaVerdicts(t, slices.Sorted(maps.Keys(names))) {
		if !yes {
			t.Errorf("java refuses the certificate of the scope %s", names[dir])
		}
	}
}

func TestStockToolsRefuseOutsideConstraints(t *testing.T) {
	t.Parallel()
	scopes := map[string]Scope{
		"all":         exampleScope,
		"dns":         {DNS: exampleScope.DNS},
		"ip":          {IP: exampleScope.IP},
		"ip4 and ip6": {IP: []netip.Prefix{exampleScope.IP[0], netip.MustParsePrefix("fd00::/8")}},
		"ip6":         {IP: []netip.Prefix{netip.MustParsePrefix("fd00::/8")}},
		"uri":         {URI: exampleScope.URI},
	}
	names := map[string]string{}
	for scope, s := range scopes {
		a := authority(t, time.Now(), func(o *InitOptions) { o.Scope = s })
		for name, change := range map[string]func(*x509.Certificate){
			"dns":  func(c *x509.Certificate) { c.DNSNames = []string{"www.example.com"} },
			"ip":   func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1).To4()} },
			"ipv6": func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} },
			"uri": func(c *x509.Certificate) {
				c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/etcd"}}
			},
			"mail":      func(c *x509.Certificate) { c.EmailAddresses = []string{"root@example.org"} },
			"authority": nil,
		} {
			var cert, key []byte
			if change != nil {
				cert, key = rogue(t, a, change)
			} else {
				cert, key = rogueBelow(t, a)
			}
			dir := pki(t, a, cert, key)
			names[dir] = "scope " + scope + ", " + name
			if change == nil {
				// The certificate under test is below the rogue authority, which the chain holds.
				if err := os.WriteFile(filepath.Join(dir, "inter.pem"), cert, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for tool, verify := range verifiers {
				t.Run("scope "+scope+"/"+name+"/"+tool, func(t *testing.T) {
					// GnuTLS does not look at constraints of URIs, critical or not. Nothing in a certificate changes that.
					if got, err := verify(t, dir); (err == nil) != (tool == "gnutls" && name == "uri") {
						t.Errorf("a certificate outside the constraints was accepted\n%s", got)
					}
				})
			}
		}
	}
	for dir, yes := range javaVerdicts(t, slices.Sorted(maps.Keys(names))) {
		if yes {
			t.Errorf("java accepts a certificate outside the constraints: %s", names[dir])
		}
	}
}

// rogueBelow makes an authority below the intermediate, and a leaf below that.
func rogueBelow(t *testing.T, a *Authority) (chain, key []byte) {
	t.Helper()
	k, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sub, err := create(&x509.Certificate{Subject: pkix.Name{CommonName: "sub"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.intermediate, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	lk, err := newKey(P256)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := create(&x509.Certificate{Subject: pkix.Name{Organization: []string{"leaf"}}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{"a.example.org"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, sub, lk.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(lk)
	if err != nil {
		t.Fatal(err)
	}
	return append(pemCert(leaf, sub), a.chain...), pemKey(p8)
}

func TestKeytoolReadsTheChain(t *testing.T) {
	t.Parallel()
	a := authority(t, time.Now(), nil)
	out, err := a.Issue(time.Now(), etcd())
	if err != nil {
		t.Fatal(err)
	}
	dir := pki(t, a, out.Cert, out.Key)
	mustTool(t, dir, "keytool", "-importcert", "-noprompt", "-alias", "root", "-file", "root.pem", "-keystore", "t.jks", "-storepass", "changeit")
	// Java builds and checks the path to the root itself before it calls a reply installed.
	mustTool(t, dir, "openssl", "pkcs12", "-export", "-in", "leaf.pem", "-inkey", "key.pem", "-name", "leaf", "-out", "k.p12", "-passout", "pass:changeit")
	mustTool(t, dir, "keytool", "-importkeystore", "-srckeystore", "k.p12", "-srcstorepass", "changeit", "-destkeystore", "t.jks", "-deststorepass", "changeit")
	if got := mustTool(t, dir, "keytool", "-importcert", "-noprompt", "-alias", "leaf", "-file", "chain.pem", "-keystore", "t.jks", "-storepass", "changeit"); !strings.Contains(got, "Certificate reply was installed") {
		t.Errorf("keytool -importcert = %s; want the chain installed", got)
	}
}

// nginx asks clients for certificates, and curl presents one, both issued here.
func TestNginxAndCurlBothWays(t *testing.T) {
	t.Parallel()
	a := authority(t, time.Now(), nil)
	out, err := a.Issue(time.Now(), etcd())
	if err != nil {
		t.Fatal(err)
	}
	dir := pki(t, a, out.Cert, out.Key)
	client, err := a.Issue(time.Now(), Request{Service: "etcd", URI: []string{"spiffe://recovery.example.org/etcd"}, Use: []Use{Client}})
	if err != nil {
		t.Fatal(err)
	}
	evil, evilKey := rogue(t, a, func(c *x509.Certificate) { c.DNSNames = []string{"www.example.com"} })
	for name, b := range map[string][]byte{"client.pem": client.Cert, "client.key": client.Key, "evil.pem": evil, "evil.key": evilKey} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	port := freePort(t)
	conf := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events {} http { access_log off; client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
server { listen 127.0.0.1:%[2]d ssl; ssl_certificate %[1]s/chain.pem; ssl_certificate_key %[1]s/key.pem; ssl_client_certificate %[1]s/root.pem; ssl_verify_client on; ssl_verify_depth 3;
location / { return 200 "hello $ssl_client_s_dn\n"; } } }`, dir, port)
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("nginx"); err != nil && os.Getenv("REQUIRE_KERNEL") == "" {
		t.Skip(err)
	}
	start(t, port, "nginx", "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "start.log"))
	get := func(args ...string) (string, error) {
		return tool(t, dir, append([]string{"curl", "-sS", "--max-time", "10", "--cacert", "root.pem"}, args...)...)
	}
	direct := fmt.Sprintf("https://127.0.0.1:%d/", port)
	byName := fmt.Sprintf("https://a.etcd.example.org:%d/", port)
	resolve := fmt.Sprintf("a.etcd.example.org:%d:127.0.0.1", port)
	for _, args := range [][]string{{direct}, {"--resolve", resolve, byName}} {
		if got, err := get(append(args, "--cert", "client.pem", "--key", "client.key")...); err != nil || got != "hello OU=etcd,O=Example\n" {
			t.Errorf("curl %v = %q, %v; want the client's name", args, got, err)
		}
	}
	if got, err := get(direct, "--cert", "evil.pem", "--key", "evil.key"); err != nil || !strings.Contains(got, "400 The SSL certificate error") {
		t.Errorf("curl with a certificate outside the constraints = %q, %v; want nginx to refuse it", got, err)
	}
	if got, err := get("--resolve", fmt.Sprintf("b.other.example.org:%d:127.0.0.1", port), fmt.Sprintf("https://b.other.example.org:%d/", port)); err == nil {
		t.Errorf("curl by a name that is not in the certificate = %q; want an error", got)
	}
}

// freePort is one that nobody listens on now, and outside of the range of ephemeral
// ports, where nobody would begin to.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 25000+mathrand.IntN(7000))); err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no free port")
	return 0
}

// start runs a server until the test ends, and waits for its port.
func start(t *testing.T, port int, args ...string) {
	t.Helper()
	c := exec.Command(args[0], args[1:]...)
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait()
		if t.Failed() {
			t.Logf("%s said: %s", args[0], out.String())
		}
	})
	for end := time.Now().Add(10 * time.Second); ; {
		n, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err == nil {
			n.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not listen: %v\n%s", args[0], err, out.String())
		}
	}
}

// A GnuTLS client and the certificate of a Go server.
func TestGnuTLSClient(t *testing.T) {
	a := authority(t, time.Now(), nil)
	out, err := a.Issue(time.Now(), etcd())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(out.Cert, out.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, Rand: rand.Reader}
	s.StartTLS()
	defer s.Close()
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dir := pki(t, a, out.Cert, out.Key)
	for name, want := range map[string]bool{"a.etcd.example.org": true, "127.0.0.1": true, "b.example.org": false} {
		got, err := tool(t, dir, "gnutls-cli", "--x509cafile", "root.pem", "--verify-hostname", name, "-p", port, "127.0.0.1")
		if ok := strings.Contains(got, "The certificate is trusted"); ok != want {
			t.Errorf("gnutls-cli --verify-hostname %s: trusted = %v, %v; want %v\n%s", name, ok, err, want, got)
		}
	}
}
