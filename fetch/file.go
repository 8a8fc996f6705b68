package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"
)

// fileSource is an OCI layout or a single file of this host. Which of them is
// looked at each time: what is to be mounted there may come later.
type fileSource struct {
	path string
	text string // its URL
}

// newFile makes a source of file:DIR or file:FILE, absolute or not (RFC 8089, and
// relative paths besides).
func newFile(u *url.URL) (Source, error) {
	if u.Host != "" && u.Host != "localhost" {
		return nil, fmt.Errorf("%w: %s: a file has no host: want file:/DIR or file:DIR", ErrPlace, u.Redacted())
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, fmt.Errorf("%w: %s: want %%3F and %%23 for ? and # in a file's name", ErrPlace, u.Redacted())
	}
	path := u.Path
	if u.Opaque != "" {
		var err error
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPlace, err)
		}
	}
	if path == "" {
		return nil, fmt.Errorf("%w: %s: it names no file", ErrPlace, u)
	}
	return &fileSource{path: path, text: u.String()}, nil
}

func (s *fileSource) String() string { return s.text }

func (s *fileSource) Close() error { return nil }

func (s *fileSource) Stat(ctx context.Context, blob digest.Digest) (int64, error) {
	f, size, err := s.open(ctx, blob)
	if err != nil {
		return 0, fmt.Errorf("looking for %.80s: %w", blob, err)
	}
	return size, f.Close()
}

func (s *fileSource) Open(ctx context.Context, blob digest.Digest, offset, n int64) (io.ReadCloser, int64, error) {
	f, size, err := s.open(ctx, blob)
	if err != nil {
		return nil, 0, fmt.Errorf("opening %.80s: %w", blob, err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening %s: %w", blob, err), f.Close())
	}
	left := max(size-offset, 0)
	if n >= 0 {
		left = min(left, n)
	}
	return &part{r: &contextReader{ctx, f}, c: f, left: left, exact: true}, size, nil
}

// open gives a regular file and its size.
func (s *fileSource) open(ctx context.Context, blob digest.Digest) (*os.File, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	if err := blob.Validate(); err != nil || blob.Algorithm() != digest.SHA256 {
		return nil, 0, errors.New("not a sha256 digest")
	}
	f, fi, err := opened(os.OpenFile(s.path, readOnly, 0))
	if err == nil && fi.IsDir() {
		if err = f.Close(); err == nil {
			f, fi, err = s.inLayout(blob)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	if err != nil {
		return nil, 0, err
	}
	if !fi.Mode().IsRegular() {
		return nil, 0, errors.Join(fmt.Errorf("%s is not a regular file", f.Name()), f.Close())
	}
	return f, fi.Size(), nil
}

// readOnly would not wait for the other end of a FIFO.
const readOnly = os.O_RDONLY | syscall.O_NONBLOCK

func (s *fileSource) inLayout(blob digest.Digest) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(s.path)
	if err != nil {
		return nil, nil, err
	}
	f, fi, err := opened(root.OpenFile(filepath.Join("blobs", "sha256", blob.Encoded()), readOnly, 0))
	_ = root.Close() // it was only read
	return f, fi, err
}

func opened(f *os.File, err error) (*os.File, fs.FileInfo, error) {
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// part reads left bytes, and no more.
type part struct {
	r     io.Reader
	c     io.Closer
	left  int64
	exact bool // fewer are an error
}

func (p *part) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.r.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	if errors.Is(err, io.EOF) && p.left > 0 && p.exact {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close may be called again.
func (p *part) Close() error {
	if err := p.c.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
