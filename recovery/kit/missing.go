package kit

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Gap is a frame that a layout does not hold as it should.
type Gap struct {
	Chunk
	Artifacts []string // that need it, in the order given
	Damaged   bool     // it is there, with other bytes or not as a regular file; else it is absent
}

// Missing reads all frames of artifacts and returns exactly those that are absent or damaged, in the order of the
// artifacts. An I/O error on a frame counts as damage.
func (l *Layout) Missing(ctx context.Context, artifacts []Artifact) ([]Gap, error) {
	all := Frames(artifacts...)
	bad := make([]*Gap, len(all))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	buffers := sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}
	for i, c := range all {
		g.Go(func() error {
			buf := buffers.Get().(*[]byte)
			defer buffers.Put(buf)
			switch err := l.checkFrame(ctx, c, *buf); {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, ErrNotFound):
				bad[i] = &Gap{Chunk: c}
			case err != nil:
				bad[i] = &Gap{Chunk: c, Damaged: true}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("auditing kit: %w", err)
	}
	var gaps []Gap
	for _, b := range bad {
		if b != nil {
			gaps = append(gaps, *b)
		}
	}
	nameGaps(gaps, artifacts)
	return gaps, nil
}

// nameGaps fills in which artifacts need each gap.
func nameGaps(gaps []Gap, artifacts []Artifact) {
	at := map[Chunk]int{}
	for i, g := range gaps {
		at[g.Chunk] = i
	}
	for _, a := range artifacts {
		for _, c := range Frames(a) {
			if i, ok := at[c]; ok {
				gaps[i].Artifacts = append(gaps[i].Artifacts, a.Name)
			}
		}
	}
}

// checkFrame reads a frame and compares it with its size and digest.
func (l *Layout) checkFrame(ctx context.Context, c Chunk, buf []byte) error {
	f, size, err := l.open(blobPath(c.Digest))
	if err != nil {
		return err
	}
	defer f.Close()
	if size != c.Size {
		return fmt.Errorf("%w: frame %s has %d bytes, want %d", ErrVerification, c.Digest, size, c.Size)
	}
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != c.Digest.Encoded() {
		return fmt.Errorf("%w: frame %s has the digest %s", ErrVerification, c.Digest, got)
	}
	return nil
}
