package image

import (
	"archive/tar"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// budget is what the layers of one image may use together. Sizes that an image states about itself are never used for
// it, only what really streams by.
type budget struct {
	maxBytes, maxEntries int64
	free                 int64 // of the filesystem, in bytes, when the unpack began

	streamed atomic.Int64 // bytes out of the decompressors
	written  atomic.Int64 // sizes of files: a sparse one is larger than its part of the stream
	entries  atomic.Int64
	metadata atomic.Int64 // bytes of names and attributes
}

// maxMetadata bounds names and extended attributes, in bytes: pkg/archive keeps those of a layer in memory to its end.
const maxMetadata = 1 << 30

func (s *Store) newBudget(o Options) (*budget, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return nil, fmt.Errorf("asking for the free space of %s: %w", s.dir, err)
	}
	b := &budget{maxBytes: o.MaxBytes, maxEntries: o.MaxEntries, free: math.MaxInt64}
	if b.maxBytes == 0 {
		b.maxBytes = defaultMaxBytes
	}
	if b.maxEntries == 0 {
		b.maxEntries = defaultMaxEntries
	}
	if st.Blocks > 0 { // some network filesystems say nothing
		b.free = int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize))
	}
	return b, nil
}

func (b *budget) check(total int64) error {
	switch {
	case total < 0 || total > b.maxBytes:
		return fmt.Errorf("%w: the layers are larger than %d bytes", ErrLimit, b.maxBytes)
	case total > b.free:
		return fmt.Errorf("the layers are larger than the %d bytes that were free: %w", b.free, unix.ENOSPC)
	}
	return nil
}

// entry counts one tar entry, whose file may be larger than what the stream has of it.
func (b *budget) entry(hdr *tar.Header) error {
	if b.entries.Add(1) > b.maxEntries {
		return fmt.Errorf("%w: more than %d files", ErrLimit, b.maxEntries)
	}
	metadata := len(hdr.Name) + len(hdr.Linkname)
	for k, v := range hdr.PAXRecords {
		metadata += len(k) + len(v)
	}
	if b.metadata.Add(int64(metadata)) > maxMetadata {
		return fmt.Errorf("%w: more than %d bytes of names and attributes", ErrLimit, maxMetadata)
	}
	if hdr.Size < 0 {
		return fmt.Errorf("%w: a file of %d bytes", ErrInvalid, hdr.Size)
	}
	return b.check(b.written.Add(hdr.Size))
}

func (b *budget) reader(r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		if over := b.check(b.streamed.Add(int64(n))); over != nil {
			return n, over
		}
		return n, err
	})
}
