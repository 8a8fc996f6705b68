package fetch

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestHTTPRedirects(t *testing.T) {
	to := func(url string) string {
		return fmt.Sprintf("HTTP/1.1 307 Temporary Redirect\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", url)
	}
	hops := func(n int) *rogue {
		return startRogue(t, func(i int, _ *http.Request, w net.Conn) {
			if i == n {
				_, _ = io.WriteString(w, "HTTP/1.1 206 OK\r\nContent-Range: bytes 1-1/3\r\n\r\n1")
				return
			}
			_, _ = io.WriteString(w, to(fmt.Sprintf("/hop%d?signature=%s", i, testSecret)))
		})
	}
	login := Net{
		Login: func(string) (string, string, bool) { return "operator", testSecret, true },
		Names: map[string][]netip.Addr{"a.example": {netip.MustParseAddr("127.0.0.1")}, "b.a.example": {netip.MustParseAddr("127.0.0.1")}},
	}
	t.Run("five", func(t *testing.T) {
		s := hops(5)
		wantPart(t, dialWeb(t, Place{URL: "http://" + s.address}, login), anyBlob, []byte("012"), 1, 1)
		for i, r := range s.requests() {
			if _, password, _ := r.BasicAuth(); password != testSecret || r.Header.Get("Range") != "bytes=1-1" || r.Header.Get("Referer") != "" {
				t.Errorf("request %d = %v; want the login, the range and no referer", i, r.Header)
			}
		}
	})
	t.Run("without end", func(t *testing.T) {
		s := hops(1000)
		_, _, err := dialWeb(t, Place{URL: "http://" + s.address}, login).Open(t.Context(), anyBlob, 1, 1)
		if err == nil || !strings.HasSuffix(err.Error(), "more than 5 redirects") || strings.Contains(err.Error(), testSecret) {
			t.Errorf("Open() = %v; want: more than 5 redirects", err)
		}
		if n := len(s.requests()); n != 6 {
			t.Errorf("requests = %d; want 6", n)
		}
	})
	t.Run("login stays at home", func(t *testing.T) {
		// From a name to its other port, to a name below it, and back.
		other := startRogue(t, func(i int, r *http.Request, w net.Conn) {
			_, home, _ := strings.Cut(r.URL.RawQuery, "=")
			if i == 0 {
				_, _ = io.WriteString(w, to("http://b."+r.Host+"/x?home="+home))
				return
			}
			_, _ = io.WriteString(w, to("http://"+home+"/back"))
		})
		home := startRogue(t, func(_ int, r *http.Request, w net.Conn) {
			if r.URL.Path == "/back" {
				_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
				return
			}
			_, _ = io.WriteString(w, to("http://a.example"+other.address[len("127.0.0.1"):]+"/x?home="+r.Host))
		})
		port := home.address[len("127.0.0.1"):]
		wantPart(t, dialWeb(t, Place{URL: "http://a.example" + port}, login), anyBlob, []byte("x"), 0, -1)
		for _, r := range home.requests() {
			if _, _, ok := r.BasicAuth(); !ok && r.URL.Path != "/back" {
				t.Errorf("%s at home: no login; want it", r.URL)
			}
		}
		asked := other.requests()
		if len(asked) != 2 {
			t.Fatalf("requests elsewhere = %d; want 2", len(asked))
		}
		for _, r := range asked {
			if r.Header.Get("Authorization") != "" || r.Header.Get("Referer") != "" {
				t.Errorf("%s of %s with %v; want neither login nor referer", r.URL, r.Host, r.Header)
			}
		}
	})
	t.Run("to a home page", func(t *testing.T) {
		page := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome")
		for _, slash := range []string{"", "/"} {
			_, _, err := says(t, to("http://"+page.address+slash)).source(t).Open(t.Context(), anyBlob, 0, -1)
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("Open() = %v; want %v", err, ErrNotFound)
			}
		}
	})
	t.Run("from TLS to none", func(t *testing.T) {
		plain := says(t, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
		url, pin := startServe(t, http.RedirectHandler("http://"+plain.address+"/x?signature="+testSecret, http.StatusFound))
		src := dialWeb(t, Place{URL: url, Pins: []digest.Digest{pin}}, login)
		_, _, err := src.Open(t.Context(), anyBlob, 0, -1)
		if err == nil || !strings.HasSuffix(err.Error(), "refusing a redirect from https to http://"+plain.address) {
			t.Errorf("Open() = %v; want that the redirect is refused", err)
		}
		if n := len(plain.requests()); n != 0 {
			t.Errorf("requests without TLS = %d; want none", n)
		}
	})
}
