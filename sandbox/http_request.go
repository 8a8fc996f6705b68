package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// errBadRequest is wrapped by the errors of a request that is not exactly
// HTTP/1.1 (RFC 9112). Whatever two readers could read in two ways is refused.
var errBadRequest = errors.New("bad request")

const (
	maxLine    = 16 << 10 // bytes of one line of a head
	maxHead    = 64 << 10
	maxHeaders = 200
)

// request is one HTTP/1.1 request as it came.
type request struct {
	method  string
	target  string // as it stood in the request line
	origin  string // scheme://authority of an absolute-form target; else empty
	path    string // still escaped
	query   string
	host    string // the Host header
	header  http.Header
	minor   int   // of the version: 0 or 1
	length  int64 // of the body; -1: chunked
	close   bool
	expects bool // 100-continue
	body    *body
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errBadRequest}, args...)...)
}

// readLine reads up to CRLF, which it takes off.
func readLine(br *bufio.Reader) (string, error) {
	l, err := br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", bad("a line longer than %d bytes", br.Size())
	case err != nil:
		if errors.Is(err, io.EOF) && len(l) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return "", err
	}
	l, ok := bytes.CutSuffix(l, []byte("\r\n"))
	if !ok {
		return "", bad("a line that ends without CRLF")
	}
	if i := bytes.IndexFunc(l, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f }); i >= 0 {
		return "", bad("a control character in a line")
	}
	return string(l), nil
}

// readRequest reads a head; br holds lines of at most maxLine. io.EOF means that
// the client has ended between two requests.
func readRequest(br *bufio.Reader) (*request, error) {
	line, err := readLine(br)
	if err != nil {
		return nil, err
	}
	parts := strings.Split(line, " ")
	if len(parts) != 3 {
		return nil, bad("a request line with %d words", len(parts))
	}
	r := &request{method: parts[0], target: parts[1], header: http.Header{}}
	switch parts[2] {
	case "HTTP/1.1":
		r.minor = 1
	case "HTTP/1.0":
		r.close = true
	default:
		return nil, bad("version %q", parts[2])
	}
	if !isToken(r.method) || len(r.method) > 32 {
		return nil, bad("method %q", r.method)
	}
	size := len(line)
	for {
		if line, err = readLine(br); err != nil {
			return nil, unexpected(err)
		}
		if line == "" {
			break
		}
		if size += len(line); size > maxHead || len(r.header) > maxHeaders {
			return nil, bad("a head longer than %d bytes or %d lines", maxHead, maxHeaders)
		}
		k, v, err := headerLine(line)
		if err != nil {
			return nil, err
		}
		r.header[k] = append(r.header[k], v)
	}
	if err := r.framing(); err != nil {
		return nil, err
	}
	if err := r.hopByHop(); err != nil {
		return nil, err
	}
	r.body = &body{br: br, left: r.length, chunked: r.length < 0}
	r.body.done.Store(r.length == 0)
	return r, r.split()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func headerLine(l string) (k, v string, err error) {
	if l[0] == ' ' || l[0] == '\t' {
		return "", "", bad("a folded header line")
	}
	name, v, ok := strings.Cut(l, ":")
	if !ok || !isToken(name) {
		return "", "", bad("header name %q", name)
	}
	k = textproto.CanonicalMIMEHeaderKey(name)
	if strings.Contains(name, "_") {
		switch textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-")) {
		case "Host", "Content-Length", "Transfer-Encoding", "X-Http-Method-Override", "X-Original-Url", "X-Rewrite-Url":
			return "", "", bad("header name %q", name)
		}
	}
	return k, strings.Trim(v, " \t"), nil
}

// isToken is RFC 9110, 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// framing finds the host and the body's length, and takes their headers out.
func (r *request) framing() error {
	for _, k := range []string{"Host", "Content-Length", "Transfer-Encoding", "Expect"} {
		if len(r.header[k]) > 1 {
			return bad("%d %s headers", len(r.header[k]), k)
		}
	}
	if len(r.header["Host"]) == 0 {
		return bad("no Host header")
	}
	r.host = r.header.Get("Host")
	length, hasLength := r.header["Content-Length"]
	coding, hasCoding := r.header["Transfer-Encoding"]
	switch {
	case hasLength && hasCoding:
		return bad("both Content-Length and Transfer-Encoding")
	case hasCoding && r.minor == 0:
		return bad("Transfer-Encoding in HTTP/1.0")
	case hasCoding && !strings.EqualFold(coding[0], "chunked"):
		return bad("transfer coding %q", coding[0])
	case hasCoding:
		r.length = -1
	case hasLength:
		n, err := strconv.ParseUint(length[0], 10, 62)
		if err != nil || strings.Trim(length[0], "0123456789") != "" {
			return bad("Content-Length %q", length[0])
		}
		r.length = int64(n)
	}
	if e := r.header.Get("Expect"); e != "" {
		if !strings.EqualFold(e, "100-continue") {
			return bad("Expect %q", e)
		}
		r.expects = r.minor == 1
	}
	for _, k := range []string{"Host", "Content-Length", "Transfer-Encoding", "Expect"} {
		delete(r.header, k)
	}
	return nil
}

// hopByHop takes out what is meant for this hop (RFC 9110, 7.6.1). An offer of
// HTTP/2 may be passed over in silence; any other protocol is refused later.
func (r *request) hopByHop() error {
	for _, l := range r.header["Connection"] {
		for k := range strings.SplitSeq(l, ",") {
			if k = strings.Trim(k, " \t"); k == "" {
				continue
			}
			if !isToken(k) {
				return bad("Connection %q", k)
			}
			r.close = r.close || strings.EqualFold(k, "close")
			if !strings.EqualFold(k, "upgrade") {
				r.header.Del(k)
			}
		}
	}
	for _, k := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Te", "Trailer", "Http2-Settings"} {
		delete(r.header, k)
	}
	if u := r.header["Upgrade"]; len(u) == 1 && strings.EqualFold(u[0], "h2c") {
		delete(r.header, "Upgrade")
	}
	return nil
}

// split reads the target: origin-form or absolute-form. CONNECT's is left alone.
func (r *request) split() error {
	if r.method == http.MethodConnect {
		return nil
	}
	t := r.target
	for i := range len(t) {
		if t[i] <= ' ' || t[i] >= 0x7f || strings.IndexByte(`"<>\#`, t[i]) >= 0 {
			return bad("a target with the character %q", t[i])
		}
	}
	if t[:min(1, len(t))] != "/" {
		scheme, rest, ok := strings.Cut(t, "://")
		if !ok {
			return bad("target %q", t)
		}
		i := strings.IndexAny(rest, "/?")
		if i < 0 {
			i = len(rest)
		}
		r.origin = strings.ToLower(scheme) + "://" + rest[:i]
		if t = rest[i:]; t == "" || t[0] == '?' {
			t = "/" + t
		}
	}
	r.path, r.query, _ = strings.Cut(t, "?")
	return nil
}

// seen is a request's path as a rule sees it.
type seen struct {
	path    string // decoded and clean: no empty segment, no dots
	literal string // the same with encoded slashes left alone, as some servers read it
	raw     string // what is sent on
}

// normalise decodes a path once and cleans it. A path that servers are known to
// read in several ways is refused.
func normalise(escaped string) (seen, error) {
	p, err := url.PathUnescape(escaped)
	if err != nil {
		return seen{}, bad("path %q", escaped)
	}
	for i := range len(p) {
		if p[i] < ' ' || p[i] == 0x7f || p[i] == '\\' {
			return seen{}, bad("a path with the character %q", p[i])
		}
	}
	for i := range len(p) - 1 {
		if p[i]&^1 == 0xc0 && p[i+1]&0xc0 == 0x80 {
			return seen{}, bad("a path with an overlong character") // a dot or slash, to lax decoders
		}
	}
	lower := strings.ToLower(p)
	for _, twice := range []string{"%2e", "%2f", "%5c", "%25", "%00"} {
		if strings.Contains(lower, twice) {
			return seen{}, bad("a path that is encoded twice")
		}
	}
	for segment := range strings.SplitSeq(p, "/") {
		// Servlet containers cut parameters off before they look for dots.
		if name, _, ok := strings.Cut(segment, ";"); ok && (name == "." || name == ".." || name == "") {
			return seen{}, bad("segment %q in a path", segment)
		}
	}
	s := seen{path: clean(p), raw: escaped}
	if s.path != p {
		s.raw = (&url.URL{Path: s.path}).EscapedPath()
	}
	literal := strings.NewReplacer("%2f", "%252F", "%2F", "%252F").Replace(s.raw)
	if s.literal, err = url.PathUnescape(literal); err != nil {
		return seen{}, bad("path %q", escaped)
	}
	return s, nil
}

// clean is path.Clean that keeps a slash at the end.
func clean(p string) string {
	c := path.Clean("/" + p)
	if c != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		c += "/"
	}
	return c
}
