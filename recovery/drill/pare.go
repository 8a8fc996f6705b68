package drill

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// Pared is the least that a recovery needs.
type Pared struct {
	Rehearsal string               `json:"rehearsal"`
	Minimum   []runbooks.Condition `json:"-"`
	Needs     []string             `json:"needs"` // the minimum, as it is written in the file
	Why       []Evidence           `json:"why"`   // of each condition of the file
	Runs      int                  `json:"runs"`
	Took      time.Duration        `json:"took"` // of the run with all conditions
	Run       Result               `json:"-"`    // the one that passed with the fewest conditions
}

// Evident says whether of each condition that is needed an attempt to reach it was seen.
func (p Pared) Evident() bool {
	return !slices.ContainsFunc(p.Why, func(e Evidence) bool { return e.Needed && e.Tried == "" })
}

// Evidence is what is known of a condition.
type Evidence struct {
	Condition string        `json:"condition"`
	Needed    bool          `json:"needed"`
	AnyOf     []string      `json:"any_of,omitempty"` // that stand in for each other
	Tried     string        `json:"tried,omitempty"`  // the attempt that was blocked before it failed without it
	Reason    string        `json:"reason,omitempty"` // why it failed without it
	Costs     time.Duration `json:"costs,omitempty"`  // how much longer it takes without it
}

// slower is how much longer a run without a condition must take for it to be a soft
// dependency.
const slower = 2 * time.Second

// Pare finds the least set of a rehearsal's conditions that it still passes with:
// the full list first; each left out once, at most parallel at a time; what is
// needed alone; and where that fails, what stands in for what.
func Pare(ctx context.Context, o Options, parallel int, file *runbooks.File, h *runbooks.Rehearsal, others ...*runbooks.File) (Pared, error) {
	p := &paring{o: o, parallel: max(parallel, 1), file: file, h: h, others: others, all: h.Conditions}
	p.o.Record, p.o.Tell = nil, nil
	p.out = Pared{Rehearsal: h.Title, Needs: []string{}, Why: []Evidence{}}
	err := p.run(ctx)
	return p.out, err
}

type paring struct {
	o        Options
	parallel int
	file     *runbooks.File
	h        *runbooks.Rehearsal
	others   []*runbooks.File
	all      []runbooks.Condition
	out      Pared
}

// try rehearses with some of the conditions.
func (p *paring) try(ctx context.Context, with []runbooks.Condition) (Result, error) {
	h := *p.h
	h.Conditions = with
	r, err := Rehearse(ctx, p.o, p.file, &h, p.others...)
	if err == nil && r.Verdict == Unresolved {
		err = fmt.Errorf("%w: %s", sandbox.ErrUnresolved, r.Reason)
	}
	return r, err
}

// tries rehearses with several sets, some at a time.
func (p *paring) tries(ctx context.Context, sets [][]runbooks.Condition) ([]Result, error) {
	results := make([]Result, len(sets))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.parallel)
	for i, s := range sets {
		g.Go(func() (err error) {
			results[i], err = p.try(ctx, s)
			return err
		})
	}
	p.out.Runs += len(sets)
	return results, g.Wait()
}

func without(all []runbooks.Condition, i int) []runbooks.Condition {
	return slices.Delete(slices.Clone(all), i, i+1)
}

func (p *paring) run(ctx context.Context) error {
	full, err := p.tries(ctx, [][]runbooks.Condition{p.all})
	if err != nil {
		return err
	}
	if full[0].Verdict != Pass {
		return fmt.Errorf("%w with all its conditions: %s", ErrFailed, full[0].Reason)
	}
	p.out.Took, p.out.Run = full[0].Took, full[0]
	var sets [][]runbooks.Condition
	for i := range p.all {
		sets = append(sets, without(p.all, i))
	}
	left, err := p.tries(ctx, sets)
	if err != nil {
		return err
	}
	var needed, rest []runbooks.Condition
	for i, c := range p.all {
		e := Evidence{Condition: c.String(), Needed: left[i].Verdict != Pass}
		if e.Needed {
			needed = append(needed, c)
			e.Reason = firstLine(left[i].Reason)
			if e.Tried, err = p.tried(c, left[i].Attempts); err != nil {
				return err
			}
		} else {
			rest = append(rest, c)
			if d := left[i].Took - full[0].Took; d > slower {
				e.Costs = d.Round(10 * time.Millisecond)
			}
		}
		p.out.Why = append(p.out.Why, e)
	}
	return p.minimum(ctx, needed, rest)
}

// minimum looks whether what is needed is enough, and else finds what stands in for
// what.
func (p *paring) minimum(ctx context.Context, needed, rest []runbooks.Condition) error {
	alone, err := p.tries(ctx, [][]runbooks.Condition{needed})
	if err != nil {
		return err
	}
	if alone[0].Verdict == Pass {
		p.out.Run = alone[0]
		return p.settle(needed)
	}
	// Each of the rest can be missed, but not all of them: they are left out one
	// after the other for as long as it passes.
	kept := slices.Clone(rest)
	for i := 0; i < len(kept); {
		r, err := p.tries(ctx, [][]runbooks.Condition{slices.Concat(needed, without(kept, i))})
		if err != nil {
			return err
		}
		if r[0].Verdict == Pass {
			p.out.Run = r[0]
			kept = without(kept, i)
		} else {
			i++
		}
	}
	for i, k := range kept {
		group := k.Names()
		for _, other := range rest {
			if slices.ContainsFunc(kept, func(c runbooks.Condition) bool { return c.String() == other.String() }) {
				continue
			}
			r, err := p.tries(ctx, [][]runbooks.Condition{slices.Concat(needed, without(kept, i), []runbooks.Condition{other})})
			if err != nil {
				return err
			}
			if r[0].Verdict == Pass {
				group = append(slices.Clone(group), other.Names()...)
			}
		}
		c := k
		if len(group) > 1 {
			c = runbooks.Condition{AnyOf: group}
		}
		needed = append(needed, c)
		for j, e := range p.out.Why {
			if e.Condition == k.String() || slices.Contains(group, e.Condition) {
				p.out.Why[j].AnyOf = group
			}
		}
	}
	return p.settle(needed)
}

func (p *paring) settle(min []runbooks.Condition) error {
	p.out.Minimum = min
	for _, c := range min {
		p.out.Needs = append(p.out.Needs, c.String())
	}
	return nil
}

// tried is the blocked attempt that shows that a condition was missed, "" where
// nothing shows it.
func (p *paring) tried(c runbooks.Condition, attempts []sandbox.Attempt) (string, error) {
	var wanted []sandbox.Capability
	for _, name := range c.Names() {
		found, err := p.o.Catalogue.Resolve(name)
		if err != nil {
			return "", err
		}
		wanted = append(wanted, found...)
	}
	for _, a := range attempts {
		if a.Verdict == sandbox.Blocked && slices.ContainsFunc(wanted, func(w sandbox.Capability) bool { return shows(w, a) }) {
			who := a.Executable
			if len(a.Command) > 0 {
				who = a.Command[0]
			}
			return fmt.Sprintf("%s tried %s %s", who, a.Proto, a.Destination), nil
		}
	}
	return "", nil
}

// shows says whether an attempt was for what a capability gives.
func shows(c sandbox.Capability, a sandbox.Attempt) bool {
	switch c.Kind {
	case sandbox.KindTCP, sandbox.KindUDP, sandbox.KindLoopback:
		to, err := netip.ParseAddrPort(a.Destination)
		return err == nil && c.Matches(to)
	case sandbox.KindDNS, sandbox.KindHTTP:
		name, _, _ := strings.Cut(a.Destination, " ")
		if to, err := netip.ParseAddrPort(a.Destination); err == nil && to.Addr().String() == c.Host {
			return true
		}
		return name == c.Host || a.Name == c.Host || strings.Contains(a.Destination, "//"+c.Host)
	case sandbox.KindUnix, sandbox.KindFile:
		return a.Destination == c.Path
	}
	return false
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}
