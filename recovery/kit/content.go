package kit

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Content reads a blob of a layout at any offset, as an [io.ReaderAt] and as containerd's content.ReaderAt. Every
// frame is checked against its digest before it is decompressed, and against its length after. The digest of the
// whole blob is for its reader to check. It may be used by several goroutines.
type Content struct {
	layout *Layout
	blob   Blob
	ends   []int64 // of the content of each chunk

	mu     sync.Mutex
	dec    *zstd.Decoder
	frame  []byte       // buffer for a frame
	cached [2]plainText // the one used last comes first
}

// plainText is the content of the chunk with this number; nil content: of none.
type plainText struct {
	chunk   int
	content []byte
}

// Open opens a blob for reading; its frames are read when they are asked for. Close it after use.
func (l *Layout) Open(b Blob) (*Content, error) {
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("opening %.100q: %w: %w", string(b.Digest), ErrInvalid, err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(MaxFrame))
	if err != nil {
		return nil, err
	}
	c := &Content{layout: l, blob: b, dec: dec}
	var end int64
	for _, ch := range b.Chunks {
		end += ch.Length
		c.ends = append(c.ends, end)
	}
	return c, nil
}

// Size is the blob's, in bytes.
func (c *Content) Size() int64 { return c.blob.Size }

// Close lets go of the memory.
func (c *Content) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dec.Close()
	c.cached = [2]plainText{}
	return nil
}

// ReadAt implements io.ReaderAt.
//
// Errors: ErrNotFound where a frame is not in the layout, ErrVerification where it is damaged.
func (c *Content) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading %s: negative offset %d", c.blob.Digest, off)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(p) {
		if off >= c.blob.Size {
			return n, io.EOF
		}
		i, _ := slices.BinarySearch(c.ends, off+1)
		content, err := c.chunk(i)
		if err != nil {
			return n, fmt.Errorf("reading %s: %w", c.blob.Digest, err)
		}
		m := copy(p[n:], content[off-(c.ends[i]-c.blob.Chunks[i].Length):])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// chunk returns the content of a chunk.
func (c *Content) chunk(i int) ([]byte, error) {
	if c.cached[1].content != nil && c.cached[1].chunk == i {
		c.cached[0], c.cached[1] = c.cached[1], c.cached[0]
	}
	if c.cached[0].content != nil && c.cached[0].chunk == i {
		return c.cached[0].content, nil
	}
	want := c.blob.Chunks[i]
	if err := c.readFrame(want); err != nil {
		return nil, err
	}
	buf := c.cached[1].content
	if int64(cap(buf)) < want.Length {
		buf = make([]byte, 0, want.Length)
	}
	// The decoder stops at the capacity: a frame cannot grow beyond what the kit says.
	content, err := c.dec.DecodeAll(c.frame, buf[:0:want.Length])
	if err != nil {
		return nil, fmt.Errorf("%w: frame %s: %w", ErrVerification, want.Digest, err)
	}
	if int64(len(content)) != want.Length {
		return nil, fmt.Errorf("%w: frame %s holds %d bytes, want %d", ErrVerification, want.Digest, len(content), want.Length)
	}
	c.cached[0], c.cached[1] = plainText{chunk: i, content: content}, c.cached[0]
	return content, nil
}

// readFrame reads a frame into c.frame and checks its digest.
func (c *Content) readFrame(want Chunk) (err error) {
	f, size, err := c.layout.open(blobPath(want.Digest))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if size != want.Size {
		return fmt.Errorf("%w: frame %s has %d bytes, want %d", ErrVerification, want.Digest, size, want.Size)
	}
	if int64(cap(c.frame)) < size {
		c.frame = make([]byte, size)
	}
	c.frame = c.frame[:size]
	if _, err := io.ReadFull(f, c.frame); err != nil {
		return fmt.Errorf("frame %s: %w", want.Digest, err)
	}
	if got := digest.FromBytes(c.frame); got != want.Digest {
		return fmt.Errorf("%w: frame %s has the digest %s", ErrVerification, want.Digest, got)
	}
	return nil
}
