package container

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseProbe(t *testing.T) {
	for _, c := range []struct{ text, port string }{
		{"http://127.0.0.1:2379/health", "127.0.0.1:2379/tcp"},
		{"http://localhost:2379/health?serializable=true", "127.0.0.1:2379/tcp"},
		{"https://[::1]/x", "[::1]:443/tcp"},
		{"http://10.0.0.1", "10.0.0.1:80/tcp"},
		{"tcp://[fe80::1%25eth0]:22", "[fe80::1%eth0]:22/tcp"},
		{"unix:///run/x.sock", ""},
		{"exec:etcdctl endpoint health", ""},
	} {
		p, err := ParseProbe(c.text)
		if err != nil || p.String() != c.text {
			t.Errorf("ParseProbe(%q) = %q, %v; want the same text", c.text, p, err)
		}
		port, ok := p.Port()
		if ok != (c.port != "") || (ok && port.String() != c.port) {
			t.Errorf("ParseProbe(%q).Port() = %v, %v; want %q", c.text, port, ok, c.port)
		}
	}
	for text, want := range map[string]string{
		"http://example.org/":        "give an IP",
		"http:///x":                  "give an IP",
		"tcp://etcd:2379":            "give an IP",
		"tcp://127.0.0.1":            "port",
		"tcp://127.0.0.1:0":          "port",
		"tcp://127.0.0.1:65536":      "port",
		"tcp://127.0.0.1:1/x":        "path",
		"unix:run/x":                 "absolute",
		"unix://run/x":               "absolute",
		"exec:  ":                    "command is missing",
		"http://u:p@127.0.0.1/":      "credentials",
		"http://127.0.0.1/\x00":      "printable",
		"http://127.0.0.1/\n":        "printable",
		"http://127.0.0.1:x/":        "not a URL",
		"ftp://127.0.0.1/":           "want http://",
		"":                           "want http://",
		"127.0.0.1:80":               "not a URL",
		strings.Repeat("exec:", 1e4): "at most",
	} {
		if _, err := ParseProbe(text); !errors.Is(err, ErrBadProbe) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseProbe(%.40q) = %v; want ErrBadProbe with %q", text, err, want)
		}
	}
}

func TestProbeHTTP(t *testing.T) {
	var hits []string
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) { hits = append(hits, r.Host+" "+r.Proto) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/bad", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte("no\x1b[31m leader\n" + strings.Repeat("x", 1<<20)))
	})
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	defer plain.Close()
	defer secure.Close()

	for _, c := range []struct{ url, want string }{
		{plain.URL + "/ok", ""},
		{secure.URL + "/ok", ""},
		{plain.URL + "/moved", ""},
		{strings.Replace(plain.URL, "127.0.0.1", "localhost", 1) + "/ok", ""},
		{plain.URL + "/bad", "status 503: no?[31m leader xxx"},
		{plain.URL + "/none", "status 404: 404 page not found"},
		{plain.URL + "/hang", "deadline exceeded"},
		{strings.Replace(secure.URL, "https", "http", 1) + "/ok", "status 400"},
		{"http://" + closedPort(t) + "/", "connection refused"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		err := check(t, ctx, c.url, nil)
		cancel()
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("Check(%s) = %v; want %q", c.url, err, c.want)
		}
		if err != nil && len(err.Error()) > 2*probeBody {
			t.Errorf("Check(%s) gave %d bytes of error; want a bounded one", c.url, len(err.Error()))
		}
	}
	if want := strings.Replace(strings.TrimPrefix(plain.URL, "http://"), "127.0.0.1", "localhost", 1) + " HTTP/1.1"; hits[len(hits)-1] != want {
		t.Errorf("the server saw %q; want %q", hits[len(hits)-1], want)
	}
}

func TestProbeSockets(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "s")
	unixSocket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unixSocket.Close()
	for text, healthy := range map[string]bool{
		"tcp://" + tcp.Addr().String(): true,
		"tcp://" + closedPort(t):       false,
		"unix://" + path:               true,
		"unix://" + path + "-none":     false,
	} {
		if err := check(t, t.Context(), text, nil); (err == nil) != healthy {
			t.Errorf("Check(%s) = %v; want healthy=%v", text, err, healthy)
		}
	}
}

func TestProbeExec(t *testing.T) {
	gone := errors.New("container is gone")
	exec := func(ctx context.Context, command string) (int, string, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Errorf("exec was called without a deadline; want one of %v", probeTime)
		}
		switch command {
		case "true --now":
			return 0, "", nil
		case "false":
			return 3, "not\nready", nil
		}
		return 0, "", gone
	}
	if err := check(t, t.Context(), "exec: true --now", exec); err != nil {
		t.Errorf("Check(exec: true --now) = %v; want nil", err)
	}
	if err := check(t, t.Context(), "exec:false", exec); err == nil || !strings.HasSuffix(err.Error(), "exit status 3: not ready") {
		t.Errorf("Check(exec:false) = %v; want exit status 3: not ready", err)
	}
	if err := check(t, t.Context(), "exec:x", exec); !errors.Is(err, gone) {
		t.Errorf("Check(exec:x) = %v; want %v", err, gone)
	}
	if err := check(t, t.Context(), "exec:x", nil); err == nil {
		t.Error("Check(exec:x) without a container = nil; want an error")
	}
	if err := (Probe{}).Check(t.Context(), nil); !errors.Is(err, ErrBadProbe) {
		t.Errorf("Probe{}.Check() = %v; want ErrBadProbe", err)
	}
}

func check(t *testing.T, ctx context.Context, text string, exec func(context.Context, string) (int, string, error)) error {
	t.Helper()
	p, err := ParseProbe(text)
	if err != nil {
		t.Fatal(err)
	}
	return p.Check(ctx, exec)
}

// closedPort is an address of loopback where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func FuzzParseProbe(f *testing.F) {
	for _, s := range []string{"http://127.0.0.1:80/x?y", "https://[fe80::1%25e]:1", "tcp://1.2.3.4:5", "unix:///a/../b", "exec:a b", "http://[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProbe(s)
		if err != nil {
			if !errors.Is(err, ErrBadProbe) {
				t.Errorf("ParseProbe(%q) = %v; want ErrBadProbe", s, err)
			}
			return
		}
		if again, err := ParseProbe(p.String()); err != nil || again != p {
			t.Errorf("ParseProbe(%q) = %v, %v; want %v again", p.String(), again, err, p)
		}
	})
}
