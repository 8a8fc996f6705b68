package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxManifest  = 4 << 20 // in bytes: what any registry has to take
	maxComplaint = 8 << 10 // of an answer that says what is wrong, in bytes
)

// ociSource is a repository of a registry (OCI Distribution Specification 1.1).
type ociSource struct {
	text   string   // its URL
	base   *url.URL // of the registry: scheme and host
	repo   string
	client *http.Client
	auth   *ociAuth
}

// Made when they are first needed: their bounded repeats are large programs, and
// every command of the program would wait for them.
var (
	// ociRepo is the specification's <name>.
	ociRepo = lazily(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	// ociTag is the specification's <reference> where it is a tag.
	ociTag = lazily(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

// ociManifests are the types of what is kept below /manifests/. A registry may hide
// one that is not accepted by name.
var ociManifests = strings.Join([]string{
	ocispec.MediaTypeImageManifest,
	ocispec.MediaTypeImageIndex,
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"*/*",
}, ", ")

// newOCI makes a source of oci://HOST[:PORT]/REPO or oci+http://….
func newOCI(u *url.URL, p Place, n Net) (Source, error) {
	repo := strings.TrimPrefix(u.Path, "/")
	if u.User != nil {
		return nil, fmt.Errorf("%w: %s: a login does not belong in a URL", ErrPlace, u.Redacted())
	}
	if u.Hostname() == "" || len(repo) > 255 || !ociRepo().MatchString(repo) || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %s: want %s://HOST[:PORT]/REPO", ErrPlace, u, u.Scheme)
	}
	client, err := n.client(p)
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = ociRedirect
	base := &url.URL{Scheme: "https", Host: u.Host}
	if u.Scheme == "oci+http" {
		base.Scheme = "http"
	}
	return &ociSource{
		text: u.String(), base: base, repo: repo, client: client,
		auth: &ociAuth{client: client, net: n, registry: base, repo: repo, turn: make(chan struct{}, 1)},
	}, nil
}

func (s *ociSource) String() string { return s.text }

func (s *ociSource) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// Open reads a blob. A manifest is content like any other here, but registries
// keep those apart: it is looked for where there is no such blob.
func (s *ociSource) Open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	if n == 0 { // no range says that
		size, err := s.Stat(ctx, blob)
		return http.NoBody, size, err
	}
	body, total, err := s.open(ctx, blob, offset, n)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %.80s: %w", blob, err)
	}
	return body, total, nil
}

func (s *ociSource) open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	req, err := s.request(ctx, http.MethodGet, "blobs", blob)
	if err != nil {
		return nil, 0, err
	}
	if r := httpRange(offset, n); r != "" {
		req.Header.Set("Range", r)
	}
	resp, err := s.do(req, false)
	if err != nil {
		return nil, 0, err
	}
	if resp.StatusCode != http.StatusNotFound {
		return answered(ctx, resp, offset, n, ociComplaint)
	}
	_ = resp.Body.Close()
	raw, _, err := s.manifest(ctx, blob.String())
	if err != nil {
		return nil, 0, err
	}
	total := int64(len(raw))
	from := min(offset, total)
	to := total
	if n >= 0 {
		to = min(from+n, total)
	}
	return io.NopCloser(bytes.NewReader(raw[from:to])), total, nil
}

func (s *ociSource) Stat(ctx context.Context, blob digest.Digest) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, kind := range []string{"blobs", "manifests"} {
		req, err := s.request(ctx, http.MethodHead, kind, blob)
		if err != nil {
			return 0, fmt.Errorf("looking for %.80s: %w", blob, err)
		}
		resp, err := s.do(req, false)
		if err != nil {
			return 0, fmt.Errorf("looking for %.80s: %w", blob, err)
		}
		_ = resp.Body.Close() // there is none
		switch resp.StatusCode {
		case http.StatusOK:
			return resp.ContentLength, nil
		case http.StatusNotFound:
		default:
			return 0, fmt.Errorf("looking for %.80s: %w", blob, ociComplaint(resp))
		}
	}
	return 0, fmt.Errorf("looking for %.80s: %w", blob, ErrNotFound)
}

// manifest reads one by its tag or digest.
func (s *ociSource) manifest(ctx context.Context, ref string) (raw []byte, mediaType string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url("manifests/"+ref).String(), nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", ociManifests)
	resp, err := s.do(req, false)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }() // what was read is what counts
	if resp.StatusCode != http.StatusOK {
		return nil, "", ociComplaint(resp)
	}
	raw, err = readBounded(resp.Body, maxManifest)
	if err != nil {
		return nil, "", fmt.Errorf("reading manifest %s: %w", ref, err)
	}
	mediaType, _, err = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		mediaType = "" // unsaid; a manifest says it too, mostly
	}
	return raw, mediaType, nil
}

func (s *ociSource) url(rest string) *url.URL {
	u := *s.base
	u.Path = "/v2/" + s.repo + "/" + rest
	return &u
}

func (s *ociSource) request(ctx context.Context, method, kind string, blob digest.Digest) (*http.Request, error) {
	if _, err := blobName(blob); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url(kind+"/"+blob.String()).String(), nil)
	if err != nil {
		return nil, err
	}
	if kind == "manifests" {
		req.Header.Set("Accept", ociManifests)
	}
	return req, nil
}

// do sends a request, and once again where the registry wants to know from whom.
// push: it changes something.
func (s *ociSource) do(req *http.Request, push bool) (*http.Response, error) {
	if origin(req.URL) != origin(s.base) {
		return ask(s.client, req) // an upload's place, which is none of the registry's
	}
	shown := s.auth.current(push)
	if shown != "" {
		req.Header.Set("Authorization", shown)
	}
	resp, err := ask(s.client, req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized || origin(resp.Request.URL) != origin(s.base) {
		return resp, err
	}
	header, err := s.auth.renew(req.Context(), resp, shown, push)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	again.Header.Set("Authorization", header)
	return ask(s.client, again)
}

// ask sends a request. Its errors do not show the URL: one that a registry
// redirects to may carry a signature, which opens what it leads to.
func ask(c *http.Client, req *http.Request) (*http.Response, error) {
	resp, err := c.Do(req)
	var u *url.Error
	if errors.As(err, &u) {
		return nil, fmt.Errorf("asking %s: %w", req.URL.Host, u.Err)
	}
	return resp, err
}

// ociRedirect lets a registry say that another host has the blob, and does not
// show that host who asks.
func ociRedirect(req *http.Request, via []*http.Request) error {
	first, last := via[0], via[len(via)-1]
	switch {
	case first.Method != http.MethodGet && first.Method != http.MethodHead:
		return http.ErrUseLastResponse // what is sent goes where it was meant to
	case len(via) > httpRedirects:
		return fmt.Errorf("more than %d redirects", httpRedirects)
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("%s redirects from https to %s", last.URL.Host, req.URL.Scheme)
	}
	// net/http would go by the name alone: another port of the host, and what is
	// below its name, would see it.
	if origin(req.URL) != origin(first.URL) {
		req.Header.Del("Authorization")
	}
	return nil
}

// ociComplaint makes an error of an answer that is none of those that were wanted.
func ociComplaint(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxComplaint)) // as far as it goes
	var said struct {
		Errors []struct{ Code, Message string }
	}
	text := status(resp)
	if json.Unmarshal(raw, &said) == nil && len(said.Errors) > 0 {
		text = fmt.Sprintf("%s: %.100q: %.200q", text, said.Errors[0].Code, said.Errors[0].Message)
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: the registry says %s", ErrNotFound, text)
	}
	return fmt.Errorf("the registry says %s", text)
}

// answered takes the part that was asked for out of an answer.
func answered(ctx context.Context, resp *http.Response, offset, n int64, complain func(*http.Response) error) (io.ReadCloser, int64, error) {
	var left, total int64
	var err error
	switch {
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent:
		err = complain(resp)
	case resp.Header.Get("Content-Encoding") != "":
		err = fmt.Errorf("the server encodes the content as %.80q", resp.Header.Get("Content-Encoding"))
	default:
		left, total, err = promised(resp, offset, n)
	}
	if err != nil {
		_ = resp.Body.Close() // it is not wanted
		return nil, 0, err
	}
	body := &part{r: &contextReader{ctx, resp.Body}, c: resp.Body, left: left, exact: true}
	if left < 0 {
		body.left, body.exact = n, false
		if n < 0 {
			body.left = math.MaxInt64
		}
	}
	return body, total, nil
}

// status is the code of an answer and its usual meaning; the server's own words
// may hold anything.
func status(resp *http.Response) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
}

// readBounded reads to the end, which must come within so many bytes.
func readBounded(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	return raw, err
}
