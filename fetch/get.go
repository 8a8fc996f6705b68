package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Options say how a [Getter] goes about it.
type Options struct {
	// Wait is how long to go on while nothing arrives and every source is down or
	// does not have what is missing: those who fetch it themselves may have it soon.
	Wait time.Duration
	// Progress is called for each piece, by one goroutine at a time; may be nil.
	Progress func(Progress)
}

// Getter gets blobs from several sources at once. What it knows of a source, how
// fast it is and whether it is to be believed, lasts from one blob to the next.
type Getter struct {
	store *Store
	pool  *pool
	o     Options
}

// NewGetter gets blobs from sources, earlier ones first, into a store. The
// sources are still the caller's to close.
func NewGetter(store *Store, sources []Source, o Options) *Getter {
	p := &pool{changed: make(chan struct{}), meter: meter{tell: o.Progress}}
	for _, s := range sources {
		p.sources = append(p.sources, &health{Source: s})
	}
	return &Getter{store: store, pool: p, o: o}
}

// Expect says how many bytes will be asked for in all, as they travel, for the
// time left.
func (g *Getter) Expect(total int64) {
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	g.pool.meter.p.Total = total
}

// Report tells what came from where so far.
func (g *Getter) Report() Report {
	p := g.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	r := Report{Reused: p.reused, Sources: []SourceReport{}}
	for _, s := range p.sources {
		sr := s.report
		sr.URL = s.String()
		switch {
		case s.dropped:
			sr.State = "dropped"
		case s.fails >= maxFails:
			sr.State = "down"
		case sr.Bytes > 0:
			sr.State = "used"
		case s.losses > 0:
			sr.State = "slow"
		case errors.Is(s.last, ErrNotFound):
			sr.State = "missing"
		default:
			sr.State = "unused"
		}
		if s.last != nil {
			sr.Error = s.last.Error()
		}
		r.Sources = append(r.Sources, sr)
	}
	return r
}

// Open begins to get a blob and hands out its content in order while it comes.
// Frames are checked before they are decompressed, and kept in the store; the
// content as a whole is checked at its end, where Read returns ErrVerification
// instead of io.EOF if it is wrong. A blob that is kept whole is there before
// Open returns. One blob is got at a time.
//
// Errors: *NoSourceError with the last error of each source; ErrVerification.
func (g *Getter) Open(ctx context.Context, ref Ref) (io.ReadCloser, error) {
	return g.open(ctx, ref, true)
}

// OpenFrames is Open for those who check the content as a whole themselves: of a
// blob that is cut, only each frame is checked.
func (g *Getter) OpenFrames(ctx context.Context, ref Ref) (io.ReadCloser, error) {
	return g.open(ctx, ref, false)
}

func (g *Getter) open(ctx context.Context, ref Ref, check bool) (io.ReadCloser, error) {
	if err := ref.check(); err != nil {
		return nil, err
	}
	unlock, err := g.store.lock(ctx, ref.Digest, func(pid string) {
		g.pool.mu.Lock()
		defer g.pool.mu.Unlock()
		g.pool.meter.waiting(pid)
	})
	if err != nil {
		return nil, err
	}
	if len(ref.Chunks) == 0 && ref.Size != 0 {
		defer unlock()
		return g.openWhole(ctx, ref)
	}
	h := g.haul(ref.Chunks)
	h.start(ctx, g.here, g.read(h))
	return newFrames(ctx, h, ref, check, unlock)
}

// Fill gets frames into the store, whatever they are part of, in no particular
// order: hosts that fill from each other soon have different ones to give. What
// cannot be had does not keep the rest from coming: the error joins one
// *NoSourceError for each frame that is still missing.
func (g *Getter) Fill(ctx context.Context, frames []Chunk) error {
	if len(frames) == 0 {
		return nil
	}
	h := g.haul(frames)
	h.any = true
	h.start(ctx, g.here, g.read(h))
	err := h.all(ctx)
	h.stop()
	return err
}

func (g *Getter) read(h *haul) func(piece) ([]byte, error) {
	return func(p piece) ([]byte, error) {
		b := h.buffer(p.n)
		return b, g.store.read(p.blob, b)
	}
}

func (g *Getter) here(p piece) bool { return g.store.Has(p.blob, p.n) }

func (g *Getter) haul(chunks []Chunk) *haul {
	h := &haul{pool: g.pool, wait: g.o.Wait, keep: func(p piece, b []byte) error { return g.store.Put(p.blob, b) }}
	for _, c := range chunks {
		h.pieces = append(h.pieces, piece{blob: c.Digest, n: c.Size, whole: true})
	}
	return h
}

// check refuses what no kit says.
func (r Ref) check() error {
	if err := r.Digest.Validate(); err != nil || r.Digest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%w: %.80q is not a sha256 digest", ErrVerification, string(r.Digest))
	}
	var sum int64
	for i, c := range r.Chunks {
		if err := c.Digest.Validate(); err != nil || c.Digest.Algorithm() != digest.SHA256 ||
			c.Size < 1 || c.Size > MaxFrame || c.Length < 1 || c.Length > ChunkLength {
			return fmt.Errorf("%w: part %d of %s is no frame: %.80q, %d bytes, %d bytes of content", ErrVerification, i, r.Digest, string(c.Digest), c.Size, c.Length)
		}
		sum += c.Length
	}
	if len(r.Chunks) > 0 && r.Size >= 0 && sum != r.Size {
		return fmt.Errorf("%w: the parts of %s have %d bytes, it has %d", ErrVerification, r.Digest, sum, r.Size)
	}
	return nil
}
