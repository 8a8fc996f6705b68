package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// OrderOptions say what was lost. With neither Lost nor Region everything was.
type OrderOptions struct {
	Lost     []string      // services
	Region   string        // and all services of it
	Alone    bool          // what needs the lost stays up; else it counts as lost as well
	Observed bool          // what was seen in use counts as needed
	Guess    time.Duration // for a service of which no time is known; 10m if 0
}

// Plan is the recovery of what was lost.
type Plan struct {
	Lost     []string `json:"lost"`  // as asked for; empty for everything
	Steps    []Step   `json:"steps"` // by wave, then by start and name
	Waves    int      `json:"waves"`
	Critical []string `json:"critical"`        // the services that the end waits for, first to last
	Time     Estimate `json:"time"`            // until the last of the steps is done
	Guessed  int      `json:"guessed"`         // steps whose time nobody told
	Stuck    []string `json:"stuck,omitempty"` // what these steps do not bring back
	Loops    []Loop   `json:"loops,omitempty"`
}

// Step is one service's recovery.
type Step struct {
	Service  string        `json:"service"`
	Wave     int           `json:"wave"` // from 1
	Tier     int           `json:"tier"`
	Region   string        `json:"region,omitempty"`
	Owner    string        `json:"owner,omitempty"`
	Runbook  string        `json:"runbook,omitempty"`
	Asks     bool          `json:"asks,omitempty"`    // the runbook has questions for an operator
	After    []string      `json:"after,omitempty"`   // services of this plan that it waits for
	Because  string        `json:"because,omitempty"` // the lost service that took it down; "" if it was lost itself
	Takes    Estimate      `json:"takes"`
	Start    time.Duration `json:"start"` // from the beginning, in nanoseconds, if every service takes its likely time
	Finish   time.Duration `json:"finish"`
	Critical bool          `json:"critical,omitempty"`
}

// Order makes the plan for what was lost: each service as soon as all that it waits for is back, of alternatives the first.
//
// Errors: ErrInvalid for a service or region that the graph does not have.
func Order(g *Graph, o OrderOptions) (Plan, error) {
	x := newIndex(g, o.Observed)
	lost, err := x.find(o.Lost, o.Region)
	if err != nil {
		return Plan{}, err
	}
	s := newStorm(x)
	spread := running
	if o.Alone {
		spread = nothingElse
	}
	s.fall(lost, spread)
	sp := newSpans(g, o.Guess)
	p := Plan{Lost: slices.Clone(o.Lost), Time: s.predict(sp)}
	if o.Region != "" {
		p.Lost = append(p.Lost, "region "+o.Region)
	}
	s.recover(sp.likely())
	p.steps(s, sp, lost)
	if s.stuck() > 0 {
		for _, v := range s.lost() {
			p.Stuck = append(p.Stuck, x.name(v))
		}
		p.Loops = x.loops(s.tide())
	}
	return p, nil
}

// find is the numbers of what was lost.
func (x *index) find(names []string, region string) ([]int32, error) {
	var out []int32
	for _, n := range names {
		s, ok := x.id[n]
		if !ok {
			return nil, fmt.Errorf("%w: no service %.80q%s", ErrInvalid, n, x.meant(n))
		}
		out = append(out, s)
	}
	found := false
	for i := range x.g.Services {
		if s := &x.g.Services[i]; len(names) == 0 && region == "" || region != "" && s.Region == region {
			found = true
			out = append(out, int32(i))
		}
	}
	if region != "" && !found {
		return nil, fmt.Errorf("%w: no service is in the region %.80q", ErrInvalid, region)
	}
	return out, nil
}

// meant is a hint: services whose names hold the text, or those that provide it.
func (x *index) meant(name string) string {
	var like []string
	for _, s := range x.offer[name] {
		like = append(like, x.name(s))
	}
	for i := range x.g.Services {
		if n := x.g.Services[i].Name; len(like) < 3 && strings.Contains(strings.ToLower(n), strings.ToLower(name)) {
			like = append(like, n)
		}
	}
	if len(like) == 0 {
		return ""
	}
	return ": did you mean " + strings.Join(like, " or ") + "?"
}

func (p *Plan) steps(s *storm, sp *spans, lost []int32) {
	x := s.x
	wave := make(map[int32]int, len(s.order))
	because := s.because(lost)
	for _, v := range s.order {
		sv := &x.g.Services[v]
		step := Step{
			Service: sv.Name, Wave: 1, Tier: sv.Tier, Region: sv.Region, Owner: sv.Owner, Runbook: sv.Runbook, Asks: sv.Asks,
			Takes: sp.estimates[v], Finish: time.Duration(s.finish[v]), Start: time.Duration(s.finish[v]) - sp.estimates[v].Likely,
		}
		if from := because[v]; from >= 0 {
			step.Because = x.name(from)
		}
		for g := x.groups[v]; g < x.groups[v+1]; g++ {
			if h := s.holder[g]; h >= 0 && s.dead(g) {
				step.After = append(step.After, x.name(h))
				step.Wave = max(step.Wave, wave[h]+1)
			}
		}
		slices.Sort(step.After)
		step.After = slices.Compact(step.After)
		wave[v] = step.Wave
		p.Waves = max(p.Waves, step.Wave)
		if step.Takes.Source == Guessed {
			p.Guessed++
		}
		p.Steps = append(p.Steps, step)
	}
	if len(s.order) > 0 {
		for v := s.order[len(s.order)-1]; v >= 0; v = s.last[v] {
			p.Critical = append(p.Critical, x.name(v))
		}
		slices.Reverse(p.Critical)
	}
	critical := make(map[string]bool, len(p.Critical))
	for _, n := range p.Critical {
		critical[n] = true
	}
	for i := range p.Steps {
		p.Steps[i].Critical = critical[p.Steps[i].Service]
	}
	slices.SortFunc(p.Steps, func(a, b Step) int {
		return cmp.Or(a.Wave-b.Wave, cmp.Compare(a.Start, b.Start), strings.Compare(a.Service, b.Service))
	})
}

// because finds what took each service down: the service named that is nearest; -1 for those that were named.
func (s *storm) because(lost []int32) map[int32]int32 {
	out := make(map[int32]int32, len(s.down))
	for _, v := range lost {
		out[v] = -1
	}
	for _, v := range s.down { // in the order they fell
		for _, g := range s.x.used[s.x.users[v]:s.x.users[v+1]] {
			if o := s.x.of[g]; s.isDown(o) && s.dead(g) {
				if _, ok := out[o]; !ok {
					if out[o] = out[v]; out[v] < 0 {
						out[o] = v
					}
				}
			}
		}
	}
	return out
}
