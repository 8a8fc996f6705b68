package salvage

import (
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
)

// blobReader reads a blob and verifies its digest: read from front to back, it
// hashes on the way and the read that reaches the end fails if the digest is
// wrong; a read out of order verifies the whole blob first.
type blobReader struct {
	file   *os.File
	size   int64
	digest digest.Digest

	mu     sync.Mutex
	hash   hash.Hash
	hashed int64 // bytes hashed, from the front
	done   bool
	err    error // the verdict, once done
}

func (r *blobReader) Size() int64  { return r.size }
func (r *blobReader) Close() error { return r.file.Close() }

// ReadAt implements io.ReaderAt. No byte count is returned with a wrong digest.
func (r *blobReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.file.ReadAt(p, off)
	if err != nil && err != io.EOF { //nolint:errorlint // ReadAt returns io.EOF bare
		return n, err
	}
	if bad := r.verify(p[:n], off); bad != nil {
		return 0, bad
	}
	return n, err
}

func (r *blobReader) verify(p []byte, off int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return r.err
	}
	switch end := off + int64(len(p)); {
	case off <= r.hashed && end >= r.hashed:
		_, _ = r.hash.Write(p[r.hashed-off:]) // never fails
		r.hashed = end
	case off > r.hashed:
		rest := io.NewSectionReader(r.file, r.hashed, r.size-r.hashed)
		n, err := io.Copy(r.hash, rest)
		if err != nil {
			return fmt.Errorf("verifying blob %s: %w", r.digest, err)
		}
		r.hashed += n
	}
	if r.hashed < r.size {
		return nil
	}
	r.done = true
	if got := digest.NewDigest(r.digest.Algorithm(), r.hash); got != r.digest {
		r.err = fmt.Errorf("verifying blob %s: content is %s: %w", r.digest, got, ErrVerification)
	}
	return r.err
}
