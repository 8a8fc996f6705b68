package fetch

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"
)

// startServer runs one of the servers that .ci/servers builds until the test ends,
// and waits until its address takes connections.
func startServer(t *testing.T, addr string, env []string, name string, args ...string) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cache, "blackstart-servers", name)
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%s is missing: run .ci/servers", program)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, args...)
	c.Env, c.Stdout, c.Stderr = append(os.Environ(), env...), out, out
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // killed
		out.Close()
		if t.Failed() {
			said, _ := os.ReadFile(out.Name())
			t.Logf("%s:\n%s", name, said)
		}
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

// freeAddr is an address that nobody listens on now, and outside of the range of
// ephemeral ports, where nobody would begin to.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 25000+mathrand.IntN(7000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

func writeFile(t *testing.T, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// certify makes a CA, and a key and a certificate for names, by it.
func certify(t *testing.T, names ...string) (ca, cert, key []byte) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(what string, b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: b})
	}
	b, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	ca = encode("CERTIFICATE", b, err)
	b, err = x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), caKey)
	cert = encode("CERTIFICATE", b, err)
	b, err = x509.MarshalPKCS8PrivateKey(leafKey)
	return ca, cert, encode("PRIVATE KEY", b, err)
}

// startRegistry runs a registry with more lines in its configuration (YAML).
func startRegistry(t *testing.T, tls, more string) (addr string) {
	t.Helper()
	addr = freeAddr(t)
	dir := t.TempDir()
	if !strings.Contains(more, "storage:") {
		more += fmt.Sprintf("storage: {filesystem: {rootdirectory: %s/data}}\n", dir)
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nhttp: {addr: %q, secret: x%s}\n%s", addr, tls, more)
	startServer(t, addr, []string{"OTEL_TRACES_EXPORTER=none"}, "registry", "serve", writeFile(t, dir+"/config.yml", []byte(config)))
	return addr
}

// tlsRegistry is one that is known as registry.test.
func tlsRegistry(t *testing.T, more string) (addr string, ca, cert, key []byte) {
	t.Helper()
	ca, cert, key = certify(t, "registry.test", "auth.test")
	dir := t.TempDir()
	config := fmt.Sprintf(", tls: {certificate: %s, key: %s}", writeFile(t, dir+"/cert", cert), writeFile(t, dir+"/key", key))
	return startRegistry(t, config, more), ca, cert, key
}

func target(t *testing.T, p Place, n Net) Target {
	t.Helper()
	to, err := DialTarget(p, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := to.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return to
}

func put(t *testing.T, to Target, content []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(content)
	if err := to.Put(t.Context(), d, int64(len(content)), bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return d
}

// putImage puts what a stock tool takes for an image.
func putImage(t *testing.T, to Target, tag string, content []byte) []byte {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"who":"` + tag + `"}},"rootfs":{"type":"layers","diff_ids":["` + digest.FromBytes(content).String() + `"]}}`)
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: put(t, to, config), Size: int64(len(config))},
		Layers:    []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: put(t, to, content), Size: int64(len(content))}},
	}
	m.SchemaVersion = 2
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.PutManifest(t.Context(), tag, m.MediaType, raw); err != nil {
		t.Fatal(err)
	}
	got, mediaType, err := to.Manifest(t.Context(), tag)
	if err != nil || !bytes.Equal(got, raw) || mediaType != m.MediaType {
		t.Errorf("Manifest(%s) = %q, %q, %v; want what was put", tag, got, mediaType, err)
	}
	return raw
}

// wantInspected looks at an image with a stock tool.
func wantInspected(t *testing.T, image, tag string, content []byte) {
	t.Helper()
	out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", image).CombinedOutput()
	var i struct {
		Layers []string
		Labels map[string]string
	}
	if err == nil {
		err = json.Unmarshal(out, &i)
	}
	if err != nil || len(i.Layers) != 1 || i.Layers[0] != digest.FromBytes(content).String() || i.Labels["who"] != tag {
		t.Errorf("skopeo inspect %s: %v: %s; want the layer and the label that were put", image, err, out)
	}
}

// wantPulled gets what was put, cut in frames as a kit has it.
func wantPulled(t *testing.T, to Target) {
	t.Helper()
	content := pattern(5 << 20)
	ref, err := Split(t.Context(), bytes.NewReader(content), func(frame []byte, _ Chunk) error {
		put(t, to, frame)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := get(t, NewGetter(store(t), []Source{to}, Options{}), ref); err != nil || !bytes.Equal(got, content) {
		t.Errorf("getting what was put: %d bytes, %v; want %d, the same ones", len(got), err, len(content))
	}
}

func testTarget(t *testing.T, place Place, n Net) {
	t.Helper()
	content := pattern(2<<20 + 5)
	to := target(t, place, n)
	d := digest.FromBytes(content)
	if _, err := to.Stat(t.Context(), d); !errors.Is(err, ErrNotFound) {
		t.Errorf("Stat(not put yet) = %v; want %v", err, ErrNotFound)
	}
	if _, _, err := to.Manifest(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Manifest(not put yet) = %v; want %v", err, ErrNotFound)
	}
	for range 2 { // what is there is put again
		put(t, to, content)
	}
	if _, err := to.Stat(t.Context(), put(t, to, nil)); err != nil {
		t.Errorf("Stat(empty blob) = %v; want nil", err)
	}
	wrong := digest.FromString("other")
	if err := to.Put(t.Context(), wrong, int64(len(content)), bytes.NewReader(content)); err == nil {
		t.Error("Put(wrong digest) = nil; want an error")
	}
	if _, err := to.Stat(t.Context(), wrong); !errors.Is(err, ErrNotFound) {
		t.Errorf("Stat(put with a wrong digest) = %v; want %v", err, ErrNotFound)
	}
	if err := to.Put(t.Context(), d, int64(len(content)), bytes.NewReader(content[:1<<20])); err == nil {
		t.Error("Put(content too short) = nil; want an error")
	}
	for _, tag := range []string{"", "../x", ".", "a b", "a?b", strings.Repeat("a", 129)} {
		if err := to.PutManifest(t.Context(), tag, ocispec.MediaTypeImageManifest, []byte("{}")); err == nil {
			t.Errorf("PutManifest(%q) = nil; want an error", tag)
		}
		if _, _, err := to.Manifest(t.Context(), tag); err == nil {
			t.Errorf("Manifest(%q) = nil; want an error", tag)
		}
	}
	wantPulled(t, to)
	raw := putImage(t, to, "v1", content)
	wantPart(t, to, digest.FromBytes(raw), raw, 0, -1)
	wantPart(t, to, digest.FromBytes(raw), raw, 10, 20)
	if n, err := to.Stat(t.Context(), digest.FromBytes(raw)); n != int64(len(raw)) || err != nil {
		t.Errorf("Stat(manifest) = %d, %v; want %d", n, err, len(raw))
	}
	src, err := Dial(place, n)
	if err != nil {
		t.Fatal(err)
	}
	testSource(t, src, d, content)
}

func TestOCIPlain(t *testing.T) {
	addr := startRegistry(t, "", "")
	testTarget(t, Place{URL: "oci+http://" + addr + "/team/kit"}, Net{})
	wantInspected(t, "docker://"+addr+"/team/kit:v1", "v1", pattern(2<<20+5))
	if _, err := target(t, Place{URL: "oci://" + addr + "/team/kit"}, Net{}).Stat(t.Context(), digest.FromString("x")); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("Stat() with TLS where there is none = %v; want another error", err)
	}
}

var registryNames = map[string][]netip.Addr{
	"registry.test": {netip.MustParseAddr("127.0.0.1")},
	"auth.test":     {netip.MustParseAddr("127.0.0.1")},
}

func TestOCITLS(t *testing.T) {
	addr, ca, cert, _ := tlsRegistry(t, "")
	_, port, _ := net.SplitHostPort(addr)
	url := "oci://registry.test:" + port + "/kit"
	n := Net{Names: registryNames}
	testTarget(t, Place{URL: url, CA: ca}, n)
	wantInspected(t, "docker://"+addr+"/kit:v1", "v1", pattern(2<<20+5))

	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	otherCA, _, _ := certify(t, "registry.test")
	d := digest.FromBytes(pattern(2<<20 + 5))
	for name, c := range map[string]struct {
		p    Place
		n    Net
		want error
		as   any
	}{
		"pinned":       {Place{URL: "oci://" + addr + "/kit", Pins: []digest.Digest{SPKI(leaf)}}, Net{}, nil, nil},
		"another pin":  {Place{URL: url, Pins: []digest.Digest{digest.FromString("")}}, n, ErrPeer, nil},
		"another CA":   {Place{URL: url, CA: otherCA}, n, nil, new(x509.UnknownAuthorityError)},
		"system's CAs": {Place{URL: url}, n, nil, new(x509.UnknownAuthorityError)},
		"another name": {Place{URL: "oci://other.test:" + port + "/kit", CA: ca}, Net{Names: map[string][]netip.Addr{"other.test": registryNames["auth.test"]}}, nil, new(x509.HostnameError)},
		"no address":   {Place{URL: url, CA: ca}, Net{}, ErrName, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := target(t, c.p, c.n).Stat(t.Context(), d)
			if !errors.Is(err, c.want) && c.as == nil || c.as != nil && !errors.As(err, c.as) {
				t.Errorf("Stat() = %v; want %v %T", err, c.want, c.as)
			}
		})
	}
}

// tokenServer makes out tokens that a registry takes.
type tokenServer struct {
	key            ed25519.PrivateKey
	user, password string
	asked          atomic.Int32
	scopes         sync.Map
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	user, password, _ := r.BasicAuth()
	if user != s.user || password != s.password {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	scope := r.URL.Query().Get("scope")
	s.scopes.Store(scope, true)
	part := strings.Split(scope, ":")
	now := time.Now().Unix()
	claims, _ := json.Marshal(map[string]any{
		"iss": "issuer.test", "sub": user, "aud": r.URL.Query().Get("service"), "exp": now + 300, "nbf": now - 10, "iat": now, "jti": strconv.Itoa(int(s.asked.Load())),
		"access": []any{map[string]any{"type": part[0], "name": part[1], "actions": strings.Split(part[2], ",")}},
	})
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"JWT","alg":"EdDSA","kid":"k"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	token := text + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(s.key, []byte(text)))
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

func login(hosts map[string][2]string) func(string) (string, string, bool) {
	return func(host string) (string, string, bool) {
		l, ok := hosts[host]
		return l[0], l[1], ok
	}
}

func TestOCIToken(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens := &tokenServer{key: private, user: "admin", password: testSecret}
	auth := httptest.NewUnstartedServer(tokens)
	_, authPort, _ := net.SplitHostPort(auth.Listener.Addr().String())
	jwks := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"k","x":%q}]}`, base64.RawURLEncoding.EncodeToString(public))
	addr, ca, cert, key := tlsRegistry(t, fmt.Sprintf("auth: {token: {realm: 'https://auth.test:%s/token', service: registry.test, issuer: issuer.test, jwks: %s}}\n",
		authPort, writeFile(t, t.TempDir()+"/jwks", []byte(jwks))))
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	auth.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	auth.StartTLS()
	t.Cleanup(auth.Close)

	_, port, _ := net.SplitHostPort(addr)
	host := "registry.test:" + port
	place := Place{URL: "oci://" + host + "/team/kit", CA: ca}
	n := Net{Names: registryNames, Login: login(map[string][2]string{host: {"admin", testSecret}})}
	testTarget(t, place, n)
	for _, scope := range []string{"repository:team/kit:pull", "repository:team/kit:pull,push"} {
		if _, ok := tokens.scopes.Load(scope); !ok {
			t.Errorf("nobody asked for a token with the scope %q", scope)
		}
	}
	content := pattern(2<<20 + 5)
	d := digest.FromBytes(content)

	t.Run("one token for all", func(t *testing.T) {
		src := target(t, place, n)
		before := tokens.asked.Load()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { wantPart(t, src, d, content, 100, 1000) })
		}
		wg.Wait()
		if got := tokens.asked.Load() - before; got != 1 {
			t.Errorf("%d tokens were asked for; want 1", got)
		}
		// One that the registry does not take any more.
		src.(*ociSource).auth.keep("Bearer gone", false, time.Time{})
		wantPart(t, src, d, content, 100, 1000)
		// One that is over.
		src.(*ociSource).auth.keep("Bearer gone", false, time.Now().Add(-time.Second))
		if h := src.(*ociSource).auth.current(false); h != "" {
			t.Errorf("current() = %q once it is over; want none", h)
		}
		wantPart(t, src, d, content, 100, 1000)
		if got := tokens.asked.Load() - before; got != 3 {
			t.Errorf("%d tokens were asked for; want 3", got)
		}
	})
	wrong, alone := n, n
	wrong.Login = login(map[string][2]string{host: {"admin", "wrong"}})
	alone.Names = map[string][]netip.Addr{"registry.test": registryNames["registry.test"]}
	for name, c := range map[string]struct {
		n    Net
		want string
	}{
		"a wrong password":     {wrong, `auth.test:` + authPort + ` says 401 Unauthorized to the login of "admin"`},
		"nobody":               {Net{Names: registryNames}, "no login is known for " + host},
		"a realm without name": {alone, ErrName.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := target(t, place, c.n).Stat(t.Context(), d)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), testSecret) {
				t.Errorf("Stat() = %v; want %q in it", err, c.want)
			}
		})
	}
}

// htpasswd is the configuration of a registry that admin may use.
func htpasswd(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(testSecret), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("auth: {htpasswd: {realm: r, path: %s}}\n", writeFile(t, t.TempDir()+"/passwd", fmt.Appendf(nil, "admin:%s\n", hash)))
}

func TestOCIBasic(t *testing.T) {
	addr := startRegistry(t, "", htpasswd(t))
	place := Place{URL: "oci+http://" + addr + "/kit"}
	testTarget(t, place, Net{Login: login(map[string][2]string{addr: {"admin", testSecret}})})
	for want, l := range map[string]map[string][2]string{
		`refuses the login of "admin"`: {addr: {"admin", "wrong"}},
		"wants a login":                {"127.0.0.1:1": {"admin", testSecret}},
		"401 Unauthorized":             {addr: {"admin", "wrong"}},
	} {
		src := target(t, place, Net{Login: login(l)})
		if want != "401 Unauthorized" {
			src.(*ociSource).auth.keep("Basic "+base64.StdEncoding.EncodeToString([]byte("admin:wrong")), true, time.Time{})
		}
		if _, err := src.Stat(t.Context(), digest.FromString("x")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Stat() with the login %v = %v; want %q in it", l, err, want)
		}
	}
}

// hostile is a registry that does as it is told.
func hostile(t *testing.T, withTLS bool, h http.HandlerFunc) (Place, *httptest.Server) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.ErrorLog = nil
	scheme := "oci+http://"
	if withTLS {
		srv.StartTLS()
		scheme = "oci://"
	} else {
		srv.Start()
	}
	t.Cleanup(srv.Close)
	p := Place{URL: scheme + srv.Listener.Addr().String() + "/kit"}
	if withTLS {
		p.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	}
	return p, srv
}

// endless sends until nobody listens any more, but no longer than a test may take.
func endless(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		return
	}
	block := bytes.Repeat([]byte("x"), 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

func TestOCIHostileRanges(t *testing.T) {
	content := pattern(1000)
	d := digest.FromBytes(content)
	for name, c := range map[string]struct {
		code  int
		field string
		body  int // bytes; -1: without end
		want  error
		read  int // bytes, where there is no error
	}{
		"right":            {206, "bytes 100-199/1000", 100, nil, 100},
		"total not told":   {206, "bytes 100-199/*", 100, nil, 100},
		"everything":       {200, "", 1000, ErrNoRange, 0},
		"no field":         {206, "", 100, ErrNoRange, 0},
		"before":           {206, "bytes 99-198/1000", 100, ErrNoRange, 0},
		"fewer":            {206, "bytes 100-150/1000", 51, ErrNoRange, 0},
		"more":             {206, "bytes 100-999/1000", 900, ErrNoRange, 0},
		"length differs":   {206, "bytes 100-199/1000", 99, ErrNoRange, 0},
		"not bytes":        {206, "items 100-199/1000", 100, ErrNoRange, 0},
		"negative":         {206, "bytes 100--199/1000", 100, ErrNoRange, 0},
		"beyond the total": {206, "bytes 100-199/150", 100, ErrNoRange, 0},
		"without end":      {206, "bytes 100-199/1000", -1, nil, 100},
		"missing":          {404, "", -1, ErrNotFound, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
				if c.field != "" {
					w.Header().Set("Content-Range", c.field)
				}
				if c.body >= 0 {
					w.Header().Set("Content-Length", strconv.Itoa(c.body))
				}
				w.WriteHeader(c.code)
				if c.body < 0 {
					endless(w, r)
					return
				}
				_, _ = w.Write(make([]byte, c.body))
			})
			within(t, 10*time.Second, func() {
				body, _, err := target(t, p, Net{}).Open(t.Context(), d, 100, 100)
				if !errors.Is(err, c.want) {
					t.Fatalf("Open(100, 100) = %v; want %v", err, c.want)
				}
				if err != nil {
					return
				}
				got, err := io.ReadAll(body)
				if len(got) != c.read || err != nil {
					t.Errorf("reading: %d bytes, %v; want %d", len(got), err, c.read)
				}
				_ = body.Close()
			})
		})
	}
}

// TestOCIManifestOfDigest: what a registry does not give as a blob.
func TestOCIManifestOfDigest(t *testing.T) {
	content := pattern(1000)
	d := digest.FromBytes(content)
	var size atomic.Int64
	size.Store(1000)
	p, _ := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/kit/manifests/"+d.String() || !strings.Contains(r.Header.Get("Accept"), ocispec.MediaTypeImageIndex) {
			http.Error(w, `{"errors":[{"code":"BLOB_UNKNOWN"}]}`, http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(size.Load(), 10))
		_, _ = io.CopyN(w, io.MultiReader(bytes.NewReader(content), zeros{}), size.Load())
	})
	src := target(t, p, Net{})
	for _, r := range [][2]int64{{0, -1}, {0, 10}, {10, 10}, {990, 20}, {10, -1}} {
		wantPart(t, src, d, content, r[0], r[1])
	}
	wantNothing(t, src, d, 2000, 10)
	if n, err := src.Stat(t.Context(), d); n != 1000 || err != nil {
		t.Errorf("Stat() = %d, %v; want 1000", n, err)
	}
	size.Store(maxManifest + 1)
	if _, _, err := src.Open(t.Context(), d, 0, -1); err == nil || !strings.Contains(err.Error(), "more than 4194304 bytes") {
		t.Errorf("Open(a manifest too large) = %v; want an error", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestOCIHostileChallenges(t *testing.T) {
	secret := "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+testSecret))
	var asked, leaked atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || strings.Contains(r.URL.String(), "admin") {
			leaked.Add(1)
		}
		if strings.HasPrefix(r.URL.Path, "/endless") {
			endless(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"token":"x"}`)
	}))
	t.Cleanup(other.Close)
	for name, c := range map[string]struct {
		tls   bool
		field string
		want  string
	}{
		"for ever":            {false, `Bearer realm="http://SELF/token"`, "401 Unauthorized"},
		"for ever, by login":  {false, `Basic realm="x"`, "401 Unauthorized"},
		"nothing":             {false, ``, "neither by a token nor by a login"},
		"another scheme":      {false, `Negotiate abc=`, "neither by a token nor by a login"},
		"nonsense":            {false, `Bearer realm="`, errChallenge.Error()},
		"huge":                {false, `Bearer realm="` + strings.Repeat("x", maxChallenge) + `"`, errChallenge.Error()},
		"no realm":            {false, `Bearer service="x"`, "no URL of a token server"},
		"a file":              {false, `Bearer realm="file:///etc/passwd"`, "no URL of a token server"},
		"a login in it":       {false, `Bearer realm="http://a:b@SELF/token"`, "no URL of a token server"},
		"a name":              {true, `Bearer realm="https://unknown.test/token"`, ErrName.Error()},
		"downgrade":           {true, `Bearer realm="http://OTHER/token"`, "without TLS, unlike the registry"},
		"redirects":           {false, `Bearer realm="http://SELF/away"`, ErrName.Error()},
		"redirects downwards": {true, `Bearer realm="https://SELF/down"`, "from https to http"},
		"redirects for ever":  {true, `Bearer realm="https://SELF/round"`, "more than 5 redirects"},
		"an endless token":    {false, `Bearer realm="http://OTHER/endless"`, "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := hostile(t, c.tls, func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				switch r.URL.Path {
				case "/token":
					_, _ = io.WriteString(w, `{"token":"x"}`)
				case "/away":
					http.Redirect(w, r, "http://unknown.test/token", http.StatusFound)
				case "/down":
					http.Redirect(w, r, other.URL+"/token", http.StatusFound)
				case "/round":
					http.Redirect(w, r, "/round", http.StatusFound)
				default:
					field := strings.ReplaceAll(c.field, "SELF", r.Host)
					w.Header().Set("WWW-Authenticate", strings.ReplaceAll(field, "OTHER", strings.TrimPrefix(strings.Replace(other.URL, "127.0.0.1", "localhost", 1), "http://")))
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			asked.Store(0)
			host := strings.Split(p.URL, "/")[2]
			n := Net{
				Names: map[string][]netip.Addr{"localhost": {netip.MustParseAddr("127.0.0.1")}},
				Login: login(map[string][2]string{host: {"admin", testSecret}}),
			}
			within(t, 10*time.Second, func() {
				_, _, err := target(t, p, n).Open(t.Context(), digest.FromString("x"), 0, -1)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Open() = %v; want %q in it", err, c.want)
				}
				if err != nil && (strings.Contains(err.Error(), testSecret) || strings.Contains(err.Error(), secret)) {
					t.Errorf("Open() = %v; want no secret in it", err)
				}
			})
			if got := asked.Load(); got > 8 {
				t.Errorf("the registry was asked %d times; want an end", got)
			}
		})
	}
	if n := leaked.Load(); n > 0 {
		t.Errorf("the other host was shown a login %d times; want never", n)
	}
}

// TestOCIRedirect: another host has the blob, and is not shown who asks.
func TestOCIRedirect(t *testing.T) {
	content := pattern(1 << 20)
	d := digest.FromBytes(content)
	var leaked atomic.Bool
	blobs := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			leaked.Store(true)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
	plain := httptest.NewServer(http.HandlerFunc(blobs))
	t.Cleanup(plain.Close)
	var to atomic.Value
	front := func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, to.Load().(string)+"?X-Amz-Signature="+testSecret, http.StatusTemporaryRedirect)
	}
	reg := func(tls bool) Target {
		p, _ := hostile(t, tls, front)
		return target(t, p, Net{
			Names: map[string][]netip.Addr{"blobs.test": {netip.MustParseAddr("127.0.0.1")}},
			Login: func(string) (string, string, bool) { return "admin", testSecret, true },
		})
	}
	src := reg(false)
	to.Store(strings.Replace(plain.URL, "127.0.0.1", "blobs.test", 1) + "/x")
	wantPart(t, src, d, content, 1000, 1000)
	if n, err := src.Stat(t.Context(), d); n != int64(len(content)) || err != nil {
		t.Errorf("Stat() = %d, %v; want %d", n, err, len(content))
	}
	to.Store(plain.URL + "/x") // the same host, another port
	wantPart(t, src, d, content, 1000, 1000)
	if leaked.Load() {
		t.Error("the other host was shown who asks; want it not to be")
	}
	wantError := func(src Target, url, want string) {
		t.Helper()
		to.Store(url)
		_, _, err := src.Open(t.Context(), d, 1000, 1000)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), testSecret) {
			t.Errorf("Open() redirected to %s = %v; want %q in it, and no secret", url, err, want)
		}
	}
	wantError(src, "http://unknown.test/x", ErrName.Error())
	wantError(src, "http://127.0.0.1:1/x", "connection refused")
	wantError(reg(true), plain.URL+"/x", "from https to http")
	if leaked.Load() {
		t.Error("the other host was shown who asks; want it not to be")
	}
}

// TestTargetHostile: a registry that sends an upload to where it should not go, or
// takes nothing of it.
func TestTargetHostile(t *testing.T) {
	content := pattern(1 << 20)
	d := digest.FromBytes(content)
	var location atomic.Value
	var shown atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(r.Header.Get("Authorization") != "")
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(other.Close)
	h := func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch {
		case r.Method == http.MethodPost:
			w.Header().Set("Location", location.Load().(string))
			w.WriteHeader(http.StatusAccepted)
		case r.URL.Path == "/round":
			http.Redirect(w, r, "/round", http.StatusTemporaryRedirect)
		case r.URL.Path == "/relative" && r.URL.RawQuery == "_state=a%20b&digest="+strings.Replace(d.String(), ":", "%3A", 1):
			if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, content) || r.ContentLength != int64(len(content)) {
				t.Errorf("the upload has %d bytes, %v; want %d, the same ones", len(got), err, len(content))
			}
			w.WriteHeader(http.StatusCreated)
		default:
			w.WriteHeader(http.StatusForbidden)
			endless(w, r)
		}
	}
	n := Net{Login: func(string) (string, string, bool) { return "admin", testSecret, true }}
	plainPlace, _ := hostile(t, false, h)
	tlsPlace, _ := hostile(t, true, h)
	for name, c := range map[string]struct {
		p              Place
		location, want string
	}{
		"relative":       {tlsPlace, "/relative?_state=a%20b", ""},
		"another host":   {plainPlace, other.URL + "/x", ""},
		"downgrade":      {tlsPlace, other.URL + "/x", "wants it sent to http://"},
		"no name":        {tlsPlace, "https://unknown.test/x", ErrName.Error()},
		"nowhere":        {tlsPlace, "", "does not say where"},
		"a file":         {plainPlace, "file:///etc/passwd", "wants it sent to file://"},
		"round":          {plainPlace, "/round", "307"},
		"a huge refusal": {plainPlace, "/refused", "403 Forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			location.Store(c.location)
			within(t, 10*time.Second, func() {
				err := target(t, c.p, n).Put(t.Context(), d, int64(len(content)), bytes.NewReader(content))
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("Put() = %v; want %q", err, c.want)
				}
			})
		})
	}
	if shown.Load() {
		t.Error("the other host was shown who asks; want it not to be")
	}
}

func TestTargetGivenUp(t *testing.T) {
	began, over := make(chan struct{}, 1), make(chan struct{})
	p, _ := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", "/stuck")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		began <- struct{}{}
		<-over // with the content unread, net/http does not see that nobody is there
	})
	t.Cleanup(func() { close(over) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	within(t, 10*time.Second, func() {
		body := bytes.NewReader(make([]byte, 64<<20))
		if err := target(t, p, Net{}).Put(ctx, digest.FromString("x"), 64<<20, body); !errors.Is(err, context.Canceled) {
			t.Errorf("Put() = %v; want %v", err, context.Canceled)
		}
	})
}

// TestTargetStall: an upload ends where the server takes no more of it, and then
// the content is the caller's again.
func TestTargetStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := func(read int64) time.Duration {
			begin := time.Now()
			ctx, u, done := newUpload(t.Context(), bytes.NewReader(make([]byte, 100)), 100)
			defer done()
			first, err := u.reader()
			if err != nil {
				t.Fatal(err)
			}
			second, err := u.reader()
			if err != nil {
				t.Fatal(err)
			}
			if n, err := first.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the first reader gives %d bytes, %v after the second was made; want an error", n, err)
			}
			if read > 0 {
				if _, err := io.ReadFull(second, make([]byte, read)); err != nil {
					t.Fatal(err)
				}
			}
			<-ctx.Done()
			if err := cause(ctx, ctx.Err()); !errors.Is(err, errStall) {
				t.Errorf("it ended with %v; want %v", err, errStall)
			}
			done()
			if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the reader gives %d bytes, %v once the upload is over; want an error", n, err)
			}
			return time.Since(begin)
		}
		for read, want := range map[int64]time.Duration{0: uploadAnswer, 50: stall, 100: uploadAnswer} {
			if got := ended(read); got != want {
				t.Errorf("with %d of 100 bytes taken it ended after %v; want %v", read, got, want)
			}
		}
	})
}

// TestTargetScope: a token that lets pull is not shown where something is put: not
// every registry says by 401 that it wants another.
func TestTargetScope(t *testing.T) {
	p, _ := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Get("Authorization")
		switch {
		case r.URL.Path == "/token":
			_ = json.NewEncoder(w).Encode(map[string]string{"access_token": r.URL.Query().Get("scope")})
		case header == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",scope="repository:another:push,delete"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodPut && header == "Bearer repository:kit:pull,push":
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodHead && header == "Bearer repository:kit:pull":
			w.Header().Set("Content-Length", "7")
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	})
	to := target(t, p, Net{})
	if n, err := to.Stat(t.Context(), digest.FromString("x")); n != 7 || err != nil {
		t.Errorf("Stat() = %d, %v; want 7", n, err)
	}
	if err := to.PutManifest(t.Context(), "v1", ocispec.MediaTypeImageManifest, []byte("{}")); err != nil {
		t.Errorf("PutManifest() = %v; want nil", err)
	}
}

func TestOCIBounded(t *testing.T) {
	for limit, want := range map[int64]bool{9: false, 10: true, 11: true} {
		r := strings.NewReader("0123456789")
		raw, err := readBounded(r, limit)
		if (err == nil) != want || want && string(raw) != "0123456789" {
			t.Errorf("readBounded(10 bytes, %d) = %q, %v", limit, raw, err)
		}
	}
	r := strings.NewReader(strings.Repeat("x", 1000))
	if _, err := readBounded(r, 10); err == nil || r.Len() != 1000-11 {
		t.Errorf("readBounded(1000 bytes, 10) = %v, with %d left; want an error and %d", err, r.Len(), 1000-11)
	}
}

func TestOCIPlace(t *testing.T) {
	for _, url := range []string{
		"oci://", "oci://host", "oci://host/", "oci:///kit", "oci://user@host/kit", "oci://user:" + testSecret + "@host/kit", "oci://host/kit:v1", "oci://host/Kit",
		"oci://host/../kit", "oci://host/a//b", "oci://host/kit?x=1", "oci://host/kit#x", "oci://host/kit/", "oci:host/kit", "oci://host/" + strings.Repeat("a", 256),
	} {
		if _, err := DialTarget(Place{URL: url}, Net{}); !errors.Is(err, ErrPlace) || strings.Contains(err.Error(), testSecret) {
			t.Errorf("DialTarget(%q) = %v; want %v", url, err, ErrPlace)
		}
	}
	if _, err := DialTarget(Place{URL: "ssh://me@host/dir"}, Net{}); !errors.Is(err, ErrPlace) {
		t.Errorf("DialTarget(ssh) = %v; want %v", err, ErrPlace)
	}
}

func TestChallenge(t *testing.T) {
	for in, want := range map[string]string{
		``:                             `[]`,
		`Basic`:                        `[{basic map[]}]`,
		`Basic realm="a b"`:            `[{basic map[realm:a b]}]`,
		`BEARER Realm = "x" , A=b`:     `[{bearer map[a:b realm:x]}]`,
		`Bearer scope="a:b:pull,push"`: `[{bearer map[scope:a:b:pull,push]}]`,
		`Negotiate, Bearer a=b`:        `[{negotiate map[]} {bearer map[a:b]}]`,
		`Negotiate abc/+==, Basic`:     `[{negotiate map[]} {basic map[]}]`,
		`Bearer a="q\"u\\o", b=c`:      `[{bearer map[a:q"u\o b:c]}]`,
		`, ,Basic,,Bearer a=b,`:        `[{basic map[]} {bearer map[a:b]}]`,
		`Bearer a="b`:                  `error`,
		`Bearer a="b" c="d"`:           `error`,
		`Bearer a=b, a=c`:              `error`,
		`Bearer a=`:                    `[{bearer map[]}]`, // RFC 9110: a token68
		`Bearer a=, b=c`:               `[{bearer map[b:c]}]`,
		`a=b`:                          `error`,
		`Bearer realm=http://x`:        `error`,
		`Basic Bearer a=b`:             `error`,
		`"Basic"`:                      `error`,
		"Bearer a=\"\x00\"":            `error`,
	} {
		got, err := parseChallenges([]string{in})
		text := fmt.Sprint(got)
		if errors.Is(err, errChallenge) {
			text = "error"
		}
		if text != want {
			t.Errorf("parseChallenges(%q) = %s, %v; want %s", in, text, err, want)
		}
	}
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull"`,
		`Negotiate abc/+==, Basic realm="a\"b", Bearer a = b`, `Bearer a="`, `,=,`, `a=b`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		all, err := parseChallenges([]string{s})
		if err != nil {
			return
		}
		// Written down again, it reads the same.
		var b strings.Builder
		for i, c := range all {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(c.scheme)
			sep := " "
			for k, v := range c.params {
				b.WriteString(sep + k + `="` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(v) + `"`)
				sep = ", "
			}
		}
		if b.Len() > maxChallenge {
			return
		}
		again, err := parseChallenges([]string{b.String()})
		if err != nil || fmt.Sprint(again) != fmt.Sprint(all) {
			t.Errorf("parseChallenges(%q) = %v, %v; want %v as of %q", b.String(), again, err, all, s)
		}
	})
}
