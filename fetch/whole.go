package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxUnsaid is how much is read where nobody says how much there is, in bytes.
const maxUnsaid = 4 << 30

// openWhole gets a blob that is not cut in parts. Only its end tells whether its
// bytes are right, so where several sources gave them and they are wrong, each
// source is tried alone.
func (g *Getter) openWhole(ctx context.Context, ref Ref) (io.ReadCloser, error) {
	if f, err := g.store.Open(ref.Digest); err == nil {
		right, err := verifyFile(ctx, f, ref)
		if err == nil && right {
			g.pool.mu.Lock()
			size, _ := f.Seek(0, io.SeekCurrent)
			g.pool.reused += size
			g.pool.meter.add(time.Now(), size, "this host", true)
			g.pool.mu.Unlock()
			_, err = f.Seek(0, io.SeekStart)
			if err == nil {
				return f, nil
			}
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if err := os.Remove(f.Name()); err != nil {
			return nil, fmt.Errorf("removing a damaged blob: %w", err)
		}
	}
	f, err := g.store.partial(ref.Digest)
	if err != nil {
		return nil, err
	}
	if err := g.fillWhole(ctx, ref, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := g.store.adopt(ref.Digest, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func verifyFile(ctx context.Context, f *os.File, ref Ref) (bool, error) {
	v := ref.Digest.Verifier()
	n, err := io.Copy(v, &contextReader{ctx, f})
	return err == nil && v.Verified() && (ref.Size < 0 || n == ref.Size), err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// fillWhole makes f the blob, or says why not.
func (g *Getter) fillWhole(ctx context.Context, ref Ref, f *os.File) error {
	var errs []error
	sizes, err := g.sizes(ctx, ref)
	if err != nil {
		return err
	}
	// Together at first. Who said another size is not asked.
	together := func(size int64) func(*health) bool {
		return func(s *health) bool { return !s.dropped && (sizes[s] == size || sizes[s] < 0) }
	}
	size := vote(ref, sizes)
	if size >= 0 {
		used, err := g.ranges(ctx, ref, size, f, together(size))
		if err == nil || !retryable(ctx, err) {
			return err
		}
		errs = append(errs, err)
		if errors.Is(err, ErrVerification) && len(used) == 1 {
			g.drop(used[0], err)
		}
	}
	for _, s := range g.pool.sources {
		if _, has := sizes[s]; !has || s.dropped && !errors.Is(s.last, ErrNoRange) || s.fails >= maxFails {
			continue
		}
		if err := f.Truncate(0); err != nil {
			return fmt.Errorf("keeping %s: %w", ref.Digest, err)
		}
		err := g.stream(ctx, ref, s, f)
		if err == nil || !retryable(ctx, err) {
			return err
		}
		g.drop(s, err)
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return &NoSourceError{Blob: ref.Digest}
	}
	return errors.Join(errs...)
}

func retryable(ctx context.Context, err error) bool {
	var keep errKeep
	return ctx.Err() == nil && !errors.As(err, &keep)
}

func (g *Getter) drop(s *health, why error) {
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	s.dropped, s.last = true, why
}

// sizes asks every source for the blob's size, all at once.
func (g *Getter) sizes(ctx context.Context, ref Ref) (map[*health]int64, error) {
	sizes := map[*health]int64{}
	if ref.Size >= 0 {
		for _, s := range g.pool.sources {
			sizes[s] = ref.Size
		}
		return sizes, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	var wg sync.WaitGroup
	var first time.Time
	for _, s := range g.pool.sources {
		wg.Go(func() {
			n, err := s.Stat(ctx, ref.Digest)
			g.pool.mu.Lock()
			defer g.pool.mu.Unlock()
			if err != nil {
				s.last = err
				return
			}
			sizes[s] = n
			// The others are given as long again as the first took, and a second.
			if n >= 0 && first.IsZero() {
				first = time.Now()
				time.AfterFunc(time.Second, cancel)
			}
		})
	}
	wg.Wait()
	if len(sizes) > 0 {
		return sizes, nil
	}
	e := &NoSourceError{Blob: ref.Digest, Missing: true}
	for _, s := range g.pool.sources {
		e.Missing = e.Missing && errors.Is(s.last, ErrNotFound)
		e.why = append(e.why, fmt.Errorf("%s: %w", s, s.last))
	}
	return nil, e
}

// vote is the size that most sources say, the smaller one of two.
func vote(ref Ref, sizes map[*health]int64) int64 {
	if ref.Size >= 0 {
		return ref.Size
	}
	votes := map[int64]int{}
	for _, n := range sizes {
		if n >= 0 {
			votes[n]++
		}
	}
	best := int64(-1)
	for n, v := range votes {
		if best < 0 || v > votes[best] || v == votes[best] && n < best {
			best = n
		}
	}
	return best
}

// ranges gets a blob in parts from several sources into f, from where f ends.
// What it returns are those that gave anything.
func (g *Getter) ranges(ctx context.Context, ref Ref, size int64, f *os.File, use func(*health) bool) ([]*health, error) {
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errKeep{err}
	}
	if have > size {
		have = 0
		if err := f.Truncate(0); err != nil {
			return nil, errKeep{err}
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errKeep{err}
	}
	sum := digest.Canonical.Hash()
	if _, err := io.CopyN(sum, &contextReader{ctx, f}, have); err != nil {
		return nil, errKeep{err}
	}
	g.pool.mu.Lock()
	g.pool.meter.p.Total = max(g.pool.meter.p.Total, size)
	g.pool.reused += have
	if have > 0 {
		g.pool.meter.add(time.Now(), have, "this host", true)
	}
	before := map[*health]int64{}
	for _, s := range g.pool.sources {
		before[s] = s.report.Bytes
	}
	g.pool.mu.Unlock()

	h := &haul{pool: g.pool, wait: g.o.Wait, use: use}
	for off := have; off < size; off += ChunkLength {
		h.pieces = append(h.pieces, piece{blob: ref.Digest, offset: off, n: min(ChunkLength, size-off)})
	}
	h.start(ctx, func(piece) bool { return false }, nil)
	defer h.stop()
	for {
		b, err := h.piece(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		_, _ = sum.Write(b) // never fails
		if _, err := f.Write(b); err != nil {
			return nil, errKeep{fmt.Errorf("keeping %s: %w", ref.Digest, err)}
		}
		h.recycle(b)
	}
	if digest.NewDigest(digest.SHA256, sum) == ref.Digest {
		return nil, nil
	}
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	var used []*health
	for _, s := range g.pool.sources {
		if s.report.Bytes > before[s] {
			used = append(used, s)
			s.report.Wasted += s.report.Bytes - before[s]
			s.report.Bytes = before[s]
		}
	}
	if have > 0 {
		used = append(slices.Clip(used), nil) // or what was there already
	}
	return used, fmt.Errorf("%w: %d bytes that should have the digest %s", ErrVerification, size, ref.Digest)
}

// stream reads a blob from its beginning to its end from one source.
func (g *Getter) stream(ctx context.Context, ref Ref, s *health, f *os.File) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall+dialTimeout, func() { cancel(errStall) })
	defer watch.Stop()
	body, total, err := s.Open(ctx, ref.Digest, 0, -1)
	if err != nil {
		return fmt.Errorf("%s: %w", s, cause(ctx, err))
	}
	defer func() { _ = body.Close() }() // what was read of it is what counts
	limit := ref.Size
	if limit < 0 {
		limit = total
	}
	if limit < 0 {
		limit = maxUnsaid
	}
	sum := digest.Canonical.Hash()
	b := make([]byte, 1<<20)
	for n := int64(0); ; {
		m, err := body.Read(b)
		if m > 0 {
			watch.Reset(stall)
			n += int64(m)
			if n > limit {
				return fmt.Errorf("%s: %w: more than %d bytes", s, ErrVerification, limit)
			}
			_, _ = sum.Write(b[:m]) // never fails
			if _, err := f.WriteAt(b[:m], n-int64(m)); err != nil {
				return errKeep{fmt.Errorf("keeping %s: %w", ref.Digest, err)}
			}
			g.pool.mu.Lock()
			s.report.Bytes += int64(m)
			g.pool.meter.add(time.Now(), int64(m), s.String(), false)
			g.pool.mu.Unlock()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: after %d bytes: %w", s, n, cause(ctx, err))
		}
	}
	if digest.NewDigest(digest.SHA256, sum) == ref.Digest {
		g.pool.mu.Lock()
		defer g.pool.mu.Unlock()
		s.report.Pieces++
		s.dropped, s.last = false, nil
		return nil
	}
	return fmt.Errorf("%s: %w: want %s", s, ErrVerification, ref.Digest)
}
