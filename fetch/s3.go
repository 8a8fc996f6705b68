package fetch

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// s3Source is an OCI layout in a bucket, below a prefix. The bucket is in the
// path, not in the name: names may be what is down.
type s3Source struct {
	text   string   // its URL
	base   *url.URL // scheme, host, and the bucket with the prefix as a path
	region string
	client *http.Client
	net    Net
}

var (
	s3Bucket = lazily(`^[a-zA-Z0-9][a-zA-Z0-9._-]{1,254}$`)
	s3Region = lazily(`^[a-zA-Z0-9-]{1,64}$`)
)

// newS3 makes a source of s3://HOST[:PORT]/BUCKET[/PREFIX][?region=REGION], or of
// s3+http://…. The region is us-east-1 if none is named.
func newS3(u *url.URL, p Place, n Net) (Source, error) {
	if u.User != nil {
		return nil, fmt.Errorf("%w: %s: a login does not belong in a URL", ErrPlace, u.Redacted())
	}
	q, err := url.ParseQuery(u.RawQuery)
	region := "us-east-1"
	if r := q["region"]; len(r) == 1 {
		region = r[0]
		delete(q, "region")
	}
	below := strings.TrimSuffix(u.Path, "/")
	bucket, _, _ := strings.Cut(strings.TrimPrefix(below, "/"), "/")
	if err != nil || u.Hostname() == "" || len(q) > 0 || u.Fragment != "" ||
		path.Clean(below) != below || !s3Bucket().MatchString(bucket) || !s3Region().MatchString(region) {
		return nil, fmt.Errorf("%w: %s: want %s://HOST[:PORT]/BUCKET[/PREFIX][?region=REGION]", ErrPlace, u, u.Scheme)
	}
	client, err := n.client(p)
	if err != nil {
		return nil, err
	}
	// What is signed is signed for one host: no other would take it.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	base := &url.URL{Scheme: "https", Host: u.Host, Path: below}
	if u.Scheme == "s3+http" {
		base.Scheme = "http"
	}
	return &s3Source{text: u.String(), base: base, region: region, client: client, net: n}, nil
}

func (s *s3Source) String() string { return s.text }

func (s *s3Source) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

func (s *s3Source) Open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	name, err := blobName(blob)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %.80s: %w", blob, err)
	}
	if n == 0 { // no range says that
		size, err := s.Stat(ctx, blob)
		return http.NoBody, size, err
	}
	body, total, err := s.open(ctx, name, offset, n)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %s: %w", blob, err)
	}
	return body, total, nil
}

func (s *s3Source) open(ctx context.Context, name string, offset, n int64) (io.ReadCloser, int64, error) {
	req, err := s.request(ctx, http.MethodGet, name)
	if err != nil {
		return nil, 0, err
	}
	if r := httpRange(offset, n); r != "" {
		req.Header.Set("Range", r)
	}
	s.sign(req, emptySHA256)
	resp, err := ask(s.client, req)
	if err != nil {
		return nil, 0, err
	}
	return answered(ctx, resp, offset, n, s3Complaint)
}

func (s *s3Source) Stat(ctx context.Context, blob digest.Digest) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	name, err := blobName(blob)
	if err != nil {
		return 0, fmt.Errorf("looking for %.80s: %w", blob, err)
	}
	req, err := s.request(ctx, http.MethodHead, name)
	if err != nil {
		return 0, fmt.Errorf("looking for %s: %w", blob, err)
	}
	s.sign(req, emptySHA256)
	resp, err := ask(s.client, req)
	if err != nil {
		return 0, fmt.Errorf("looking for %s: %w", blob, err)
	}
	_ = resp.Body.Close() // there is none
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.ContentLength, nil
	case http.StatusNotFound:
		return 0, fmt.Errorf("looking for %s: %w", blob, ErrNotFound)
	}
	// The answer to HEAD does not say why; that to GET does.
	body, _, err := s.open(ctx, name, 0, 1)
	if err == nil {
		_ = body.Close()
		err = fmt.Errorf("the store says %s to HEAD only", status(resp))
	}
	return 0, fmt.Errorf("looking for %s: %w", blob, err)
}

// blobName is where a blob is in an OCI layout.
func blobName(blob digest.Digest) (string, error) {
	if err := blob.Validate(); err != nil || blob.Algorithm() != digest.SHA256 {
		return "", errors.New("not a sha256 digest")
	}
	return "blobs/sha256/" + blob.Encoded(), nil
}

func (s *s3Source) request(ctx context.Context, method, name string) (*http.Request, error) {
	u := *s.base
	u.Path += "/" + name
	// The server signs what it sees: it has to see what is signed.
	u.RawPath = s3Escape(u.Path)
	return http.NewRequestWithContext(ctx, method, u.String(), nil)
}

// sign shows who asks, if anybody: buckets can be open to all.
func (s *s3Source) sign(req *http.Request, payload string) {
	access, secret, ok := s.net.login(s.base.Host)
	if !ok {
		return
	}
	now := time.Now
	if s.net.Now != nil {
		now = s.net.Now
	}
	s3Key{access, secret, s.region}.sign(req, payload, now())
}

// index reads the layout's index.json; etag is its version.
func (s *s3Source) index(ctx context.Context) (index ocispec.Index, etag string, err error) {
	raw, etag, err := s.read(ctx, ocispec.ImageIndexFile)
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return ocispec.Index{}, "", fmt.Errorf("reading %s: %w", ocispec.ImageIndexFile, err)
	}
	return index, etag, nil
}

// read gives a small object.
func (s *s3Source) read(ctx context.Context, name string) (raw []byte, etag string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := s.request(ctx, http.MethodGet, name)
	if err != nil {
		return nil, "", err
	}
	s.sign(req, emptySHA256)
	resp, err := ask(s.client, req)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }() // what was read is what counts
	if resp.StatusCode != http.StatusOK {
		return nil, "", s3Complaint(resp)
	}
	raw, err = readBounded(resp.Body, maxManifest)
	return raw, resp.Header.Get("ETag"), err
}

// Manifest reads what index.json has under a tag.
func (s *s3Source) Manifest(ctx context.Context, tag string) (raw []byte, mediaType string, err error) {
	raw, mediaType, err = s.manifest(ctx, tag)
	if err != nil {
		return nil, "", fmt.Errorf("reading the manifest of %.140q in %s: %w", tag, s, err)
	}
	return raw, mediaType, nil
}

func (s *s3Source) manifest(ctx context.Context, tag string) (raw []byte, mediaType string, err error) {
	if err := checkManifest(tag, nil); err != nil {
		return nil, "", err
	}
	index, _, err := s.index(ctx)
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == tag })
	if i < 0 {
		return nil, "", fmt.Errorf("%w: no manifest has this tag", ErrNotFound)
	}
	d := index.Manifests[i]
	name, err := blobName(d.Digest)
	if err != nil {
		return nil, "", fmt.Errorf("%.80q: %w", string(d.Digest), err)
	}
	raw, _, err = s.read(ctx, name)
	if err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", d.Digest, err)
	}
	if digest.FromBytes(raw) != d.Digest {
		return nil, "", fmt.Errorf("reading %s: %w", d.Digest, ErrVerification)
	}
	return raw, d.MediaType, nil
}

// s3Error is what a store says is wrong (Amazon S3, "Error responses").
type s3Error struct{ Code, Message string }

var errS3Error = errors.New("not an error of an S3 store")

// parseS3Error reads an <Error>, and nothing after it.
func parseS3Error(raw []byte) (s3Error, error) {
	var e struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if len(raw) > maxComplaint {
		return s3Error{}, fmt.Errorf("%w: %d bytes, at most %d", errS3Error, len(raw), maxComplaint)
	}
	if err := xml.Unmarshal(raw, &e); err != nil {
		return s3Error{}, fmt.Errorf("%w: %w", errS3Error, err)
	}
	if e.Code == "" {
		return s3Error{}, fmt.Errorf("%w: no code", errS3Error)
	}
	return s3Error{e.Code, e.Message}, nil
}

// s3Complaint makes an error of an answer that is none of those that were wanted.
func s3Complaint(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxComplaint)) // as far as it goes
	text := status(resp)
	e, err := parseS3Error(raw)
	if err == nil {
		text += fmt.Sprintf(": %.100q: %.200q", e.Code, e.Message)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: the store says %s", ErrNotFound, text)
	case e.Code == "AccessDenied":
		return fmt.Errorf("the store says %s (it says so too of what is not there, to those who may not list it)", text)
	}
	return fmt.Errorf("the store says %s", text)
}
