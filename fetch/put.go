package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Target is a source that content can be put in. An image or a kit is whole there
// once its manifest is, so that one goes last.
type Target interface {
	Source
	// Put keeps a blob of so many bytes, which body has from its beginning; it may be
	// read again. What is there already is put again: Stat tells.
	Put(ctx context.Context, blob digest.Digest, size int64, body io.ReadSeeker) error
	// PutManifest keeps a manifest, of at most 4 MiB, under a tag. The tag's manifest
	// until then stays as a blob, if at all.
	PutManifest(ctx context.Context, tag, mediaType string, raw []byte) error
	// Manifest reads the manifest that a tag names now. It returns ErrNotFound where
	// there is none. Nothing says that it is the right one.
	Manifest(ctx context.Context, tag string) (raw []byte, mediaType string, err error)
}

// DialTarget makes a target of a place: of oci:, oci+http:, s3: and s3+http: (see
// [Dial]). It sends nothing yet.
func DialTarget(p Place, n Net) (Target, error) {
	s, err := Dial(p, n)
	if err != nil {
		return nil, err
	}
	t, ok := s.(Target)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%w: nothing can be put into %s, only in a registry or an S3 store", ErrPlace, s), s.Close())
	}
	return t, nil
}

func checkManifest(tag string, raw []byte) error {
	if !ociTag().MatchString(tag) {
		return fmt.Errorf("%.140q is not a tag", tag)
	}
	if len(raw) > maxManifest {
		return fmt.Errorf("the manifest has %d bytes, at most %d", len(raw), maxManifest)
	}
	return nil
}

const uploadAnswer = time.Minute // after the last byte, for a server that checks them

// upload gives a request its content, and gives the request up where the server
// takes no more of it.
type upload struct {
	body  io.ReadSeeker
	size  int64
	watch *time.Timer

	mu   sync.Mutex
	turn int   // of the reader that may read
	left int64 // for it
}

// newUpload makes a context for the requests of an upload, too. done ends it.
func newUpload(ctx context.Context, body io.ReadSeeker, size int64) (_ context.Context, u *upload, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	u = &upload{body: body, size: size}
	u.watch = time.AfterFunc(uploadAnswer, func() { cancel(errStall) })
	return ctx, u, func() {
		u.watch.Stop()
		cancel(nil)
		u.mu.Lock()
		defer u.mu.Unlock()
		u.turn++ // net/http may read on for a moment; the body is the caller's again
	}
}

// attach makes the content that of a request.
func (u *upload) attach(req *http.Request) (err error) {
	req.ContentLength = u.size
	req.Header.Set("Content-Type", "application/octet-stream")
	req.GetBody = u.reader
	if u.size == 0 {
		req.Body = http.NoBody
		return nil
	}
	req.Body, err = u.reader()
	return err
}

// reader reads the content from its beginning; the reader before reads no more.
func (u *upload) reader() (io.ReadCloser, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, err := u.body.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	u.turn++
	u.left = u.size
	return &uploadReader{u, u.turn}, nil
}

type uploadReader struct {
	u    *upload
	turn int
}

func (r *uploadReader) Read(b []byte) (int, error) {
	r.u.mu.Lock()
	defer r.u.mu.Unlock()
	if r.turn != r.u.turn {
		return 0, errors.New("the upload is over")
	}
	n, err := r.u.body.Read(b)
	r.u.left -= int64(n)
	if r.u.left > 0 {
		r.u.watch.Reset(stall)
	} else {
		r.u.watch.Reset(uploadAnswer)
	}
	return n, err
}

func (r *uploadReader) Close() error { return nil }

// Put sends a blob in one piece.
func (s *ociSource) Put(ctx context.Context, blob digest.Digest, size int64, body io.ReadSeeker) error {
	ctx, up, done := newUpload(ctx, body, size)
	defer done()
	if err := s.put(ctx, blob, up); err != nil {
		return fmt.Errorf("putting %.80s into %s: %w", blob, s, cause(ctx, err))
	}
	return nil
}

func (s *ociSource) put(ctx context.Context, blob digest.Digest, up *upload) error {
	if _, err := blobName(blob); err != nil {
		return err
	}
	to, err := s.uploadPlace(ctx)
	if err != nil {
		return err
	}
	// What its query holds is the registry's, and stays as it is.
	if to.RawQuery != "" {
		to.RawQuery += "&"
	}
	to.RawQuery += "digest=" + url.QueryEscape(blob.String())
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, to.String(), nil)
	if err != nil {
		return err
	}
	if err := up.attach(req); err != nil {
		return err
	}
	return s.change(req, http.StatusCreated)
}

// uploadPlace asks where a blob is to be sent.
func (s *ociSource) uploadPlace(ctx context.Context) (*url.URL, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("blobs/uploads/").String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.do(req, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it says nothing
	if resp.StatusCode != http.StatusAccepted {
		return nil, ociComplaint(resp)
	}
	to, err := resp.Location()
	switch {
	case err != nil:
		return nil, fmt.Errorf("the registry does not say where to send it: %w", err)
	case to.Scheme != "https" && (to.Scheme != "http" || s.base.Scheme == "https") || to.Host == "" || to.User != nil:
		return nil, fmt.Errorf("the registry wants it sent to %s://%.80s", to.Scheme, to.Host)
	}
	return to, nil
}

// change sends a request that changes something.
func (s *ociSource) change(req *http.Request, want int) error {
	resp, err := s.do(req, true)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // the status is what counts
	if resp.StatusCode != want {
		return ociComplaint(resp)
	}
	return nil
}

// PutManifest sends a manifest. The registry refuses one whose blobs it does not
// have.
func (s *ociSource) PutManifest(ctx context.Context, tag, mediaType string, raw []byte) error {
	ctx, cancel := context.WithTimeout(ctx, uploadAnswer)
	defer cancel()
	err := checkManifest(tag, raw)
	var req *http.Request
	if err == nil {
		req, err = http.NewRequestWithContext(ctx, http.MethodPut, s.url("manifests/"+tag).String(), bytes.NewReader(raw))
	}
	if err == nil {
		req.Header.Set("Content-Type", mediaType)
		err = s.change(req, http.StatusCreated)
	}
	if err != nil {
		return fmt.Errorf("putting the manifest into %s: %w", s, err)
	}
	return nil
}

// Manifest reads what a tag names.
func (s *ociSource) Manifest(ctx context.Context, tag string) (raw []byte, mediaType string, err error) {
	if err = checkManifest(tag, nil); err == nil {
		raw, mediaType, err = s.manifest(ctx, tag)
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading the manifest of %.140q in %s: %w", tag, s, err)
	}
	return raw, mediaType, nil
}

// Put sends a blob as one object.
func (s *s3Source) Put(ctx context.Context, blob digest.Digest, size int64, body io.ReadSeeker) error {
	name, err := blobName(blob)
	if err == nil {
		_, err = s.put(ctx, name, blob, size, body, nil)
	}
	if err != nil {
		return fmt.Errorf("putting %.80s into %s: %w", blob, s, err)
	}
	return nil
}

// put sends an object, whose digest the store checks.
func (s *s3Source) put(ctx context.Context, name string, sum digest.Digest, size int64, body io.ReadSeeker, only http.Header) (code int, err error) {
	ctx, up, done := newUpload(ctx, body, size)
	defer done()
	req, err := s.request(ctx, http.MethodPut, name)
	if err != nil {
		return 0, err
	}
	maps.Copy(req.Header, only)
	if err := up.attach(req); err != nil {
		return 0, err
	}
	s.sign(req, sum.Encoded())
	resp, err := ask(s.client, req)
	if err != nil {
		return 0, cause(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // the status is what counts
	if resp.StatusCode != http.StatusOK {
		return resp.StatusCode, s3Complaint(resp)
	}
	return resp.StatusCode, nil
}

// PutManifest keeps a manifest as a blob, and the tag in the layout's index.json.
// Other tags that are there stay.
func (s *s3Source) PutManifest(ctx context.Context, tag, mediaType string, raw []byte) error {
	err := checkManifest(tag, raw)
	d := digest.FromBytes(raw)
	if err == nil {
		err = s.Put(ctx, d, int64(len(raw)), bytes.NewReader(raw))
	}
	if err == nil {
		err = s.putJSON(ctx, ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, nil)
	}
	if err == nil {
		for range 3 { // others may have something to say as well
			err = s.putTag(ctx, ocispec.Descriptor{
				MediaType: mediaType, Digest: d, Size: int64(len(raw)),
				Annotations: map[string]string{ocispec.AnnotationRefName: tag},
			})
			if !errors.Is(err, errChanged) {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("putting the manifest into %s: %w", s, err)
	}
	return nil
}

var errChanged = errors.New("somebody else changes it at the same time")

func (s *s3Source) putJSON(ctx context.Context, name string, v any, only http.Header) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	code, err := s.put(ctx, name, digest.FromBytes(raw), int64(len(raw)), bytes.NewReader(raw), only)
	switch {
	case only != nil && (code == http.StatusPreconditionFailed || code == http.StatusConflict):
		return fmt.Errorf("writing %s: %w: %w", name, errChanged, err)
	case only != nil && code == http.StatusNotImplemented:
		return s.putJSON(ctx, name, v, nil) // a store that knows no conditions
	case err != nil:
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// putTag makes a descriptor the one that has its name in index.json.
func (s *s3Source) putTag(ctx context.Context, d ocispec.Descriptor) error {
	index, etag, err := s.index(ctx)
	only := http.Header{}
	switch {
	case errors.Is(err, ErrNotFound):
		index.SchemaVersion, index.MediaType = 2, ocispec.MediaTypeImageIndex
		only.Set("If-None-Match", "*")
	case err != nil:
		return err
	case etag != "":
		only.Set("If-Match", etag)
	}
	index.Manifests = append(slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
		return o.Annotations[ocispec.AnnotationRefName] == d.Annotations[ocispec.AnnotationRefName]
	}), d)
	return s.putJSON(ctx, ocispec.ImageIndexFile, index, only)
}
