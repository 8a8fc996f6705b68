package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	streams    = 3                      // requests at once from one source
	window     = 8                      // pieces that may be under way or waiting for their turn
	maxFails   = 3                      // failures in a row after which a source counts as down
	maxBusy    = 100                    // times in a row that a source may ask for patience
	firstPause = 200 * time.Millisecond // after a failure; it doubles
	maxPause   = 15 * time.Second
	maxRest    = 2 * time.Second  // before a source is asked again for what it did not have
	stall      = 10 * time.Second // without a byte: the request is given up
)

// pool is the sources and what is known of them. It lasts for all blobs of one
// fetch.
type pool struct {
	mu      sync.Mutex
	sources []*health
	changed chan struct{} // closed and made anew when anything here has changed
	meter   meter
	arrived time.Time // the last piece
	reused  int64     // bytes that were on this host
}

// health is what is known of one source.
type health struct {
	Source
	report  SourceReport
	fails   int       // in a row
	losses  int       // races in a row that another source won
	misses  int       // pieces in a row that it did not have
	busy    int       // times in a row that it asked for patience
	resume  time.Time // not to be asked before
	dropped bool
	last    error   // the last one
	rate    float64 // of one request, in bytes per second; 0: not known
}

// broadcast wakes everybody who waits. p.mu is held.
func (p *pool) broadcast() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// piece is one request: a blob as a whole, or a part of one that is not cut.
type piece struct {
	blob      digest.Digest
	offset, n int64
	whole     bool // the blob is this piece, so its digest can be checked
}

// flight is one source on the way with one piece.
type flight struct {
	by      *health
	started time.Time
	cancel  context.CancelFunc
	lost    bool // another one came first
}

// slot is a piece in the making.
type slot struct {
	done    bool
	local   bool // to be read from the store, not asked for
	content []byte
	flights []*flight
	missing map[*health]time.Time // sources that did not have it, and when to ask again
	asked   map[*health]int       // how often they did not
}

// haul gets the pieces of one blob and hands them out in order; or, in any order,
// pieces that need only be kept.
type haul struct {
	pool   *pool
	pieces []piece
	any    bool
	keep   func(piece, []byte) error // what was checked is kept here
	use    func(*health) bool        // which sources may be asked; nil: all
	wait   time.Duration             // how long to go on while nothing arrives

	// Under pool.mu:
	slots []slot
	queue []int         // pieces that are not done, in the order in which they are asked for
	next  int           // piece that is handed out next
	err   error         // what ends it
	empty chan struct{} // closed when nothing is left in the queue

	wg     sync.WaitGroup
	cancel context.CancelFunc
	spare  sync.Pool // buffers of pieces that were used
}

// large is the size from which a buffer is worth being kept, in bytes.
const large = ChunkLength / 2

// buffer is n bytes for a piece.
func (h *haul) buffer(n int64) []byte {
	if n < large {
		return make([]byte, n)
	}
	if b, ok := h.spare.Get().(*[]byte); ok && int64(cap(*b)) >= n {
		return (*b)[:n]
	}
	return make([]byte, n, max(n, ChunkLength+ChunkLength/64)) // what a frame that does not compress has
}

// recycle takes back a buffer that nobody looks at any more.
func (h *haul) recycle(b []byte) {
	if cap(b) >= large {
		h.spare.Put(&b)
	}
}

// start sets the sources to work. stop must be called. read gives a piece that
// here tells to be in the store.
func (h *haul) start(ctx context.Context, here func(piece) bool, read func(piece) ([]byte, error)) {
	ctx, h.cancel = context.WithCancel(ctx)
	h.slots = make([]slot, len(h.pieces))
	h.queue, h.empty = make([]int, len(h.pieces)), make(chan struct{})
	for i, p := range h.pieces {
		h.slots[i].local = here(p)
		h.queue[i] = i
	}
	if h.any {
		// Hosts that fetch the same from each other should not all ask for the same
		// piece first.
		rand.Shuffle(len(h.queue), func(i, j int) { h.queue[i], h.queue[j] = h.queue[j], h.queue[i] })
	}
	h.pool.mu.Lock()
	h.pool.arrived = time.Now()
	h.pool.mu.Unlock()
	h.wg.Go(func() { h.local(ctx, read) })
	for _, s := range h.pool.sources {
		if h.use == nil || h.use(s) {
			for range min(streams, len(h.pieces)) {
				h.wg.Go(func() { h.work(ctx, s) })
			}
		}
	}
}

func (h *haul) stop() {
	h.cancel()
	h.wg.Wait()
}

// local reads pieces that are in the store, a window ahead. One that turns out
// to be damaged is asked for like the others.
func (h *haul) local(ctx context.Context, read func(piece) ([]byte, error)) {
	p := h.pool
	for i, pc := range h.pieces {
		p.mu.Lock()
		for h.slots[i].local && !h.any && i >= h.next+window && ctx.Err() == nil {
			changed := p.changed
			p.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-changed:
			}
			p.mu.Lock()
		}
		local := h.slots[i].local
		p.mu.Unlock()
		if !local {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		b, err := read(pc)
		p.mu.Lock()
		sl := &h.slots[i]
		sl.local = false
		if err == nil {
			h.arrive(i, b)
			p.reused += pc.n
			p.arrived = time.Now()
			p.meter.add(p.arrived, pc.n, "this host", true)
		}
		p.broadcast()
		p.mu.Unlock()
	}
}

// work asks one source for one piece after the other.
func (h *haul) work(ctx context.Context, s *health) {
	p := h.pool
	for {
		p.mu.Lock()
		if h.err != nil || len(h.queue) == 0 || s.dropped || ctx.Err() != nil {
			p.mu.Unlock()
			return
		}
		i, f, pause := h.pick(s, time.Now())
		changed := p.changed
		var fctx context.Context
		if f != nil {
			fctx, f.cancel = context.WithCancel(ctx)
		}
		p.mu.Unlock()
		if f != nil {
			b, err := h.get(fctx, s, h.pieces[i])
			f.cancel()
			h.land(i, f, b, err, ctx.Err())
			continue
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// pick finds what a source should do next, or how long it should wait. p.mu is
// held.
func (h *haul) pick(s *health, now time.Time) (int, *flight, time.Duration) {
	if now.Before(s.resume) {
		return 0, nil, s.resume.Sub(now)
	}
	pause := time.Minute
	take := func(i int) (int, *flight, time.Duration) {
		f := &flight{by: s, started: now}
		h.slots[i].flights = append(h.slots[i].flights, f)
		return i, f, 0
	}
	for _, i := range h.queue {
		sl := &h.slots[i]
		if !h.any && i >= h.next+window {
			break
		}
		if sl.local || len(sl.flights) > 0 {
			continue
		}
		if again, ok := sl.missing[s]; ok && now.Before(again) {
			pause = min(pause, again.Sub(now))
			continue
		}
		return take(i)
	}
	// Nothing is left to begin. What another one takes too long for is asked for a
	// second time, the earliest piece first, since the rest waits for it.
	for _, i := range h.queue {
		sl := &h.slots[i]
		if !h.any && i >= h.next+window {
			break
		}
		if len(sl.flights) != 1 || sl.flights[0].by == s {
			continue
		}
		if _, ok := sl.missing[s]; ok {
			continue
		}
		patience := 2 * time.Second
		if s.rate > 0 {
			patience = 50*time.Millisecond + 2*time.Duration(float64(h.pieces[i].n)/s.rate*float64(time.Second))
		}
		if d := now.Sub(sl.flights[0].started); d < patience {
			pause = min(pause, patience-d)
			continue
		}
		return take(i)
	}
	return 0, nil, pause
}

// get asks a source for a piece and checks it.
func (h *haul) get(ctx context.Context, s *health, p piece) (_ []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(stall+dialTimeout, func() { cancel(errStall) })
	defer watch.Stop()
	body, _, err := s.Open(ctx, p.blob, p.offset, p.n)
	if err != nil {
		return nil, cause(ctx, err)
	}
	b := h.buffer(p.n)
	n, err := readWatched(body, b, watch)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, cause(ctx, fmt.Errorf("after %d of %d bytes: %w", n, p.n, err))
	}
	if p.whole {
		if digest.FromBytes(b) != p.blob {
			return nil, fmt.Errorf("reading %s: %w", p.blob, ErrVerification)
		}
		if err := h.keep(p, b); err != nil {
			return nil, errKeep{err}
		}
	}
	return b, nil
}

var errStall = errors.New("no byte came for a while")

func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); errors.Is(c, errStall) {
		return c
	}
	return err
}

// errKeep: not the source's fault, but this host's.
type errKeep struct{ error }

func readWatched(r io.Reader, b []byte, watch *time.Timer) (int, error) {
	n := 0
	for n < len(b) {
		m, err := r.Read(b[n:])
		n += m
		if n == len(b) {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return n, err
		}
		if m > 0 {
			watch.Reset(stall)
		}
	}
	return n, nil
}

// land takes in what a flight brought, or why it brought nothing.
func (h *haul) land(i int, f *flight, b []byte, err, ended error) {
	p, s, sl := h.pool, f.by, &h.slots[i]
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.broadcast()
	for j, other := range sl.flights {
		if other == f {
			sl.flights = append(sl.flights[:j], sl.flights[j+1:]...)
			break
		}
	}
	if ended != nil {
		return
	}
	var keep errKeep
	switch {
	case err == nil:
		if d := now.Sub(f.started).Seconds(); d > 0 {
			r := float64(len(b)) / d
			if s.rate == 0 {
				s.rate = r
			}
			s.rate += (r - s.rate) / 4
		}
		s.fails, s.misses, s.busy = 0, 0, 0
		if sl.done {
			s.report.Wasted += int64(len(b))
			return
		}
		s.losses = 0
		s.report.Bytes += int64(len(b))
		s.report.Pieces++
		h.arrive(i, b)
		p.arrived = now
		p.meter.add(now, int64(len(b)), s.String(), false)
		for _, other := range sl.flights {
			other.lost = true
			other.cancel()
		}
	case f.lost:
		// It was too slow. Let it rest, so that it does not hold up the next one too.
		s.resume = now.Add(backoff(s.losses))
		s.losses++
		s.rate = 0
	case errors.As(err, &keep):
		h.err = keep.error
	case errors.Is(err, ErrNotFound):
		if sl.missing == nil {
			sl.missing, sl.asked = map[*health]time.Time{}, map[*health]int{}
		}
		sl.missing[s] = now.Add(min(backoff(sl.asked[s]), maxRest))
		sl.asked[s]++
		s.last = err
		// Another host that is fetching the same has little at first: it is asked for
		// some pieces at a time.
		if s.misses++; s.misses%window == 0 {
			s.resume = now.Add(min(backoff(s.misses/window-1), maxRest))
		}
	case errors.Is(err, ErrVerification), errors.Is(err, ErrPeer), errors.Is(err, ErrName), errors.Is(err, ErrNoRange):
		s.dropped = true
		s.last = err
		if errors.Is(err, ErrVerification) {
			s.report.Wasted += h.pieces[i].n
		}
	case errors.Is(err, errBusy) && s.busy < maxBusy:
		s.resume = now.Add(firstPause)
		s.busy++
		s.last = err
	default:
		s.resume = now.Add(backoff(s.fails))
		s.fails++
		s.last = err
	}
}

// errBusy: the server will answer in a moment.
var errBusy = errors.New("busy")

// arrive takes in a piece. p.mu is held.
func (h *haul) arrive(i int, b []byte) {
	h.slots[i].done = true
	if h.any {
		h.recycle(b)
	} else {
		h.slots[i].content = b
	}
	h.leave(i)
}

// leave takes a piece out of the queue.
func (h *haul) leave(i int) {
	j := slices.Index(h.queue, i)
	if j < 0 {
		return
	}
	h.queue = slices.Delete(h.queue, j, j+1)
	if len(h.queue) == 0 {
		close(h.empty)
	}
}

func backoff(n int) time.Duration {
	return min(firstPause<<min(n, 10), maxPause)
}

// piece waits for the next piece, in order.
func (h *haul) piece(ctx context.Context) ([]byte, error) {
	p := h.pool
	for {
		p.mu.Lock()
		if h.next == len(h.pieces) {
			p.mu.Unlock()
			return nil, io.EOF
		}
		if sl := &h.slots[h.next]; sl.done {
			b := sl.content
			sl.content = nil
			h.next++
			p.broadcast()
			p.mu.Unlock()
			return b, nil
		}
		err := h.err
		if err == nil {
			err = h.hopeless(h.next, time.Now())
		}
		changed := p.changed
		p.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		case <-time.After(firstPause):
		}
	}
}

// all waits until every piece is there or is not to be had. Of each that is not
// it returns a *NoSourceError.
func (h *haul) all(ctx context.Context) error {
	p := h.pool
	var errs []error
	for {
		p.mu.Lock()
		now := time.Now()
		for _, i := range slices.Clone(h.queue) {
			if err := h.hopeless(i, now); err != nil {
				errs = append(errs, err)
				h.leave(i)
			}
		}
		err, left := h.err, len(h.queue)
		p.mu.Unlock()
		if err != nil || left == 0 {
			return errors.Join(append(errs, err)...)
		}
		select {
		case <-ctx.Done():
			return errors.Join(append(errs, ctx.Err())...)
		case <-h.empty:
		case <-time.After(firstPause):
		}
	}
}

// hopeless tells why a piece will not come. p.mu is held.
func (h *haul) hopeless(i int, now time.Time) error {
	sl := &h.slots[i]
	if sl.local || len(sl.flights) > 0 {
		return nil
	}
	var why []error
	missing := 0
	for _, s := range h.pool.sources {
		if h.use != nil && !h.use(s) {
			continue
		}
		switch {
		case s.dropped:
		case sl.asked[s] > 0:
			missing++
		case s.fails < maxFails:
			return nil
		}
		if s.dropped || sl.asked[s] > 0 || s.fails > 0 {
			why = append(why, fmt.Errorf("%s: %w", s, s.last))
		}
	}
	if missing+h.downs() > 0 && now.Sub(h.pool.arrived) < h.wait {
		return nil
	}
	return &NoSourceError{Blob: h.pieces[i].blob, Missing: missing > 0 && missing == len(why), why: why}
}

// downs counts the sources that may come back.
func (h *haul) downs() int {
	n := 0
	for _, s := range h.pool.sources {
		if (h.use == nil || h.use(s)) && !s.dropped && s.fails >= maxFails {
			n++
		}
	}
	return n
}

// ErrNoSource: what a [NoSourceError] is.
var ErrNoSource = errors.New("no source gave it")

// NoSourceError says why no source gave a blob: the last error of each.
type NoSourceError struct {
	Blob    digest.Digest
	Missing bool // every source answered that it does not have it
	why     []error
}

// Error gives a line for each source.
func (e *NoSourceError) Error() string {
	if len(e.why) == 0 {
		return fmt.Sprintf("fetching %s: there is no source", e.Blob)
	}
	lines := make([]string, 0, len(e.why))
	for _, w := range e.why {
		lines = append(lines, w.Error())
	}
	return fmt.Sprintf("fetching %s: no source gave it:\n  %s", e.Blob, strings.Join(lines, "\n  "))
}

// Is lets ErrNoSource match, ErrNotFound where every source answered, and had
// nothing, and ErrVerification where every one gave wrong bytes.
func (e *NoSourceError) Is(target error) bool {
	wrong := func(err error) bool { return errors.Is(err, ErrVerification) }
	switch target {
	case ErrNoSource:
		return true
	case ErrNotFound:
		return e.Missing
	case ErrVerification:
		return len(e.why) > 0 && !slices.ContainsFunc(e.why, func(err error) bool { return !wrong(err) })
	}
	return false
}
