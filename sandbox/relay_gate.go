package sandbox

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

var errRefused = errors.New("refused on purpose")

// gate is a capability with its state, which may change while traffic passes.
type gate struct {
	Capability

	mu      sync.Mutex
	mode    Mode
	changed chan struct{} // closed at the next change
	flows   map[*flow]struct{}
}

func newGate(c Capability) *gate {
	return &gate{Capability: c, mode: c.Mode, changed: make(chan struct{}), flows: map[*flow]struct{}{}}
}

// state returns the mode and what is closed when it changes.
func (g *gate) state() (Mode, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode, g.changed
}

func (g *gate) dark() bool {
	mode, _ := g.state()
	return mode != ModeAllow
}

// set changes the mode. Flows notice at their next read, which is interrupted
// now; where it becomes refuse, they are reset.
func (g *gate) set(m Mode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mode == m {
		return
	}
	g.mode = m
	close(g.changed)
	g.changed = make(chan struct{})
	for f := range g.flows {
		if m == ModeRefuse && f.under(g) {
			f.abort()
		} else {
			f.interrupt()
		}
	}
}

func (g *gate) enter(f *flow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flows[f] = struct{}{}
}

func (g *gate) leave(f *flow) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.flows, f)
}

// wait returns when the gate is open. It fails when it refuses, or done is
// closed first.
func (g *gate) wait(done <-chan struct{}) error {
	for {
		mode, changed := g.state()
		switch mode {
		case ModeAllow:
			return nil
		case ModeRefuse:
			return errRefused
		case ModeDrop, ModeWedge:
		}
		select {
		case <-changed:
		case <-done:
			return net.ErrClosed
		}
	}
}

// loses decides by chance what becomes of one datagram or new connection.
func (g *gate) loses() bool { return g.Loss > 0 && rand.Float64()*100 < g.Loss }

// pace is how one direction of a flow is slowed down.
type pace struct {
	begun bool
	free  time.Time // when all that passed would have been sent at the given rate
}

// delay says how long n bytes have to wait: the first of a direction for the
// latency, all for the bandwidth.
func (p *pace) delay(c *Capability, n int, now time.Time) time.Duration {
	var d time.Duration
	if !p.begun {
		p.begun = true
		d = c.Latency
	}
	if c.Bandwidth > 0 {
		if p.free.Before(now) {
			p.free = now
		}
		p.free = p.free.Add(time.Duration(float64(n) / float64(c.Bandwidth) * float64(time.Second)))
		d += p.free.Sub(now)
	}
	return d
}

// chunk is how much of n bytes should pass at once, so that a slow stream flows
// rather than jumps.
func chunk(c *Capability, n int) int {
	if c.Bandwidth > 0 {
		return int(min(int64(n), max(1, c.Bandwidth/20)))
	}
	return n
}
