package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Probe tells whether a source has a blob of this size (-1: of any): by what the
// source says of it, or, deep, by reading all of it.
//
// Errors: ErrNotFound; ErrVerification where it has another size or other bytes;
// any other means that the source cannot be asked now.
func Probe(ctx context.Context, s Source, blob digest.Digest, size int64, deep bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall+dialTimeout, func() { cancel(errStall) })
	defer watch.Stop()
	if !deep {
		n, err := s.Stat(ctx, blob)
		if err != nil {
			return cause(ctx, err)
		}
		if n >= 0 && size >= 0 && n != size {
			return fmt.Errorf("%w: %s has %d bytes there, want %d", ErrVerification, blob, n, size)
		}
		return nil
	}
	_, err := readBlob(ctx, s, blob, size, watch, io.Discard)
	return err
}

// ReadBlob reads and checks a small blob, of at most limit bytes, from one source.
func ReadBlob(ctx context.Context, s Source, blob digest.Digest, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall+dialTimeout, func() { cancel(errStall) })
	defer watch.Stop()
	var b limited
	b.limit = limit
	_, err := readBlob(ctx, s, blob, -1, watch, &b)
	return b.content, err
}

type limited struct {
	content []byte
	limit   int64
}

func (l *limited) Write(p []byte) (int, error) {
	if int64(len(l.content)+len(p)) > l.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrVerification, l.limit)
	}
	l.content = append(l.content, p...)
	return len(p), nil
}

// readBlob copies a blob to w and checks it at the end.
func readBlob(ctx context.Context, s Source, blob digest.Digest, size int64, watch *time.Timer, w io.Writer) (n int64, err error) {
	if err := blob.Validate(); err != nil || blob.Algorithm() != digest.SHA256 {
		return 0, fmt.Errorf("%w: %.80q is not a sha256 digest", ErrVerification, string(blob))
	}
	body, _, err := s.Open(ctx, blob, 0, -1)
	if err != nil {
		return 0, cause(ctx, err)
	}
	defer func() {
		if cerr := body.Close(); err == nil {
			err = cerr
		}
	}()
	sum := blob.Verifier()
	b := make([]byte, 256<<10)
	for {
		m, err := body.Read(b)
		if m > 0 {
			watch.Reset(stall)
			n += int64(m)
			if size >= 0 && n > size {
				return n, fmt.Errorf("reading %s: %w: more than %d bytes", blob, ErrVerification, size)
			}
			_, _ = sum.Write(b[:m]) // never fails
			if _, err := w.Write(b[:m]); err != nil {
				return n, fmt.Errorf("reading %s: %w", blob, err)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("reading %s: after %d bytes: %w", blob, n, cause(ctx, err))
		}
	}
	if !sum.Verified() {
		return n, fmt.Errorf("reading %s: %w", blob, ErrVerification)
	}
	return n, nil
}
