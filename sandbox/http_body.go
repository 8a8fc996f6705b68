package sandbox

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// body reads a request's body: so many bytes, or chunks (RFC 9112, 7.1) without
// extensions. Trailers are read and dropped.
type body struct {
	mu      sync.Mutex
	br      *bufio.Reader
	left    int64 // of the whole, or of the chunk
	chunked bool
	inside  bool // a chunk has begun, and its final CRLF is still to come
	done    atomic.Bool
	closed  atomic.Bool
	err     error
	before  func() error // called once, before the first read
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed.Load() {
		return 0, io.ErrClosedPipe
	}
	if b.before != nil && !b.done.Load() {
		f := b.before
		b.before = nil
		if b.err = f(); b.err != nil {
			return 0, b.err
		}
	}
	if b.err == nil && b.chunked && !b.done.Load() && b.left <= 0 {
		b.err = b.next()
	}
	switch {
	case b.err != nil:
		return 0, b.err
	case b.done.Load():
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	n, err := b.br.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil {
		b.err = unexpected(err)
		if n > 0 {
			err = nil
		} else {
			err = b.err
		}
	}
	if b.left == 0 && !b.chunked {
		b.done.Store(true)
		if err == nil {
			err = io.EOF
		}
	}
	return n, err
}

// next reads what stands between two chunks.
func (b *body) next() error {
	if b.inside {
		l, err := readLine(b.br)
		if err != nil {
			return unexpected(err)
		}
		if l != "" {
			return bad("a chunk longer than it says")
		}
	}
	l, err := readLine(b.br)
	if err != nil {
		return unexpected(err)
	}
	n, err := strconv.ParseUint(l, 16, 62)
	if err != nil || strings.Trim(l, "0123456789abcdefABCDEF") != "" || len(l) > 15 {
		return bad("chunk size %q", l)
	}
	b.left, b.inside = int64(n), true
	if n > 0 {
		return nil
	}
	for size := 0; ; {
		l, err := readLine(b.br)
		if err != nil {
			return unexpected(err)
		}
		if l == "" {
			b.done.Store(true)
			return nil
		}
		if size += len(l); size > maxLine {
			return bad("trailers longer than %d bytes", maxLine)
		}
		if _, _, err := headerLine(l); err != nil {
			return err
		}
	}
}

// Close makes every later read fail. One that waits for the client goes on.
func (b *body) Close() error {
	b.closed.Store(true)
	return nil
}

// whole says that the body was read to its end, so that the next request
// follows.
func (b *body) whole() bool { return b.done.Load() }

// failed is why the body could not be read.
func (b *body) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
