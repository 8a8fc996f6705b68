package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// ChunkLength is how much content [Split] puts into one frame, in bytes.
const ChunkLength = 4 << 20

// Split reads content to its end, cuts it in zstd frames and gives each to put, in
// order. It returns the reference by which the frames are found again. Equal
// content gives equal frames wherever the same version of this program cuts it.
func Split(ctx context.Context, content io.Reader, put func(frame []byte, c Chunk) error) (Ref, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(ChunkLength))
	if err != nil {
		return Ref{}, err
	}
	defer func() { _ = enc.Close() }() // only its memory
	ref := Ref{}
	whole := digest.Canonical.Digester()

	// One frame is compressed while the next is read and hashed.
	type job struct {
		plain []byte
		done  chan []byte
	}
	jobs := make(chan job, runtime.GOMAXPROCS(0))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var readErr error
	go func() {
		defer close(jobs)
		for {
			plain := make([]byte, ChunkLength)
			n, err := io.ReadFull(content, plain)
			if n > 0 {
				plain = plain[:n]
				j := job{plain, make(chan []byte, 1)}
				go func() { j.done <- enc.EncodeAll(j.plain, nil) }()
				select {
				case jobs <- j:
				case <-ctx.Done():
					readErr = ctx.Err()
					return
				}
				_, _ = whole.Hash().Write(plain) // never fails
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if err != nil {
				readErr = err
				return
			}
		}
	}()
	for j := range jobs {
		frame := <-j.done
		c := Chunk{Digest: digest.FromBytes(frame), Size: int64(len(frame)), Length: int64(len(j.plain))}
		if err := put(frame, c); err != nil {
			cancel()
			for range jobs { // the reader ends
			}
			return Ref{}, err
		}
		ref.Chunks = append(ref.Chunks, c)
		ref.Size += c.Length
	}
	if readErr != nil {
		return Ref{}, fmt.Errorf("reading what is to be cut: %w", readErr)
	}
	ref.Digest = whole.Digest()
	return ref, nil
}
