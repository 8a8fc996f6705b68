package fetch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// rogue is a server that writes whatever a test wants.
type rogue struct {
	address string
	mu      sync.Mutex
	asked   []*http.Request
}

// startRogue answers the request i, counted over all connections, and closes the
// connection.
func startRogue(t *testing.T, answer func(i int, r *http.Request, w net.Conn)) *rogue {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &rogue{address: l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer func() { _, _ = stop(), c.Close() }()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				s.mu.Lock()
				s.asked = append(s.asked, r)
				i := len(s.asked) - 1
				s.mu.Unlock()
				answer(i, r, c)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	return s
}

func (s *rogue) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// says is a rogue that always says the same.
func says(t *testing.T, text string) *rogue {
	t.Helper()
	return startRogue(t, func(_ int, _ *http.Request, w net.Conn) { _, _ = io.WriteString(w, text) })
}

func (s *rogue) source(t *testing.T) Source {
	t.Helper()
	return dialWeb(t, Place{URL: "http://" + s.address + "/"}, Net{})
}

var anyBlob = digest.FromString("any")

// What is asked for, to the letter.
func TestHTTPRequests(t *testing.T) {
	s := startRogue(t, func(_ int, r *http.Request, w net.Conn) {
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
		if r.Method == "GET" {
			_, _ = io.WriteString(w, "0123456789")
		}
	})
	src := dialWeb(t, Place{URL: "http://" + s.address + "/a%20kit?x=%2F"}, Net{Login: func(host string) (string, string, bool) {
		return "operator", testSecret, host == s.address
	}})
	for _, r := range [][2]int64{{0, -1}, {0, 4}, {0, 0}, {3, 4}, {3, -1}} {
		body, total, err := src.Open(t.Context(), anyBlob, r[0], r[1])
		if r[0] > 0 {
			if !errors.Is(err, ErrNoRange) {
				t.Errorf("Open(%d, %d) = %v; want %v", r[0], r[1], err, ErrNoRange)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		want := "0123456789"
		if r[1] >= 0 {
			want = want[:r[1]]
		}
		if got, err := io.ReadAll(body); string(got) != want || total != 10 || err != nil {
			t.Errorf("Open(%d, %d): %q of %d, %v; want %q of 10", r[0], r[1], got, total, err, want)
		}
		wantCloseTwice(t, body)
	}
	if n, err := src.Stat(t.Context(), anyBlob); n != 10 || err != nil {
		t.Errorf("Stat() = %d, %v; want 10", n, err)
	}
	var got []string
	for _, r := range s.requests() {
		user, password, _ := r.BasicAuth()
		if h := r.Header; user != "operator" || password != testSecret || h.Get("User-Agent") != "blackstart" ||
			h.Get("Accept-Encoding") != "identity" || r.RequestURI != "/a%20kit/blobs/sha256/"+anyBlob.Encoded()+"?x=%2F" || r.Host != s.address {
			t.Errorf("request %s %s of %s with %v", r.Method, r.RequestURI, r.Host, h)
		}
		got = append(got, r.Method+" "+r.Header.Get("Range"))
	}
	if want := []string{"GET ", "GET bytes=0-3", "HEAD ", "GET bytes=3-6", "GET bytes=3-", "HEAD "}; !slices.Equal(got, want) {
		t.Errorf("requests = %q; want %q", got, want)
	}
}

// The URL is that of a file: found out once, also by several at once.
func TestHTTPShape(t *testing.T) {
	s := startRogue(t, func(_ int, r *http.Request, w net.Conn) {
		if r.URL.Path != "/file" {
			_, _ = io.WriteString(w, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfile")
	})
	src := dialWeb(t, Place{URL: "http://" + s.address + "/file"}, Net{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { wantPart(t, src, anyBlob, []byte("file"), 0, -1) })
	}
	wg.Wait()
	before := len(s.requests())
	for range 3 {
		wantPart(t, src, anyBlob, []byte("file"), 0, -1)
	}
	asked := s.requests()[before:]
	if len(asked) != 3 || asked[0].URL.Path != "/file" {
		t.Errorf("%d requests for three, the first one for %s; want 3, /file", len(asked), asked[0].URL.Path)
	}
	wantStat := func(url string, want error) {
		t.Helper()
		if _, err := dialWeb(t, Place{URL: url}, Net{}).Stat(t.Context(), anyBlob); !errors.Is(err, want) {
			t.Errorf("Stat() of %s = %v; want %v", url, err, want)
		}
	}
	wantStat("http://"+s.address+"/other", ErrNotFound)
	// Where the URL cannot be a file's, it is not asked for.
	before = len(s.requests())
	wantStat("http://"+s.address+"/file/", ErrNotFound)
	wantStat("http://"+s.address, ErrNotFound)
	if n := len(s.requests()) - before; n != 2 {
		t.Errorf("%d requests for two blobs of a directory; want 2", n)
	}
}

// The URL is that of a layout, which lacks a blob.
func TestHTTPShapeLayout(t *testing.T) {
	s := startRogue(t, func(_ int, r *http.Request, w net.Conn) {
		status := "200 OK"
		if strings.HasSuffix(r.URL.Path, digest.FromString("missing").Encoded()) {
			status = "404 Not Found"
		}
		_, _ = io.WriteString(w, "HTTP/1.1 "+status+"\r\nContent-Length: 4\r\n\r\nblob")
	})
	src := dialWeb(t, Place{URL: "http://" + s.address + "/kit"}, Net{})
	wantPart(t, src, anyBlob, []byte("blob"), 0, -1)
	if _, err := src.Stat(t.Context(), digest.FromString("missing")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Stat(missing) = %v; want %v", err, ErrNotFound)
	}
	if n := len(s.requests()); n != 2 {
		t.Errorf("requests = %d; want 2", n)
	}
}

// A server without HEAD, and with no byte to give a range of.
func TestHTTPEmptyWithoutHead(t *testing.T) {
	for size, want := range map[string]bool{"0": true, "7": false} {
		src := startRogue(t, func(_ int, r *http.Request, w net.Conn) {
			status := "501 Not Implemented"
			if r.Method == "GET" {
				status = "416 Range Not Satisfiable\r\nContent-Range: bytes */" + size
			}
			_, _ = io.WriteString(w, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
		}).source(t)
		if n, err := src.Stat(t.Context(), anyBlob); n != 0 || (err == nil) != want {
			t.Errorf("Stat() with 416 and */%s = %d, %v; want 0, no error: %t", size, n, err, want)
		}
	}
}

// Many requests, one connection: a handshake costs more than a small part.
func TestHTTPKeepsConnection(t *testing.T) {
	content := pattern(1 << 20)
	d := digest.FromBytes(content)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns atomic.Int32
	store := storeWith(t, t.TempDir(), content)
	srv := &http.Server{Handler: NewHandler(ServeOptions{Blobs: store.Open}), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}}
	ended := make(chan struct{})
	go func() { _ = srv.Serve(l); close(ended) }()
	t.Cleanup(func() { _ = srv.Close(); <-ended })
	src := dialWeb(t, Place{URL: "http://" + l.Addr().String()}, Net{})
	for i := range int64(10) {
		body, _, err := src.Open(t.Context(), d, i*1000, 1000)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		if _, err := io.ReadFull(body, b); err != nil || !bytes.Equal(b, content[i*1000:][:1000]) { // it does not see the end
			t.Errorf("Open(%d, 1000): %v; want the bytes that are there", i*1000, err)
		}
		wantCloseTwice(t, body)
		if _, _, err := src.Open(t.Context(), anyBlob, 0, 1000); !errors.Is(err, ErrNotFound) {
			t.Errorf("Open(missing) = %v; want %v", err, ErrNotFound)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("connections = %d; want 1", n)
	}
}

func TestHTTPRogueRanges(t *testing.T) {
	const part = "HTTP/1.1 206 Partial Content\r\n"
	for _, c := range []struct {
		name, answer string
		offset, n    int64
		body         string
		total        int64
		err, read    error
	}{
		{name: "right", answer: part + "Content-Range: bytes 5-8/100\r\nContent-Length: 4\r\n\r\n5678", offset: 5, n: 4, body: "5678", total: 100},
		{name: "right, no length", answer: part + "Content-Range: bytes 5-8/*\r\n\r\n5678", offset: 5, n: 4, body: "5678", total: -1},
		{name: "right, to the end", answer: part + "Content-Range: bytes 5-8/9\r\n\r\n5678", offset: 5, n: -1, body: "5678", total: 9},
		{name: "right, cut at the end", answer: part + "Content-Range: bytes 5-8/9\r\n\r\n5678", offset: 5, n: 10, body: "5678", total: 9},
		{name: "everything", answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n5678", offset: 5, n: 4, err: ErrNoRange},
		{name: "everything, from the beginning", answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789", n: 4, body: "0123", total: 10},
		{name: "everything, no length", answer: "HTTP/1.1 200 OK\r\n\r\n0123456789", n: 4, body: "0123", total: -1},
		{name: "everything, no length, short", answer: "HTTP/1.1 200 OK\r\n\r\n01", n: 4, body: "01", total: -1},
		{name: "no Content-Range", answer: part + "Content-Length: 4\r\n\r\n5678", offset: 5, n: 4, err: ErrNoRange},
		{name: "other beginning", answer: part + "Content-Range: bytes 4-8/100\r\n\r\n45678", offset: 5, n: 4, err: ErrNoRange},
		{name: "from the beginning", answer: part + "Content-Range: bytes 0-3/100\r\n\r\n0123", offset: 5, n: 4, err: ErrNoRange},
		{name: "shorter", answer: part + "Content-Range: bytes 5-7/100\r\n\r\n567", offset: 5, n: 4, err: ErrNoRange},
		{name: "shorter, not to the end", answer: part + "Content-Range: bytes 5-7/100\r\n\r\n567", offset: 5, n: -1, err: ErrNoRange},
		{name: "longer", answer: part + "Content-Range: bytes 5-9/100\r\n\r\n56789", offset: 5, n: 4, err: ErrNoRange},
		{name: "two of them", answer: part + "Content-Range: bytes 5-8/100\r\nContent-Range: bytes 5-8/100\r\n\r\n5678", offset: 5, n: 4, err: ErrNoRange},
		{name: "multipart", answer: part + "Content-Type: multipart/byteranges; boundary=x\r\n\r\n--x\r\n", offset: 5, n: 4, err: ErrNoRange},
		{name: "other length", answer: part + "Content-Range: bytes 5-8/100\r\nContent-Length: 5\r\n\r\n56789", offset: 5, n: 4, err: ErrNoRange},
		{name: "more than it says", answer: part + "Content-Range: bytes 5-8/100\r\n\r\n56789", offset: 5, n: 4, body: "5678", total: 100},
		{name: "less than it says", answer: part + "Content-Range: bytes 5-8/100\r\n\r\n567", offset: 5, n: 4, body: "567", total: 100, read: io.ErrUnexpectedEOF},
		{name: "cut", answer: part + "Content-Range: bytes 5-8/100\r\nContent-Length: 4\r\n\r\n567", offset: 5, n: 4, body: "567", total: 100, read: io.ErrUnexpectedEOF},
		{name: "cut in a chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n012", n: -1, body: "012", total: -1, read: io.ErrUnexpectedEOF},
		{name: "cut, everything", answer: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n012", n: -1, body: "012", total: 10, read: io.ErrUnexpectedEOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			body, total, err := says(t, c.answer).source(t).Open(t.Context(), anyBlob, c.offset, c.n)
			if c.err != nil || err != nil {
				if !errors.Is(err, c.err) || c.err == nil {
					t.Fatalf("Open(%d, %d) = %v; want %v", c.offset, c.n, err, c.err)
				}
				return
			}
			got, err := io.ReadAll(body)
			if string(got) != c.body || total != c.total || !errors.Is(err, c.read) {
				t.Errorf("Open(%d, %d): %q of %d, %v; want %q of %d, %v", c.offset, c.n, got, total, err, c.body, c.total, c.read)
			}
			wantCloseTwice(t, body)
		})
	}
}

func TestHTTPRogueAnswers(t *testing.T) {
	for _, c := range []struct {
		name, answer, want string
		is                 error
	}{
		{name: "gzip", answer: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", want: `encodes the content as "gzip"`},
		{name: "two encodings", answer: "HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Encoding: br\r\n\r\nx", want: `encodes the content as "br"`},
		{name: "gone", answer: "HTTP/1.1 410 Gone\r\n\r\n", is: ErrNotFound, want: "410 Gone"},
		{name: "busy", answer: "HTTP/1.1 503 X\r\n\r\n\nback at noon\nnever", want: "answers 503 Service Unavailable: back at noon"},
		{name: "a page", answer: "HTTP/1.1 500 X\r\n\r\n<html>\n<b>oh</b>", want: "answers 500 Internal Server Error"},
		{name: "terminal codes", answer: "HTTP/1.1 500 \x1b[2J\r\n\r\n\x1b[2Jx", want: `answers 500 Internal Server Error: \x1b[2Jx`},
		{name: "no content", answer: "HTTP/1.1 204 No Content\r\n\r\n", want: "answers 204 No Content"},
		{name: "not modified", answer: "HTTP/1.1 304 Not Modified\r\n\r\n", want: "answers 304 Not Modified"},
		{name: "redirect to nowhere", answer: "HTTP/1.1 302 Found\r\n\r\n", want: "302"},
		{name: "redirect to a name", answer: "HTTP/1.1 302 Found\r\nLocation: http://blobs.example/x\r\n\r\n", is: ErrName, want: "blobs.example"},
		{name: "redirect to a file", answer: "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", want: "file"},
		{name: "redirect to a directory", answer: "HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", want: "redirects"},
		{name: "no HTTP", answer: "SSH-2.0-OpenSSH_9.2p1\r\n", want: "malformed HTTP"},
		{name: "nothing", answer: "", is: io.EOF},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", want: "Content-Length"},
		{name: "negative length", answer: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxx", want: "Content-Length"},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := says(t, c.answer).source(t)
			body, _, err := src.Open(t.Context(), anyBlob, 0, -1)
			if err == nil {
				_ = body.Close()
				t.Fatal("Open() = nil; want an error")
			}
			if !errors.Is(err, c.is) && c.is != nil || !strings.Contains(err.Error(), c.want) || c.is == nil && errors.Is(err, ErrNotFound) {
				t.Errorf("Open() = %v; want %v, %s", err, c.is, c.want)
			}
			if strings.HasPrefix(c.want, "answers") && !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("Open() = %v; want … %s and no more", err, c.want)
			}
			if n, err := src.Stat(t.Context(), anyBlob); err == nil {
				t.Errorf("Stat() = %d; want an error", n)
			}
		})
	}
}

// The server never stops, and nobody waits for it to.
func TestHTTPEndless(t *testing.T) {
	flood := func(head, piece string) *rogue {
		piece = strings.Repeat(piece, 1000)
		return startRogue(t, func(_ int, _ *http.Request, w net.Conn) {
			_, err := io.WriteString(w, head)
			for err == nil {
				_, err = io.WriteString(w, piece)
			}
		})
	}
	within(t, 20*time.Second, func() {
		if _, _, err := flood("HTTP/1.1 200 OK\r\n", "X-More: headers\r\n").source(t).Open(t.Context(), anyBlob, 0, -1); err == nil {
			t.Error("Open() of endless headers = nil; want an error")
		}
		if _, _, err := flood("", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n").source(t).Open(t.Context(), anyBlob, 0, -1); err == nil {
			t.Error("Open() of endless hints = nil; want an error")
		}
		if _, _, err := flood("HTTP/1.1 404 Not Found\r\n\r\n", "no ").source(t).Open(t.Context(), anyBlob, 0, -1); !errors.Is(err, ErrNotFound) || len(err.Error()) > 2*httpSaid {
			t.Errorf("Open() of an endless 404 = %v; want %v", err, ErrNotFound)
		}
		if _, _, err := flood("HTTP/1.1 200 OK\r\n\r\n", "x").source(t).Open(t.Context(), anyBlob, 1, 10); !errors.Is(err, ErrNoRange) {
			t.Errorf("Open(1, 10) of an endless 200 = %v; want %v", err, ErrNoRange)
		}
		for name, s := range map[string]*rogue{
			"200":          flood("HTTP/1.1 200 OK\r\n\r\n", "x"),
			"200, chunked": flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
			"206":          flood("HTTP/1.1 206 OK\r\nContent-Range: bytes 0-9/10\r\n\r\n", "x"),
		} {
			body, _, err := s.source(t).Open(t.Context(), anyBlob, 0, 10)
			if err != nil {
				t.Fatalf("Open() of an endless %s = %v; want a reader", name, err)
			}
			if got, err := io.ReadAll(body); string(got) != "xxxxxxxxxx" || err != nil {
				t.Errorf("Open(0, 10) of an endless %s: %d bytes, %v; want 10", name, len(got), err)
			}
			wantCloseTwice(t, body)
		}
	})
}

// The server goes silent, before its answer and in it.
func TestHTTPSilence(t *testing.T) {
	for name, answer := range map[string]string{
		"at once":       "",
		"in the head":   "HTTP/1.1 200 OK\r\nContent-Le",
		"in the body":   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123",
		"in a 206":      "HTTP/1.1 206 OK\r\nContent-Range: bytes 0-99/100\r\n\r\n0123",
		"in an error":   "HTTP/1.1 503 X\r\nContent-Length: 100\r\n\r\n0123",
		"after nothing": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			told := make(chan struct{}, 10)
			s := startRogue(t, func(_ int, _ *http.Request, w net.Conn) {
				_, _ = io.WriteString(w, answer)
				told <- struct{}{}
				_, _ = w.Read(make([]byte, 1)) // until the other side, or the test, ends
			})
			src := s.source(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				body, _, err := src.Open(ctx, anyBlob, 0, 100)
				if err == nil {
					_, err = io.ReadAll(body)
					err = errors.Join(err, body.Close())
				}
				ended <- err
			}()
			<-told
			cancel()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) && name != "in an error" || err == nil {
					t.Errorf("a cancel in the silence: %v; want %v", err, context.Canceled)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("still reading 5 s after the cancel")
			}
		})
	}
}
