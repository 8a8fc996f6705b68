package fetch

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// storeWith is a store with some blobs.
func storeWith(t testing.TB, dir string, blobs ...[]byte) *Store {
	t.Helper()
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if err := s.Put(digest.FromBytes(b), b); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// pattern is n bytes that differ from place to place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return b
}

// startServe serves on loopback until the test ends, and gives the URL and the pin.
func startServe(t *testing.T, h http.Handler) (string, digest.Digest) {
	t.Helper()
	cert, pin, err := ServerIdentity(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, cert, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v; want nil", err)
		}
	})
	return "https://" + l.Addr().String(), pin
}

// pinned is a client for such a server. It opens a connection for each request.
func pinned(t *testing.T, url string, pin digest.Digest) *http.Client {
	t.Helper()
	c, err := Net{}.tlsConfig(Place{URL: url, Pins: []digest.Digest{pin}})
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestServeAnswers(t *testing.T) {
	content := pattern(100_000)
	d := digest.FromBytes(content)
	dir := t.TempDir()
	s := storeWith(t, dir, content)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := digest.FromString("broken")
	if err := os.Mkdir(filepath.Join(dir, "blobs/sha256", broken.Encoded()), 0o755); err != nil {
		t.Fatal(err)
	}
	url, pin := startServe(t, NewHandler(ServeOptions{Blobs: s.Open}))
	client := pinned(t, url, pin)
	blob := "/blobs/sha256/" + d.Encoded()
	for _, c := range []struct {
		name, method, path, header, send string
		status                           int
		body                             string
		want                             map[string]string
	}{
		{name: "whole", method: "GET", path: blob, status: 200, body: string(content), want: map[string]string{
			"ETag": `"` + d.String() + `"`, "Content-Length": "100000", "Content-Type": "application/octet-stream",
		}},
		{name: "head", method: "HEAD", path: blob, status: 200, want: map[string]string{"Content-Length": "100000"}},
		{
			name: "range", method: "GET", path: blob, header: "Range: bytes=70000-70099", status: 206,
			body: string(content[70000:70100]), want: map[string]string{"Content-Range": "bytes 70000-70099/100000"},
		},
		{name: "tail", method: "GET", path: blob, header: "Range: bytes=99990-", status: 206, body: string(content[99990:])},
		{name: "range outside", method: "GET", path: blob, header: "Range: bytes=100000-", status: 416, body: "*"},
		{name: "has it already", method: "GET", path: blob, header: `If-None-Match: "` + d.String() + `"`, status: 304},
		{name: "missing", method: "GET", path: "/blobs/sha256/" + strings.Repeat("0", 64), status: 404, body: "no such blob\n"},
		{name: "not a file", method: "GET", path: "/blobs/sha256/" + broken.Encoded(), status: 500, body: "the blob cannot be read\n"},
		{name: "listing", method: "GET", path: "/blobs/sha256/", status: 404, body: "no such blob\n"},
		{name: "root", method: "GET", path: "/", status: 404, body: "no such blob\n"},
		{name: "outside", method: "GET", path: "/blobs/sha256/../../secret", status: 404, body: "no such blob\n"},
		{name: "escaped", method: "GET", path: "/blobs/sha256/..%2f..%2fsecret", status: 404, body: "no such blob\n"},
		{name: "upper case", method: "GET", path: "/blobs/sha256/" + strings.Repeat("A", 64), status: 404, body: "no such blob\n"},
		{name: "below", method: "GET", path: blob + "/", status: 404, body: "no such blob\n"},
		{name: "put", method: "PUT", path: blob, send: "x", status: 405, body: "only GET and HEAD\n", want: map[string]string{"Allow": "GET, HEAD"}},
		{name: "delete", method: "DELETE", path: blob, status: 405, body: "only GET and HEAD\n"},
		{name: "content", method: "GET", path: blob, send: "x", status: 400, body: "a request with content\n"},
		{name: "long header", method: "GET", path: blob, header: "X: " + strings.Repeat("x", 9<<10), status: 431, body: "*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var send io.Reader
			if c.send != "" {
				send = strings.NewReader(c.send)
			}
			req, err := http.NewRequestWithContext(t.Context(), c.method, url, send)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Opaque = "//" + req.URL.Host + c.path // as it stands, not made clean
			if k, v, ok := strings.Cut(c.header, ": "); ok {
				req.Header.Set(k, v)
			}
			res, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			got, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.status || res.ProtoMajor != 1 {
				t.Errorf("%s %s = %s %s; want HTTP/1.1 %d", c.method, c.path, res.Proto, res.Status, c.status)
			}
			if c.body != "*" && string(got) != c.body {
				t.Errorf("%s %s = %d bytes, %.40q; want %d, %.40q", c.method, c.path, len(got), got, len(c.body), c.body)
			}
			for k, v := range c.want {
				if got := res.Header.Get(k); got != v {
					t.Errorf("%s = %q; want %q", k, got, v)
				}
			}
		})
	}
}

func TestServeRate(t *testing.T) {
	const rate = 1 << 20
	content := pattern(8 << 20)
	s := storeWith(t, t.TempDir(), content)
	url, pin := startServe(t, NewHandler(ServeOptions{Blobs: s.Open, BytesPerSecond: rate}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var passed atomic.Int64
	var wg sync.WaitGroup
	client := pinned(t, url, pin)
	for range serveTurns {
		wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, "GET", url+"/blobs/sha256/"+digest.FromBytes(content).Encoded(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = res.Body.Close() }()
			n, err := io.Copy(io.Discard, res.Body)
			passed.Add(n)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("reading = %v; want the deadline", err)
			}
		})
	}
	wg.Wait()
	if got := passed.Load(); got < rate*7/10 || got > rate*13/10 {
		t.Errorf("the readers got %d bytes in a second; want %d, more or less", got, rate)
	}
}

// Of many who share a rate the first are done long before the last.
func TestServeTurns(t *testing.T) {
	content := pattern(2 << 20)
	s := storeWith(t, t.TempDir(), content)
	url, pin := startServe(t, NewHandler(ServeOptions{Blobs: s.Open, BytesPerSecond: 8 << 20}))
	client := pinned(t, url, pin)
	const readers = 3 * serveTurns
	took := make([]time.Duration, readers)
	begun := time.Now()
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			res, err := client.Get(url + "/blobs/sha256/" + digest.FromBytes(content).Encoded())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = res.Body.Close() }()
			got, err := io.ReadAll(res.Body)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("reader %d got %d bytes, %v; want the content", i, len(got), err)
			}
			took[i] = time.Since(begun)
		})
	}
	wg.Wait()
	slices.Sort(took)
	if took[0] > took[readers-1]*2/3 {
		t.Errorf("the readers took %v; want the first to be done early", took)
	}
}

func TestBucketEndsWithContext(t *testing.T) {
	b := &bucket{perSecond: 1}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := b.take(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("take() = %v; want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("take() took %v; want 20ms", took)
	}
	// What was not taken is there for the next one.
	b.perSecond = 1000
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.take(ctx, 1); err != nil {
		t.Errorf("take() = %v; want nil", err)
	}
}

func TestServeConnections(t *testing.T) {
	content := pattern(8 << 20) // more than the sockets' buffers hold
	s := storeWith(t, t.TempDir(), content)
	url, pin := startServe(t, NewHandler(ServeOptions{Blobs: s.Open, Connections: 1}))
	client := pinned(t, url, pin)
	get := func() *http.Response {
		t.Helper()
		res, err := client.Get(url + "/blobs/sha256/" + digest.FromBytes(content).Encoded())
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := get()
	second := get()
	if err := second.Body.Close(); err != nil || second.StatusCode != 503 || second.Header.Get("Retry-After") != "1" {
		t.Errorf("second reader: %s, %v; want 503 and Retry-After", second.Status, err)
	}
	got, err := io.ReadAll(first.Body)
	if err := errors.Join(err, first.Body.Close()); err != nil || !bytes.Equal(got, content) {
		t.Errorf("first reader: %d bytes, %v; want all of them", len(got), err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		res := get()
		_ = res.Body.Close()
		if res.StatusCode == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the first has gone: %s; want 200", res.Status)
		}
	}
}

// A reader that takes nothing does not hold its place.
func TestServeStuckReader(t *testing.T) {
	t.Parallel()
	content := pattern(32 << 20)
	s := storeWith(t, t.TempDir(), content)
	h := NewHandler(ServeOptions{Blobs: s.Open, Connections: 1}).(*blobHandler)
	h.stuck = 200 * time.Millisecond
	url, pin := startServe(t, h)
	res, err := pinned(t, url, pin).Get(url + "/blobs/sha256/" + digest.FromBytes(content).Encoded())
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for len(h.busy) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the reader still holds its place")
		}
		time.Sleep(5 * time.Millisecond)
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err == nil {
		t.Errorf("stuck reader then got %d bytes and no error; want one", n)
	}
}

// Who connects and says nothing is cut off, before and after the handshake.
func TestServeSilentClient(t *testing.T) {
	t.Parallel()
	s := storeWith(t, t.TempDir())
	url, _ := startServe(t, NewHandler(ServeOptions{Blobs: s.Open}))
	raw, err := net.Dial("tcp", strings.TrimPrefix(url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	slow, err := tls.Dial("tcp", strings.TrimPrefix(url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Close() }()
	if _, err := io.WriteString(slow, "GET / HTTP/1.1\r\nHost: x\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{raw, slow} {
		if err := c.SetReadDeadline(time.Now().Add(3 * serveAsk)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%T still open after %v; want it closed after %v", c, 3*serveAsk, serveAsk)
		}
	}
}

// What is under way when the server stops is brought to its end.
func TestServeStopsGracefully(t *testing.T) {
	content := pattern(1 << 20)
	s := storeWith(t, t.TempDir(), content)
	cert, pin, err := ServerIdentity(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, cert, NewHandler(ServeOptions{Blobs: s.Open, BytesPerSecond: 2 << 20}))
	}()
	url := "https://" + l.Addr().String()
	res, err := pinned(t, url, pin).Get(url + "/blobs/sha256/" + digest.FromBytes(content).Encoded())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	got, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil || !bytes.Equal(got, content) {
		t.Errorf("reading while the server stops: %d bytes, %v; want %d", len(got), err, len(content))
	}
	if err := <-done; err != nil {
		t.Errorf("Serve() = %v; want nil", err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("a stopped server takes a connection; want none")
	}
}

func TestServerIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sub")
	now := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	c, pin, err := ServerIdentity(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if pin != SPKI(leaf) {
		t.Errorf("pin = %s; want %s", pin, SPKI(leaf))
	}
	if want := now.Add(-24 * time.Hour); !leaf.NotBefore.Equal(want) || !leaf.NotAfter.Equal(want.AddDate(10, 0, 0)) {
		t.Errorf("valid %v to %v; want ten years from %v", leaf.NotBefore, leaf.NotAfter, want)
	}
	file := filepath.Join(dir, "identity.pem")
	if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o600 {
		t.Errorf("Stat(%s) = %v, %v; want mode 0600", file, fi, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("files = %v; want %s alone", left, file)
	}
	if _, again, err := ServerIdentity(dir, now.AddDate(20, 0, 0)); err != nil || again != pin {
		t.Errorf("second start: pin = %s, %v; want %s", again, err, pin)
	}
	// Damaged: another one, which stays.
	if err := os.WriteFile(file, []byte("-----BEGIN"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, fresh, err := ServerIdentity(dir, now)
	if err != nil || fresh == pin {
		t.Errorf("damaged: pin = %s, %v; want another than %s", fresh, err, pin)
	}
	if _, again, err := ServerIdentity(dir, now); err != nil || again != fresh {
		t.Errorf("after the damaged one: pin = %s, %v; want %s", again, err, fresh)
	}
	// No directory can be there: an identity all the same, a new one each time.
	_, a, err := ServerIdentity(filepath.Join(file, "sub"), now)
	if err != nil {
		t.Fatal(err)
	}
	if _, b, err := ServerIdentity(filepath.Join(file, "sub"), now); err != nil || a == b {
		t.Errorf("without a directory: pin = %s, %v; want another than %s", b, err, a)
	}
	if _, err := os.Stat(filepath.Join(file, "sub")); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat(%s/sub) = %v; want not a directory", file, err)
	}
}

// recorder keeps an answer. Its connection knows no deadlines.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(s int) {
	if r.status == 0 {
		r.status = s
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(200)
	return r.body.Write(b)
}

func FuzzServeRequest(f *testing.F) {
	content := pattern(300)
	d := digest.FromBytes(content)
	dir := f.TempDir()
	s := storeWith(f, dir, content)
	secret := hex.EncodeToString(pattern(64))
	for _, p := range []string{"secret", "blobs/secret", "blobs/sha256/secret", partialDir + "/" + d.Encoded()} {
		if err := os.WriteFile(filepath.Join(dir, p), []byte(secret), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	var asked []digest.Digest
	h := NewHandler(ServeOptions{Connections: 1, Blobs: func(d digest.Digest) (*os.File, error) {
		asked = append(asked, d)
		return s.Open(d)
	}})
	blob := "/blobs/sha256/" + d.Encoded()
	f.Add("GET", blob, "bytes=0-9")
	f.Add("GET", blob, "bytes=0-0,1-1,5-,-7")
	f.Add("HEAD", "http://x"+blob, "bytes=-1")
	f.Add("GET", blob+"?q#f", "bytes=99999999999999999999-")
	f.Add("GET", "/blobs/sha256/secret", "")
	f.Add("GET", "/blobs/sha256/../../secret", "bytes=0-")
	f.Add("GET", "/blobs/sha256/%2e%2e%2fsecret", "bytes=0-")
	f.Add("GET", "/blobs//sha256/"+d.Encoded(), "")
	f.Add("POST", "//blobs/sha256/"+d.Encoded()+"\x00", "")
	f.Add("GET", "*", "")
	f.Fuzz(func(t *testing.T, method, target, rng string) {
		raw := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nRange: %s\r\n\r\n", method, target, rng)
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		method = req.Method
		asked = asked[:0]
		w := &recorder{header: http.Header{}}
		h.ServeHTTP(w, req)
		for _, a := range asked {
			if err := a.Validate(); err != nil || a.Algorithm() != digest.SHA256 {
				t.Fatalf("%s %q opens %q; want digests alone", method, target, a)
			}
		}
		got := w.body.String()
		if strings.Contains(got, secret[:16]) {
			t.Fatalf("%s %q = %q; want nothing from outside", method, target, got)
		}
		multipart := strings.HasPrefix(w.header.Get("Content-Type"), "multipart/byteranges")
		switch {
		case w.status == 200 && method == "GET":
			if got != string(content) {
				t.Fatalf("%s %q = %q; want the blob", method, target, got)
			}
		case w.status == 206 && method == "GET" && !multipart:
			var from, to, total int
			if _, err := fmt.Sscanf(w.header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil {
				t.Fatal(err)
			}
			if got != string(content[from:to+1]) || total != len(content) {
				t.Fatalf("%s %q %q = %q; want %d-%d", method, target, rng, got, from, to)
			}
		case w.status < 200 || w.status > 499:
			t.Fatalf("%s %q %q = %d; want an answer or a refusal", method, target, rng, w.status)
		}
	})
}
