package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

const (
	httpRedirects = 5
	httpSaid      = 1 << 10 // of an error's text that is read, in bytes
)

// httpSource is an OCI layout below a web server's URL, or what that URL itself
// gives.
type httpSource struct {
	client         *http.Client
	base           *url.URL
	text           string // the URL, without what may be secret
	user, password string
	auth           bool
	shape          atomic.Int32 // once it is known
}

// What is at the URL.
const (
	shapeUnknown int32 = iota
	shapeLayout
	shapeContent
)

// newHTTP makes a source of http://HOST/… or https://HOST/….
func newHTTP(u *url.URL, p Place, n Net) (Source, error) {
	if u.User != nil {
		return nil, fmt.Errorf("%w: %s: a login does not belong in a URL", ErrPlace, u.Redacted())
	}
	if u.Hostname() == "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %s: want %s://HOST/PATH", ErrPlace, u.Redacted(), u.Scheme)
	}
	c, err := n.client(p)
	if err != nil {
		return nil, err
	}
	shown := *u
	if shown.RawQuery != "" {
		shown.RawQuery = "..." // signed URLs have their secret there
	}
	s := &httpSource{client: c, base: u, text: shown.String()}
	s.user, s.password, s.auth = n.login(u.Host)
	c.CheckRedirect = s.redirect
	if u.Path == "" || strings.HasSuffix(u.Path, "/") {
		s.shape.Store(shapeLayout)
	}
	return s, nil
}

func (s *httpSource) String() string { return s.text }

func (s *httpSource) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

func (s *httpSource) Stat(ctx context.Context, blob digest.Digest) (int64, error) {
	res, err := s.ask(ctx, http.MethodHead, blob, "")
	if status := (*httpError)(nil); errors.As(err, &status) && (status.code == http.StatusMethodNotAllowed || status.code == http.StatusNotImplemented) {
		return s.statByGet(ctx, blob)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for %.80s: %w", blob, err)
	}
	return res.ContentLength, res.Body.Close()
}

// statByGet asks for the first byte, and does not read it.
func (s *httpSource) statByGet(ctx context.Context, blob digest.Digest) (int64, error) {
	body, total, err := s.Open(ctx, blob, 0, 1)
	if status := (*httpError)(nil); errors.As(err, &status) && status.contentRange == "bytes */0" {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return total, body.Close()
}

func (s *httpSource) Open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	if n == 0 { // no range says that
		size, err := s.Stat(ctx, blob)
		if err != nil {
			return nil, 0, err
		}
		return http.NoBody, size, nil
	}
	res, err := s.ask(ctx, http.MethodGet, blob, httpRange(offset, n))
	if err != nil {
		return nil, 0, fmt.Errorf("opening %.80s: %w", blob, err)
	}
	left, total, err := promised(res, offset, n)
	if err != nil {
		_ = res.Body.Close() // it is not wanted
		return nil, 0, fmt.Errorf("opening %s: %w", blob, err)
	}
	body := &part{r: &contextReader{ctx, res.Body}, c: res.Body, left: left, exact: true}
	if left < 0 {
		body.left, body.exact = n, false
		if n < 0 {
			body.left = math.MaxInt64
		}
	}
	return body, total, nil
}

// promised is how many bytes of what was asked for the answer will bring, and how
// many the blob has; -1 where it does not tell.
func promised(res *http.Response, offset, n int64) (left, total int64, err error) {
	if res.StatusCode == http.StatusOK {
		if offset > 0 {
			return 0, 0, ErrNoRange
		}
		if n >= 0 {
			return min(n, res.ContentLength), res.ContentLength, nil
		}
		return res.ContentLength, res.ContentLength, nil
	}
	text := strings.Join(res.Header.Values("Content-Range"), ", ")
	r, ok := parseContentRange(text)
	length := r.last - r.first + 1
	if !ok || !r.answers(offset, n) || res.ContentLength >= 0 && res.ContentLength != length {
		return 0, 0, fmt.Errorf("%w: it was asked for %s and gives %.80q, %d bytes", ErrNoRange, httpRange(offset, n), text, res.ContentLength)
	}
	return length, r.total, nil
}

// ask sends a request for a blob, and for what is at the URL itself where that is
// what works. It gives answers with status 200 and 206 only.
func (s *httpSource) ask(ctx context.Context, method string, blob digest.Digest, span string) (*http.Response, error) {
	if err := blob.Validate(); err != nil || blob.Algorithm() != digest.SHA256 {
		return nil, errors.New("not a sha256 digest")
	}
	shape := s.shape.Load()
	if shape != shapeContent {
		res, err := s.send(ctx, method, s.base.JoinPath("blobs", "sha256", blob.Encoded()), span)
		if err == nil {
			s.shape.CompareAndSwap(shapeUnknown, shapeLayout)
		}
		if shape == shapeLayout || !errors.Is(err, ErrNotFound) {
			return res, err
		}
	}
	res, err := s.send(ctx, method, s.base, span)
	if err == nil {
		s.shape.CompareAndSwap(shapeUnknown, shapeContent)
	}
	return res, err
}

func (s *httpSource) send(ctx context.Context, method string, u *url.URL, span string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "blackstart")
	req.Header.Set("Accept-Encoding", "identity")
	if span != "" {
		req.Header.Set("Range", span)
	}
	if s.auth {
		req.SetBasicAuth(s.user, s.password)
	}
	res, err := s.client.Do(req)
	if err != nil {
		// A URL that the server redirects to may be a signed one.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	if err := refusal(res); err != nil {
		_ = res.Body.Close() // it is not wanted
		return nil, err
	}
	return res, nil
}

// refusal is why an answer is none.
func refusal(res *http.Response) error {
	// Web servers redirect to a slash at the end where there is a directory, and may
	// show a page about it.
	path := res.Request.URL.Path
	dir := path == "" || strings.HasSuffix(path, "/")
	if !dir && (res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent) {
		for _, v := range res.Header.Values("Content-Encoding") {
			if !strings.EqualFold(v, "identity") {
				return fmt.Errorf("the server encodes the content as %.80q", v)
			}
		}
		return nil
	}
	e := &httpError{code: res.StatusCode, contentRange: res.Header.Get("Content-Range")}
	var said complaint
	_, _ = io.CopyN(&said, res.Body, httpSaid) // the status is what counts
	if !strings.HasPrefix(said.line(), "<") {  // a page for a browser
		e.said = said.line()
	}
	if dir || e.code == http.StatusNotFound || e.code == http.StatusGone {
		return fmt.Errorf("%w: %w", ErrNotFound, e)
	}
	return e
}

// httpError is an answer that gives no content.
type httpError struct {
	code         int
	contentRange string
	said         string
}

func (e *httpError) Error() string {
	s := fmt.Sprintf("the server answers %d %s", e.code, http.StatusText(e.code))
	if e.code == http.StatusRequestedRangeNotSatisfiable {
		s += fmt.Sprintf(": it has no bytes there, but %.80q", e.contentRange)
	}
	if e.said != "" {
		s += ": " + e.said
	}
	return s
}

// Is lets errBusy match where the server asks for a little time.
func (e *httpError) Is(target error) bool {
	return target == errBusy && (e.code == http.StatusServiceUnavailable || e.code == http.StatusTooManyRequests)
}

// redirect says which redirects are followed, and takes from the request what the
// other place should not see.
func (s *httpSource) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > httpRedirects {
		return fmt.Errorf("more than %d redirects", httpRedirects)
	}
	if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("refusing a redirect from https to %s://%.80s", req.URL.Scheme, req.URL.Host)
	}
	// net/http sends the login to other ports and to subdomains too.
	if origin(req.URL) != origin(s.base) {
		req.Header.Del("Authorization")
	}
	req.Header.Del("Referer") // with what is secret in the URL before
	return nil
}

// origin is what has to be the same (RFC 6454) for a login to be sent.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Scheme+"://"+u.Hostname()) + " " + port
}
