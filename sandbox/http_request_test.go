package sandbox

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestNormalise(t *testing.T) {
	for in, want := range map[string]string{
		"/v2/list":        "/v2/list /v2/list",
		"/v2/":            "/v2/ /v2/",
		"/":               "/ /",
		"/v2//x":          "/v2/x /v2/x",
		"/v2/./x":         "/v2/x /v2/x",
		"/v2/../x":        "/x /x",
		"/../../x":        "/x /x",
		"/v2/..":          "/ /",
		"/v2/x/..":        "/v2/ /v2/",
		"/v2/%2e%2E/x":    "/x /x",
		"/v2/..%2fx":      "/x /x",
		"/v2/a%2Fb":       "/v2/a/b /v2/a%2Fb",
		"/v2/a%20b":       "/v2/a b /v2/a%20b",
		"/v2/a;v=1/b":     "/v2/a;v=1/b /v2/a;v=1/b",
		"/v2/%e4%f6":      "/v2/\xe4\xf6 /v2/%e4%f6",
		"/v2/%252e%252e/": "",
		"/v2/%252f":       "",
		"/v2/..;/x":       "",
		"/v2/.;a=b/x":     "",
		"/v2/%2e%2e;/x":   "",
		"/v2/;/x":         "",
		"/v2/\\x":         "",
		"/v2/%5c..%5cx":   "",
		"/v2/%c0%ae/":     "",
		"/v2/%00":         "",
		"/v2/%0d%0a":      "",
		"/v2/%":           "",
		"/v2/%zz":         "",
	} {
		s, err := normalise(in)
		got := s.path + " " + s.raw
		if err != nil {
			got = ""
		}
		if got != want {
			t.Errorf("normalise(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	if s, _ := normalise("/v2%2fx"); s.literal != "/v2%2Fx" {
		t.Errorf("literal = %q; want the encoded slash kept, so that /v2/* does not cover it", s.literal)
	}
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"/v2/list", "/v2/%2e%2e/secret", "/v2//..;/x", "/a%2fb", "/%c0%ae/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		s, err := normalise(in)
		if err != nil || !strings.HasPrefix(in, "/") {
			return
		}
		// What is sent on, read again, is the same path and holds no dots.
		sent, err := url.PathUnescape(s.raw)
		if err != nil || sent != s.path || clean(sent) != sent {
			t.Errorf("normalise(%q) sends %q, that is %q; want %q", in, s.raw, sent, s.path)
		}
		for segment := range strings.SplitSeq(s.path, "/") {
			if segment == ".." || segment == "." {
				t.Errorf("normalise(%q) = %q; want no dots", in, s.path)
			}
		}
		if path.Clean(s.path) != s.path && path.Clean(s.path)+"/" != s.path {
			t.Errorf("normalise(%q) = %q; want it clean", in, s.path)
		}
	})
}

// What the strict reader takes, net/http takes too and reads in the same way.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST http://a/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: a\r\nConnection: close, X\r\nX: 1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := bufio.NewReaderSize(strings.NewReader(string(b)), maxLine), bufio.NewReader(strings.NewReader(string(b)))
		for {
			r, err := readRequest(ours)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.body)
			if err != nil {
				return
			}
			if r.method == http.MethodConnect {
				return
			}
			std, err := http.ReadRequest(theirs)
			if err != nil {
				if strings.Contains(err.Error(), "malformed Host header") || strings.Contains(err.Error(), "parse ") {
					return // no capability has such a host; and targets are judged apart
				}
				t.Fatalf("net/http refuses %q: %v; want it to read what we do", b, err)
			}
			want, err := io.ReadAll(std.Body)
			if err != nil || string(want) != string(body) || std.Method != r.method || (std.Host != r.host && r.origin == "") {
				t.Fatalf("of %q: %s %s %q, net/http %s %s %q %v", b, r.method, r.host, body, std.Method, std.Host, want, err)
			}
		}
	})
}
