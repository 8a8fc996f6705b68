package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// nginxAt runs a real server with one server block on a new port.
func nginxAt(t testing.TB, options, block string) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for name, content := range map[string]string{"a.txt": "content of a\n", "v2/list": "[]\n", "v2/deep/x": "deep\n", "secret/key": "hidden\n"} {
		p := filepath.Join(dir, "www", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 64; }
http {
	access_log %[1]s/access.log;
	client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	server { listen %[2]s %[3]s; root %[1]s/www; %[4]s }
}`, dir, addr, options, block)
	if err := os.WriteFile(dir+"/conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nginx", "-p", dir, "-c", dir+"/conf")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("nginx did not start: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// requestLog is an upstream that takes requests apart by itself and counts them.
type requestLog struct {
	mu   sync.Mutex
	seen []string
}

func (l *requestLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.seen...)
}

func upstreamHTTP(t testing.TB) (string, *requestLog) {
	t.Helper()
	log := &requestLog{}
	addr := serveTCP(t, func(ctx context.Context, l net.Listener) error {
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			log.mu.Lock()
			log.seen = append(log.seen, fmt.Sprintf("%s %s %s %s %q", r.Method, r.Host, r.RequestURI, r.Header.Get("X-Test"), b))
			log.mu.Unlock()
			if r.URL.Path == "/stream" {
				for i := range 3 {
					fmt.Fprintf(w, "part %d\n", i)
					w.(http.Flusher).Flush()
				}
				return
			}
			fmt.Fprintf(w, "%s %d\n", r.RequestURI, len(b))
		})}
		stop := context.AfterFunc(ctx, func() { s.Close() })
		defer stop()
		if err := s.Serve(l); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	return addr, log
}

// curl runs the real one against the rig, for a URL of the original host.
func (r *rig) curl(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "curl", append([]string{
		"-sS", "-q", "--noproxy", "*", "--path-as-is", "-w", "[%{http_code} %{num_connects}]", "--connect-to", "::" + r.addr,
	}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

func wantText(t testing.TB, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s = %q; want it to hold %q", what, got, want)
	}
}

func TestHTTPNginx(t *testing.T) {
	server := nginxAt(t, "", "location /secret/ { } dav_methods PUT DELETE; ")
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example;GET,HEAD;/v2/*;/a.txt,name=store:read")
	url := "http://store.example"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{url + "/a.txt"}, "content of a\n[200 1]"},
		{[]string{url + "/v2/list", url + "/v2/deep/x", url + "/a.txt?q=1"}, "[]\n[200 1]deep\n[200 0]content of a\n[200 0]"},
		{[]string{"-I", url + "/v2/list"}, "Content-Length: 3\r\n"},
		{[]string{"-0", url + "/v2/list"}, "[]\n[200 1]"},
		{[]string{url + "/secret/key"}, "store:read does not let this pass: path /secret/key is not under /v2/* /a.txt\n[403 1]"},
		{[]string{"-X", "DELETE", url + "/v2/list"}, "method DELETE is not among GET,HEAD\n[403 1]"},
		{[]string{"-d", "x=1", url + "/v2/list"}, "method POST is not among GET,HEAD\n[403 1]"},
		{[]string{url + "/v2/../secret/key"}, "[403 1]"},
		{[]string{url + "/v2/%2e%2e/secret/key"}, "[403 1]"},
		{[]string{url + "/v2/..%2fsecret/key"}, "[403 1]"},
		{[]string{url + "/v2//..//secret/key"}, "[403 1]"},
		{[]string{url + "/v2%2flist"}, "[403 1]"}, // some servers see no slash there
		{[]string{url + "/v2/%252e%252e/secret/key"}, "encoded twice\n[400 1]"},
		{[]string{url + "/v2/..;/secret/key"}, "[400 1]"},
		{[]string{url + "/v2/..%5csecret"}, "[400 1]"},
		{[]string{url + "/secret/..%2fv2/list"}, "[]\n[200 1]"}, // and nginx gets /v2/list
		{[]string{url + "/v2/deep/../list"}, "[]\n[200 1]"},
		{[]string{"-H", "X-HTTP-Method-Override: DELETE", url + "/v2/list"}, "X-Http-Method-Override asks the server for another request"},
		{[]string{"-H", "X-Original-URL: /secret/key", url + "/v2/list"}, "[403 1]"},
		{[]string{"-H", "Host: other.example", url + "/a.txt"}, `host "other.example" is not http://store.example`},
		{[]string{"--http2", url + "/a.txt"}, "content of a\n[200 1]"}, // the offer is passed over
		{[]string{"-H", "Connection: Upgrade", "-H", "Upgrade: websocket", url + "/a.txt"}, "an upgrade to \"websocket\""},
		{[]string{"-H", "Host: STORE.example:80", url + "/a.txt"}, "content of a\n[200 1]"},
		{[]string{"-H", "Host: store.example:81", url + "/a.txt"}, "[403 1]"},
		{[]string{"--request-target", "http://store.example/a.txt", url}, "content of a\n[200 1]"},
		{[]string{"--request-target", "http://other.example/a.txt", url}, "[403 1]"},
		{[]string{"--request-target", "*", "-X", "OPTIONS", url}, "[400 1]"},
	} {
		wantText(t, "curl "+strings.Join(c.args, " "), r.curl(t, c.args...), c.want)
	}
	wantText(t, "CONNECT", raw(t, r, "CONNECT store.example:80 HTTP/1.1\r\nHost: store.example\r\n\r\n"), "403 Forbidden")
	r.curl(t, url+"/"+strings.Repeat("long/", 2000))
	wantAttempt(t, r.record, "http", ("GET http://store.example/" + strings.Repeat("long/", 2000))[:maxRecorded]+"...", Blocked, whatever)
	a := wantAttempt(t, r.record, "http", "DELETE http://store.example/v2/list", Blocked, whatever)
	if a.Outcome != Denied || a.Capability != "store:read" || !strings.HasPrefix(a.Detail, "method DELETE") {
		t.Errorf("record = %+v; want denied under store:read with the reason", a)
	}
	if a := wantAttempt(t, r.record, "http", "GET http://store.example/a.txt", Allowed, whatever); a.Outcome != Answered {
		t.Errorf("record = %+v; want answered", a)
	}
}

// raw sends bytes and returns what comes back until the end.
func raw(t testing.TB, r *rig, s string) string {
	t.Helper()
	c := dial(t, r.addr)
	send(t, c, s)
	_ = c.CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestHTTPBodies(t *testing.T) {
	server, log := upstreamHTTP(t)
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example")
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "http://store.example"
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-T", big, url + "/put"}, "/put 3145728\n[200 1]"}, // with Expect: 100-continue
		{[]string{"-H", "Transfer-Encoding: chunked", "-T", big, url + "/put"}, "/put 3145728\n[200 1]"},
		{[]string{"-d", "abc", url + "/1", url + "/2"}, "/1 3\n[200 1]/2 3\n[200 0]"},
		{[]string{url + "/stream"}, "part 0\npart 1\npart 2\n[200 1]"},
		{[]string{"-0", url + "/stream"}, "part 0\npart 1\npart 2\n[200 1]"},
		{[]string{url + "/a%2Fb;c=1?x=%20y"}, "/a%2Fb;c=1?x=%20y 0\n"}, // as it came
	} {
		wantText(t, "curl "+strings.Join(c.args, " "), r.curl(t, c.args...), c.want)
	}
	got := raw(t, r, "POST /p HTTP/1.1\r\nHost: store.example\r\nX-Test: yes\r\nConnection: X-Gone\r\nX-Gone: 1\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\nGET /next HTTP/1.1\r\nHost: store.example\r\nConnection: close\r\n\r\n")
	wantText(t, "pipelined", got, "/p 5\n")
	wantText(t, "pipelined", got, "/next 0\n")
	if s := strings.Join(log.all(), "\n"); !strings.Contains(s, `POST store.example /p yes "abcde"`) {
		t.Errorf("upstream saw %s; want the chunks put together", s)
	}
}

// What could be read in two ways never reaches the server.
func TestHTTPSmuggling(t *testing.T) {
	server, log := upstreamHTTP(t)
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example;GET,POST;/ok")
	const host = "Host: store.example\r\n"
	smuggled := "GET /bad HTTP/1.1\r\n" + host + "\r\n"
	for name, in := range map[string]string{
		"both lengths":          "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
		"two lengths":           "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled,
		"same length twice":     "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"list of lengths":       "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 0, 0\r\n\r\n",
		"signed length":         "POST /ok HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc",
		"hex length":            "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 0x3\r\n\r\nabc",
		"huge length":           "POST /ok HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\nabc",
		"folded line":           "GET /ok HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n",
		"folded first":          "GET /ok HTTP/1.1\r\n " + host + "\r\n",
		"space before colon":    "POST /ok HTTP/1.1\r\n" + host + "Content-Length : 3\r\n\r\nabc",
		"bare line feed":        "GET /ok HTTP/1.1\n" + host + "\r\n",
		"bare line feed header": "GET /ok HTTP/1.1\r\n" + host + "X: a\nTransfer-Encoding: chunked\r\n\r\n",
		"bare carriage return":  "GET /ok HTTP/1.1\r\n" + host + "X: a\rY: b\r\n\r\n",
		"zero byte":             "GET /ok HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n",
		"odd coding":            "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"two codings":           "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"coding twice":          "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"coding in 1.0":         "POST /ok HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"underscore":            "POST /ok HTTP/1.1\r\n" + host + "Content_Length: 5\r\nContent-Length: 0\r\n\r\n",
		"coding with tab":       "POST /ok HTTP/1.1\r\n" + host + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
		"two hosts":             "GET /ok HTTP/1.1\r\n" + host + "Host: other.example\r\n\r\n",
		"no host":               "GET /ok HTTP/1.1\r\n\r\n",
		"other host":            "GET /ok HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"host with user":        "GET /ok HTTP/1.1\r\nHost: x@store.example\r\n\r\n",
		"other absolute target": "GET http://other.example/ok HTTP/1.1\r\n" + host + "\r\n",
		"https absolute target": "GET https://store.example/ok HTTP/1.1\r\n" + host + "\r\n",
		"target without slash":  "GET ok HTTP/1.1\r\n" + host + "\r\n",
		"words":                 "GET /ok /bad HTTP/1.1\r\n" + host + "\r\n",
		"tab in request line":   "GET\t/ok\tHTTP/1.1\r\n" + host + "\r\n",
		"version":               "GET /ok HTTP/1.2\r\n" + host + "\r\n",
		"http/2":                "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"http/0.9":              "GET /ok\r\n",
		"empty line first":      "\r\nGET /ok HTTP/1.1\r\n" + host + "\r\n",
		"long line":             "GET /ok HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 20<<10) + "\r\n\r\n",
		"long head":             "GET /ok HTTP/1.1\r\n" + host + strings.Repeat("X: "+strings.Repeat("a", 8<<10)+"\r\n", 10) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			got := raw(t, r, in)
			if !strings.HasPrefix(got, "HTTP/1.1 40") || strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("answer = %q; want one that begins with 400 or 403", got)
			}
			if s := log.all(); len(s) != 0 {
				t.Errorf("the server saw %q; want nothing", s)
			}
		})
	}
	// A body that goes wrong later has begun to reach the server, but never ends
	// there, and nothing follows.
	for name, chunks := range map[string]string{
		"bad size":       "zz\r\nabc\r\n0\r\n\r\n",
		"0x size":        "0x3\r\nabc\r\n0\r\n\r\n",
		"signed size":    "+3\r\nabc\r\n0\r\n\r\n",
		"space in size":  "3 \r\nabc\r\n0\r\n\r\n",
		"extension":      "3;a=\"\n\"\r\nabc\r\n0\r\n\r\n",
		"bare line feed": "3\nabc\r\n0\r\n\r\n",
		"too long":       "3\r\nabcdef\r\n0\r\n\r\n",
		"huge":           "ffffffffffffffff\r\nabc\r\n0\r\n\r\n",
		"no end":         "3\r\nabc\r\n",
		"bad trailer":    "0\r\nX : y\r\n\r\n",
	} {
		t.Run("chunk "+name, func(t *testing.T) {
			got := raw(t, r, "POST /ok HTTP/1.1\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n"+chunks+smuggled)
			if strings.Contains(got, " 200 ") || strings.Count(got, "HTTP/1.1 ") > 1 {
				t.Errorf("answer = %q; want no success, and one answer at most", got)
			}
			for _, s := range log.all() {
				if strings.Contains(s, "/bad") {
					t.Errorf("the server saw %q; want no smuggled request", s)
				}
			}
		})
	}
	if got := raw(t, r, "POST /ok HTTP/1.1\r\n"+host+"Content-Length: 3\r\n\r\nabc"+smuggled); strings.Count(got, "HTTP/1.1 ") != 2 || !strings.Contains(got, "403 Forbidden") {
		t.Errorf("answer = %q; want the second request on the connection denied", got)
	}
}

func TestHTTPModes(t *testing.T) {
	server, log := upstreamHTTP(t)
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example;GET,name=read", "http:http://store.example;PUT,name=write,mode=wedge")
	c := dial(t, r.addr)
	br := bufio.NewReader(c)
	ask := func(method string) {
		send(t, c, method+" / HTTP/1.1\r\nHost: store.example\r\nContent-Length: 0\r\n\r\n")
	}
	answer := func() {
		t.Helper()
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 {
			t.Errorf("status = %d; want 200", resp.StatusCode)
		}
	}
	ask("GET")
	answer()
	ask("PUT")
	silent(t, c)
	if n := len(log.all()); n != 1 {
		t.Errorf("the server saw %d requests; want 1", n)
	}
	wantAttempt(t, r.record, "http", "PUT http://store.example/", Blocked, func(a Attempt) bool { return a.Capability == "write" && a.Outcome == Wedged })
	_ = r.SetMode("write", ModeAllow)
	answer()
	_ = r.SetMode("read", ModeDrop)
	_ = r.SetMode("write", ModeDrop)
	ask("GET")
	silent(t, c)
	fresh := dial(t, r.addr)
	send(t, fresh, "GET / HTTP/1.1\r\nHost: store.example\r\n\r\n")
	silent(t, fresh)
	_ = r.SetMode("read", ModeAllow)
	answer()
	expect(t, fresh, "HTTP/1.1 200 OK")
	_ = r.SetMode("read", ModeRefuse)
	_ = r.SetMode("write", ModeRefuse)
	if err := connectAndRead(r.addr); err == nil {
		t.Error("a new connection while it refuses: no error; want a reset")
	}
}

func TestHTTPUnreachable(t *testing.T) {
	r := newRig(t, "store.example:80", "127.0.0.1:1", nil, "http:http://store.example,name=it")
	wantText(t, "curl", r.curl(t, "http://store.example/"), "blackstart: it could not be reached")
	wantAttempt(t, r.record, "http", "GET http://store.example/", Allowed, func(a Attempt) bool { return a.Outcome == Broken })
}

// A server that answers before it has read the body leaves the rest of it on the
// connection: it must not become a request.
func TestHTTPEarlyAnswer(t *testing.T) {
	server := tcpServer(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		for {
			l, err := br.ReadString('\n')
			if err != nil {
				return
			}
			if l == "\r\n" {
				break
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		_, _ = io.Copy(io.Discard, br)
	})
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example")
	inner := "GET /inner HTTP/1.1\r\nHost: store.example\r\n\r\n"
	c := dial(t, r.addr)
	send(t, c, fmt.Sprintf("POST /outer HTTP/1.1\r\nHost: store.example\r\nContent-Length: %d\r\n\r\n", len(inner)+10))
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
		t.Errorf("body = %q, %v; want ok", b, err)
	}
	send(t, c, inner)
	_ = c.CloseWrite()
	if b, _ := io.ReadAll(br); len(b) != 0 {
		t.Errorf("then came %q; want the end", b)
	}
	for _, a := range r.record.Attempts() {
		if strings.Contains(a.Destination, "inner") || strings.HasPrefix(a.Destination, "?") {
			t.Errorf("record = %+v; want nothing that was read from the body", a)
		}
	}
}

// The reason reaches a client that was still sending.
func TestHTTPDeniedUpload(t *testing.T) {
	server, _ := upstreamHTTP(t)
	r := newRig(t, "store.example:80", server, nil, "http:http://store.example;GET")
	for range 5 {
		c := dial(t, r.addr)
		send(t, c, "POST / HTTP/1.1\r\nHost: store.example\r\nContent-Length: 200000\r\n\r\n"+strings.Repeat("x", 200000))
		time.Sleep(20 * time.Millisecond) // an answer lost to a reset is lost by now
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "method POST is not among GET") {
			t.Fatalf("ReadAll() = %q, %v; want the reason", b, err)
		}
	}
}
