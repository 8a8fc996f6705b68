package fetch

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// frames reads the content of a blob whose frames come one after another. Frames
// are decompressed ahead while the reader works on what came before.
type frames struct {
	ref    Ref
	plain  chan []byte
	spare  chan []byte // buffers to be used again
	buf    []byte
	rest   []byte
	sum    hash.Hash // nil: the reader checks the content
	err    error     // what ended it; set before plain is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  func()
}

func newFrames(ctx context.Context, h *haul, ref Ref, check bool, unlock func()) (*frames, error) {
	dec, err := newDecoder()
	if err != nil {
		h.stop()
		unlock()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &frames{ref: ref, plain: make(chan []byte, 2), spare: make(chan []byte, 4), cancel: cancel}
	if check {
		r.sum = digest.Canonical.Hash()
	}
	r.close = sync.OnceFunc(func() {
		cancel()
		r.wg.Wait()
		h.stop()
		dec.Close()
		unlock()
	})
	r.wg.Go(func() {
		defer close(r.plain)
		r.err = r.decode(ctx, h, dec)
	})
	return r, nil
}

// newDecoder refuses a frame that would not fit in what its chunk says.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(MaxFrame))
}

func (r *frames) decode(ctx context.Context, h *haul, dec *zstd.Decoder) error {
	for i := 0; ; i++ {
		frame, err := h.piece(ctx)
		if errors.Is(err, io.EOF) {
			if r.sum == nil {
				return io.EOF
			}
			if got := digest.NewDigest(digest.SHA256, r.sum); got != r.ref.Digest {
				return fmt.Errorf("%w: the content of %s has the digest %s, though every part of it is right", ErrVerification, r.ref.Digest, got)
			}
			return io.EOF
		}
		if err != nil {
			return err
		}
		c := r.ref.Chunks[i]
		plain, err := inflate(dec, frame, c, r.buffer())
		if err != nil {
			return err
		}
		h.recycle(frame)
		if r.sum != nil {
			_, _ = r.sum.Write(plain) // never fails
		}
		select {
		case r.plain <- plain:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// inflate decompresses a frame that was checked.
func inflate(dec *zstd.Decoder, frame []byte, c Chunk, buf []byte) ([]byte, error) {
	if int64(cap(buf)) < c.Length {
		buf = make([]byte, 0, ChunkLength)
	}
	plain, err := dec.DecodeAll(frame, buf[:0:c.Length])
	if err != nil {
		return nil, fmt.Errorf("%w: decompressing %s: %w", ErrVerification, c.Digest, err)
	}
	if int64(len(plain)) != c.Length {
		return nil, fmt.Errorf("%w: %s decompresses to %d bytes, want %d", ErrVerification, c.Digest, len(plain), c.Length)
	}
	return plain, nil
}

func (r *frames) buffer() []byte {
	select {
	case b := <-r.spare:
		return b
	default:
		return nil
	}
}

// next makes rest what is to be read next.
func (r *frames) next() error {
	if len(r.rest) > 0 {
		return nil
	}
	if r.buf != nil {
		select {
		case r.spare <- r.buf:
		default:
		}
		r.buf = nil
	}
	b, ok := <-r.plain
	if !ok {
		return r.err
	}
	r.buf, r.rest = b, b
	return nil
}

// Read implements io.Reader.
func (r *frames) Read(p []byte) (int, error) {
	if err := r.next(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *frames) WriteTo(w io.Writer) (int64, error) {
	var n int64
	for {
		err := r.next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		m, err := w.Write(r.rest)
		n += int64(m)
		r.rest = r.rest[m:]
		if err != nil {
			return n, err
		}
	}
}

// Close implements io.Closer. What is under way is given up.
func (r *frames) Close() error {
	r.close()
	return nil
}
