package fetch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// startMinIO runs an S3 server with the buckets kits and open, of which all may
// read the second; its owner is admin.
func startMinIO(t *testing.T, args ...string) (addr string) {
	t.Helper()
	addr = freeAddr(t)
	dir := t.TempDir()
	for _, bucket := range []string{"kits", "open"} {
		if err := os.Mkdir(filepath.Join(dir, bucket), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"MINIO_ROOT_USER=admin", "MINIO_ROOT_PASSWORD=" + testSecret, "MINIO_BROWSER=off", "MINIO_SITE_REGION=us-east-1", "MINIO_UPDATE=off", "HOME=" + t.TempDir()}
	startServer(t, addr, env, "minio", append([]string{"server", "--quiet", "--address", addr, dir}, args...)...)
	return addr
}

// s3At is a bucket of a plain server, with the owner's key.
func s3At(t *testing.T, addr, below string) Target {
	t.Helper()
	return target(t, Place{URL: "s3+http://" + addr + "/" + below}, owner(addr))
}

func owner(addr string) Net {
	return Net{Login: login(map[string][2]string{addr: {"admin", testSecret}})}
}

// waitForStore waits until a server has its buckets: it answers before that.
func waitForStore(t *testing.T, addr string) {
	t.Helper()
	src := s3At(t, addr, "kits").(*s3Source)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, _, err := src.read(t.Context(), "none")
		if errors.Is(err, ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the store does not come up: %v", err)
		}
	}
}

func TestS3(t *testing.T) {
	t.Parallel()
	addr := startMinIO(t)
	waitForStore(t, addr)
	for _, below := range []string{"kits", "kits/a/deep%20prefix/with+signs%25%C3%BC~(1)"} {
		t.Run(below, func(t *testing.T) {
			testTarget(t, Place{URL: "s3+http://" + addr + "/" + below}, owner(addr))
		})
	}
	t.Run("layout", func(t *testing.T) { testS3Layout(t, addr) })
	t.Run("writers", func(t *testing.T) { testS3Writers(t, addr) })
	t.Run("refused", func(t *testing.T) { testS3Refused(t, addr) })
	t.Run("open to all", func(t *testing.T) { testS3Open(t, addr) })
	t.Run("behind a registry", func(t *testing.T) { testRegistryOnS3(t, addr) })
}

func TestS3TLS(t *testing.T) {
	ca, cert, key := certify(t, "store.test")
	dir := t.TempDir()
	writeFile(t, dir+"/public.crt", cert)
	writeFile(t, dir+"/private.key", key)
	addr := startMinIO(t, "--certs-dir", dir)
	_, port, _ := net.SplitHostPort(addr)
	host := "store.test:" + port
	n := owner(host)
	n.Names = map[string][]netip.Addr{"store.test": {netip.MustParseAddr("127.0.0.1")}}
	place := Place{URL: "s3://" + host + "/kits/p", CA: ca}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, _, err := target(t, place, n).Manifest(t.Context(), "none"); errors.Is(err, ErrNotFound) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the store does not come up: %v", err)
		}
	}
	testTarget(t, place, n)
}

// testS3Layout: what is put makes an OCI layout, whose tags others may have made.
func testS3Layout(t *testing.T, addr string) {
	to := s3At(t, addr, "kits/layout")
	content := pattern(1000)
	first := putImage(t, to, "v1", content)
	second := putImage(t, to, "v2", content)
	if third := putImage(t, to, "v1", content); !bytes.Equal(first, third) || bytes.Equal(first, second) {
		t.Fatal("the images are not those that were meant")
	}
	s := to.(*s3Source)
	dir := t.TempDir()
	for _, name := range []string{"index.json", "oci-layout"} {
		raw, _, err := s.read(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, name), raw)
	}
	index, _, err := s.index(t.Context())
	if err != nil || len(index.Manifests) != 2 || index.SchemaVersion != 2 {
		t.Fatalf("index.json = %v, %v; want two manifests", index, err)
	}
	blobs := []digest.Digest{digest.FromBytes(content)}
	for _, d := range index.Manifests {
		raw, _, err := to.Manifest(t.Context(), d.Annotations[ocispec.AnnotationRefName])
		var m ocispec.Manifest
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, d.Digest, m.Config.Digest)
	}
	for _, d := range blobs {
		body, _, err := to.Open(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		_ = body.Close()
		writeFile(t, filepath.Join(dir, "blobs", "sha256", d.Encoded()), raw)
	}
	for _, tag := range []string{"v1", "v2"} {
		wantInspected(t, "oci:"+dir+":"+tag, tag, content)
	}

	// What cannot be read is not written over.
	bad := s3At(t, addr, "kits/bad").(*s3Source)
	for name, raw := range map[string][]byte{"no JSON": []byte("{"), "too large": bytes.Repeat([]byte(" "), maxManifest+1)} {
		if _, err := bad.put(t.Context(), "index.json", digest.FromBytes(raw), int64(len(raw)), bytes.NewReader(raw), nil); err != nil {
			t.Fatal(err)
		}
		if err := bad.PutManifest(t.Context(), "v1", ocispec.MediaTypeImageManifest, []byte("{}")); err == nil {
			t.Errorf("PutManifest() where index.json is %s = nil; want an error", name)
		}
		if _, _, err := bad.Manifest(t.Context(), "v1"); err == nil || errors.Is(err, ErrNotFound) {
			t.Errorf("Manifest() where index.json is %s = %v; want another error", name, err)
		}
	}
	// A manifest that is another than index.json says.
	d := digest.FromString("a manifest")
	name, _ := blobName(d)
	raw := []byte("another one")
	if _, err := s.put(t.Context(), name, digest.FromBytes(raw), int64(len(raw)), bytes.NewReader(raw), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.putTag(t.Context(), ocispec.Descriptor{Digest: d, Annotations: map[string]string{ocispec.AnnotationRefName: "v3"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := to.Manifest(t.Context(), "v3"); !errors.Is(err, ErrVerification) {
		t.Errorf("Manifest(other bytes) = %v; want %v", err, ErrVerification)
	}
}

// testS3Writers: who writes index.json between another's reading and writing it
// loses no tag.
func testS3Writers(t *testing.T, addr string) {
	direct := s3At(t, addr, "kits/writers")
	manifest := []byte(`{"schemaVersion":2}`)
	between := 0
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.HasSuffix(r.Request.URL.Path, "/index.json") && between < 2 {
			between++
			return direct.PutManifest(r.Request.Context(), fmt.Sprint("other", between), ocispec.MediaTypeImageManifest, manifest)
		}
		return nil
	}
	srv := httptest.NewServer(proxy)
	t.Cleanup(srv.Close)
	// The signature is of the name that was asked: the proxy passes it on.
	through := target(t, Place{URL: "s3+http://" + srv.Listener.Addr().String() + "/kits/writers"}, owner(srv.Listener.Addr().String()))
	if err := through.PutManifest(t.Context(), "mine", ocispec.MediaTypeImageManifest, manifest); err != nil {
		t.Fatal(err)
	}
	var tags []string
	index, _, err := direct.(*s3Source).index(t.Context())
	for _, d := range index.Manifests {
		tags = append(tags, d.Annotations[ocispec.AnnotationRefName])
	}
	if want := []string{"other1", "other2", "mine"}; !slices.Equal(tags, want) || err != nil {
		t.Errorf("index.json has the tags %v, %v; want %v", tags, err, want)
	}
}

func testS3Refused(t *testing.T, addr string) {
	content := pattern(1000)
	d := put(t, s3At(t, addr, "kits"), content)
	wrong := Net{Login: login(map[string][2]string{addr: {"admin", "wrong-" + testSecret}})}
	late := owner(addr)
	late.Now = func() time.Time { return time.Now().Add(-time.Hour) }
	for name, c := range map[string]struct {
		n     Net
		below string
		want  string
	}{
		"a wrong secret":    {wrong, "kits", `403 Forbidden: "SignatureDoesNotMatch"`},
		"an unknown key":    {Net{Login: login(map[string][2]string{addr: {"nobody", testSecret}})}, "kits", `403 Forbidden: "InvalidAccessKeyId"`},
		"nobody":            {Net{}, "kits", `403 Forbidden: "AccessDenied"`},
		"a clock too late":  {late, "kits", `403 Forbidden: "RequestTimeTooSkewed"`},
		"another region":    {owner(addr), "kits?region=eu-west-7", `400 Bad Request: "AuthorizationHeaderMalformed"`},
		"the region named":  {owner(addr), "kits?region=us-east-1", ""},
		"a missing bucket":  {owner(addr), "none", `not found: the store says 404 Not Found: "NoSuchBucket"`},
		"another prefix":    {owner(addr), "kits/x", `not found: the store says 404 Not Found: "NoSuchKey"`},
		"the right request": {owner(addr), "kits", ""},
	} {
		t.Run(name, func(t *testing.T) {
			to := target(t, Place{URL: "s3+http://" + addr + "/" + c.below}, c.n)
			body, _, err := to.Open(t.Context(), d, 0, -1)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				_ = body.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), testSecret) || errors.Is(err, ErrNotFound) != strings.HasPrefix(c.want, "not found") {
				t.Errorf("Open() = %v; want %q in it", err, c.want)
			}
			// HEAD alone would not tell why.
			if _, err := to.Stat(t.Context(), d); err == nil || !strings.HasPrefix(c.want, "not found") && !strings.Contains(err.Error(), c.want) ||
				errors.Is(err, ErrNotFound) != strings.HasPrefix(c.want, "not found") {
				t.Errorf("Stat() = %v; want %q in it", err, c.want)
			}
			if strings.HasPrefix(c.want, "not found") {
				return
			}
			if err := to.Put(t.Context(), d, 1000, bytes.NewReader(content)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Put() = %v; want %q in it", err, c.want)
			}
		})
	}
}

// testS3Open reads what all may read, without a login.
func testS3Open(t *testing.T, addr string) {
	content := pattern(1 << 20)
	to := s3At(t, addr, "open").(*s3Source)
	d := put(t, to, content)
	policy := []byte(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["*"]},"Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::open","arn:aws:s3:::open/*"]}]}`)
	for _, c := range []struct {
		method, query string
		content       []byte
		want          int
	}{
		{http.MethodGet, "list-type=2&prefix=a%20b%2Fc", nil, http.StatusOK},
		{http.MethodPut, "policy=", policy, http.StatusNoContent},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+addr+"/open?"+c.query, bytes.NewReader(c.content))
		if err != nil {
			t.Fatal(err)
		}
		to.sign(req, digest.FromBytes(c.content).Encoded())
		resp, err := ask(to.client, req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Fatalf("%s ?%s: %s; want %d", c.method, c.query, resp.Status, c.want)
		}
	}
	src, err := Dial(Place{URL: "s3+http://" + addr + "/open"}, Net{})
	if err != nil {
		t.Fatal(err)
	}
	testSource(t, src, d, content)
}

// testRegistryOnS3: a registry that sends those who want a blob to the store, which
// refuses requests that show a login besides the one in the redirect.
func testRegistryOnS3(t *testing.T, store string) {
	addr := startRegistry(t, "", fmt.Sprintf("storage: {s3: {accesskey: admin, secretkey: %s, region: us-east-1, regionendpoint: 'http://%s', bucket: kits, rootdirectory: /registry, secure: false, forcepathstyle: true}}\n", testSecret, store)+
		htpasswd(t))
	content := pattern(1 << 20)
	to := target(t, Place{URL: "oci+http://" + addr + "/kit"}, owner(addr))
	d := put(t, to, content)
	req, err := to.(*ociSource).request(t.Context(), http.MethodGet, "blobs", d)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := to.(*ociSource).do(req, false)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Request.URL.Host != store {
		t.Errorf("the blob comes from %s with status %s; want it from the store at %s", resp.Request.URL.Host, resp.Status, store)
	}
	testTarget(t, Place{URL: "oci+http://" + addr + "/team/kit"}, owner(addr))
}

// TestS3SignVectors: the examples of "Signature Calculations for the Authorization
// Header" in the Amazon S3 API reference.
func TestS3SignVectors(t *testing.T) {
	k := s3Key{"AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"}
	now := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for query, want := range map[string]string{
		"?lifecycle":           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		"?max-keys=2&prefix=J": "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
	} {
		req, err := http.NewRequest(http.MethodGet, "https://examplebucket.s3.amazonaws.com/"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		k.sign(req, emptySHA256, now)
		want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=" + want
		if got := req.Header.Get("Authorization"); got != want {
			t.Errorf("sign(%s): %s; want %s", query, got, want)
		}
	}
}

func TestS3Place(t *testing.T) {
	for _, url := range []string{
		"s3://", "s3://host", "s3://host/", "s3:///b", "s3://host/bucket/../../other", "s3://host/bucket//c", "s3://host/bucket/./c", "s3://host/..", "s3://user@host/bucket",
		"s3://key:" + testSecret + "@host/bucket", "s3://host/bucket?x=1", "s3://host/bucket?region=a&region=b", "s3://host/bucket?region=a/b", "s3://host/bucket#x", "s3:host/bucket",
		"s3://host/bu%20cket", "s3://host/bucket?region=%zz",
	} {
		if _, err := DialTarget(Place{URL: url}, Net{}); !errors.Is(err, ErrPlace) || strings.Contains(err.Error(), testSecret) {
			t.Errorf("DialTarget(%q) = %v; want %v", url, err, ErrPlace)
		}
	}
	for _, url := range []string{"s3://host/bucket", "s3://host/bucket/", "s3://10.0.0.1:9000/b.u-c/prefix/deep/?region=eu-west-1", "s3+http://[::1]:9000/bucket"} {
		if to := target(t, Place{URL: url}, Net{}); to.String() != url {
			t.Errorf("DialTarget(%q).String() = %q; want the same", url, to)
		}
	}
}

// TestS3Hostile: a store's answers are bounded, and lead nowhere else.
func TestS3Hostile(t *testing.T) {
	d := digest.FromString("x")
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"an endless refusal": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403); endless(w, r) }, "403 Forbidden"},
		"an endless absence": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); endless(w, r) }, ErrNotFound.Error()},
		"somewhere else": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://unknown.test/", http.StatusTemporaryRedirect)
		}, "307 Temporary Redirect"},
		"a page": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "<html><body>")
		}, "500 Internal Server Error"},
		"another range": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-99/1000")
			w.WriteHeader(206)
		}, ErrNoRange.Error()},
		"everything": {func(w http.ResponseWriter, r *http.Request) { endless(w, r) }, ErrNoRange.Error()},
		"control characters": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "<Error><Code>a&#10;b</Code></Error>")
		}, `"a\nb"`},
		"compressed, it claims": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(206)
		}, `encodes the content as "gzip"`},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := hostile(t, false, c.answer)
			p.URL = strings.Replace(p.URL, "oci+http", "s3+http", 1)
			within(t, 10*time.Second, func() {
				_, _, err := target(t, p, Net{}).Open(t.Context(), d, 100, 100)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Open() = %v; want %q in it", err, c.want)
				}
				if _, err := target(t, p, Net{}).Stat(t.Context(), d); c.want == "307 Temporary Redirect" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("Stat() = %v; want %q in it", err, c.want)
				}
			})
		})
	}
}

// TestS3NoConditions: a store that knows no conditional writes.
func TestS3NoConditions(t *testing.T) {
	var kept sync.Map
	p, _ := hostile(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodGet:
			raw, ok := kept.Load(r.URL.Path)
			if !ok {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			w.Header().Set("ETag", `"x"`)
			_, _ = w.Write(raw.([]byte))
		case r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != "":
			w.WriteHeader(http.StatusNotImplemented)
		default:
			raw, _ := io.ReadAll(r.Body)
			kept.Store(r.URL.Path, raw)
		}
	})
	p.URL = strings.Replace(p.URL, "oci+http", "s3+http", 1)
	to := target(t, p, Net{})
	for _, tag := range []string{"v1", "v2"} {
		if err := to.PutManifest(t.Context(), tag, ocispec.MediaTypeImageManifest, []byte(tag)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tag := range []string{"v1", "v2"} {
		if raw, _, err := to.Manifest(t.Context(), tag); string(raw) != tag || err != nil {
			t.Errorf("Manifest(%s) = %q, %v; want %q", tag, raw, err, tag)
		}
	}
}

func FuzzS3Error(f *testing.F) {
	for _, s := range []string{
		`<?xml version="1.0" encoding="UTF-8"?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>x</Key></Error>`,
		`<Error><Code>a</Code></Error><Error/>`, `<html>`, `<Error>`, `<Error><Code/></Error>`, `<a><Error><Code>x</Code></Error></a>`, `<!DOCTYPE x [<!ENTITY a "b">]><Error><Code>&a;</Code></Error>`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := parseS3Error(raw)
		if (err == nil) != (e.Code != "") || err != nil && !errors.Is(err, errS3Error) {
			t.Errorf("parseS3Error(%q) = %v, %v; want either a code or %v", raw, e, err, errS3Error)
		}
		if len(e.Code)+len(e.Message) > 3*maxComplaint {
			t.Errorf("parseS3Error(%d bytes): %d bytes; want no more than there were", len(raw), len(e.Code)+len(e.Message))
		}
	})
}
