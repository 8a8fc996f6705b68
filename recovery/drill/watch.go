package drill

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
)

const (
	lookEvery   = 500 * time.Millisecond
	lookAtOnce  = 4               // what is dark keeps a look waiting
	lookLimit   = 2 * time.Second // of a probe
	scriptLimit = 5 * time.Second // of one that is a script, and of a check
)

// watch looks from outside of the shell, again and again, whether the service is
// healthy, and which steps are done already.
func (r *running) watch(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	looks, checking := make(chan struct{}, lookAtOnce), make(chan struct{}, 1)
	try := func(slot chan struct{}, do func()) {
		select {
		case slot <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slot }()
				do()
			})
		default:
		}
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	seen, late := -1, false
	for number := 1; ; number++ {
		try(looks, func() { r.look(ctx, number) })
		try(checking, func() {
			n := r.ended()
			r.checks(ctx, n != seen)
			seen = n
		})
		if !late && r.at() > time.Duration(r.h.Within).Seconds() {
			if late = true; !r.isBack() {
				r.tell(fmt.Sprintf("%s have passed, in which it should have been back; go on", r.h.Within))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-r.changed: // a command has ended
		case <-t.C:
		}
	}
}

func (r *running) isBack() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.back > 0
}

// ended is how many commands have.
func (r *running) ended() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.log {
		if e.Kind == CommandEnded {
			n++
		}
	}
	return n
}

// tried looks at every probe once, whatever it says: what it tries to reach is known
// then.
func (r *running) tried(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	probes, env, err := r.bound.Healthy(r.h)
	var wg sync.WaitGroup
	for _, p := range probes {
		wg.Go(func() { _ = once(ctx, r.ground, p, env) }) // it is dead
	}
	wg.Wait()
	return err
}

func once(ctx context.Context, g recovery.Ground, p *runbooks.Probe, env []string) error {
	limit := lookLimit
	if p.Kind() == runbooks.ExecProbe {
		limit = scriptLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	return g.Probe(ctx, p, env)
}

// look asks all the probes, and keeps what they say unless a look that began later
// has said it already.
func (r *running) look(ctx context.Context, number int) {
	probes, env, err := r.bound.Healthy(r.h)
	for _, p := range probes {
		if err = once(ctx, r.ground, p, env); err != nil {
			err = fmt.Errorf("%s %s: %w", p.Kind(), p.Target(), err)
			break
		}
	}
	if ctx.Err() != nil {
		return // nobody knows
	}
	why := ""
	if err != nil {
		why = firstLine(err.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if number <= r.looked {
		return
	}
	r.looked = number
	if now := r.at(); err == nil && !r.healthy {
		r.since = now
	}
	if r.healthy != (err == nil) || r.why != why || number == 1 {
		r.healthy, r.why = err == nil, why
		r.record(Event{Kind: Health, Healthy: r.healthy, Text: why})
	}
	if r.back > 0 || !r.healthy || r.at()-r.since < time.Duration(r.h.Hold).Seconds() {
		return
	}
	r.back = max(r.since, 0.001)
	r.record(Event{Kind: Recovered})
	said := fmt.Sprintf("it is back, after %s of %s", Seconds(r.back), r.h.Within)
	if r.h.Hold > 0 {
		said += fmt.Sprintf(", and has been for %s", r.h.Hold)
	}
	r.tell(said + "; the clock has stopped, exit ends the drill")
}

// last looks until it is healthy for as long as it must be, or is not.
func (r *running) last(ctx context.Context) {
	for !r.isBack() {
		r.look(ctx, r.looked+1)
		if !r.healthy {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery / 4):
		}
	}
}

// checks asks the steps that are not done, and whose needs are, whether they are: by
// their probes, and by their checks if those are asked for.
func (r *running) checks(ctx context.Context, all bool) {
	p := r.progress()
	for i, t := range r.tasks {
		if p.Steps[i].Done || ctx.Err() != nil {
			continue
		}
		g, by := r.ground, ""
		var err error
		if t.Host != "" {
			if g, err = g.On(t.Host); err != nil {
				continue
			}
		}
		switch {
		case t.Step.WaitFor != nil && p.ready(i):
			if once(ctx, g, t.Step.WaitFor, t.Env) == nil {
				by = "probe"
			}
		case t.Step.Check != "" && all:
			one, cancel := context.WithTimeout(ctx, scriptLimit)
			if code, err := g.Shell(one, t.Step.Check, t.Env, "", io.Discard); err == nil && code == 0 {
				by = "check"
			}
			cancel()
		}
		if by != "" && ctx.Err() == nil {
			r.note(Event{Kind: StepSeen, Step: t.ID, Text: by})
		}
	}
}
