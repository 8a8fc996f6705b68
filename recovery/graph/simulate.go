package graph

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Storm is a loss with a name: of services, of a region, of a tier, or of everything.
type Storm struct {
	Name   string
	Lost   []string
	Region string
	Tier   int // NoTier: none
	All    bool
}

// SimulateOptions say what is lost, one after the other.
type SimulateOptions struct {
	Singles  bool     // each service alone
	Pairs    bool     // each two that take down more, or leave more stuck, than each does alone
	Among    []string // the services that pairs are made of; all, at most 2000, if empty
	Storms   []Storm
	Observed bool          // what was seen in use counts as needed
	Guess    time.Duration // for a service of which no time is known; 10m if 0
	Top      int           // outcomes to return, worst first; all if 0
}

// Outcome is what a loss does.
type Outcome struct {
	Name        string        `json:"name"`
	Lost        []string      `json:"lost,omitempty"`    // of singles and pairs
	Down        int           `json:"down"`              // services that fall, those lost among them
	Stuck       int           `json:"stuck"`             // services that never come back
	Example     []string      `json:"example,omitempty"` // at most five of the stuck
	Recoverable bool          `json:"recoverable"`
	Time        time.Duration `json:"time"` // until the last that comes back has, in nanoseconds; each takes its likely time
}

// Simulation is the outcomes, the worst first, and how many there were.
type Simulation struct {
	Outcomes      []Outcome `json:"outcomes"`
	Simulated     int       `json:"simulated"`
	Unrecoverable int       `json:"unrecoverable"`
}

// Simulate plays losses: what falls with them, what never comes back, how long the rest takes. What runs falls with what
// it needs, if nothing stands in for it, and goes on without its manager.
//
// Errors: ErrInvalid for a storm over what the graph does not have; ctx's.
func Simulate(ctx context.Context, g *Graph, o SimulateOptions) (Simulation, error) {
	x := newIndex(g, o.Observed)
	var cases []loss
	var each map[int32]alone
	for _, st := range o.Storms {
		lost, err := x.hit(st)
		if err != nil {
			return Simulation{}, fmt.Errorf("storm %.80q: %w", st.Name, err)
		}
		cases = append(cases, loss{name: st.Name, lost: lost})
	}
	if o.Singles {
		for s := range int32(x.n()) {
			cases = append(cases, loss{lost: []int32{s}})
		}
	}
	if o.Pairs {
		var pairs []loss
		var err error
		if pairs, each, err = x.pairs(ctx, o.Among); err != nil {
			return Simulation{}, err
		}
		cases = append(cases, pairs...)
	}
	takes := newSpans(g, o.Guess).likely()
	out := make([]outcome, len(cases))
	err := share(ctx, len(cases), func() func(int) {
		s := newStorm(x)
		return func(i int) {
			out[i] = s.play(cases[i], takes)
			if o := &out[i]; o.pair && o.worse(each) {
				o.pair = false
			}
		}
	})
	if err != nil {
		return Simulation{}, err
	}
	out = slices.DeleteFunc(out, func(o outcome) bool { return o.pair })
	sim := Simulation{Simulated: len(out)}
	slices.SortStableFunc(out, func(a, b outcome) int {
		return cmp.Or(cmp.Compare(b.stuck, a.stuck), cmp.Compare(b.time, a.time), cmp.Compare(b.down, a.down), slices.Compare(a.lost, b.lost))
	})
	for i := range out {
		if out[i].stuck > 0 {
			sim.Unrecoverable++
		}
	}
	if o.Top > 0 {
		out = out[:min(len(out), o.Top)]
	}
	for i := range out {
		sim.Outcomes = append(sim.Outcomes, x.tell(&out[i]))
	}
	return sim, nil
}

// loss is a case to play. Without a name it is told by the services.
type loss struct {
	name string
	lost []int32
	pair bool // tell it only if it is worse than its parts
}

// outcome is what a case led to, in numbers: there may be millions.
type outcome struct {
	loss
	down, stuck int32
	example     []int32
	time        time.Duration
}

func (s *storm) play(c loss, takes []int64) outcome {
	s.fall(c.lost, running)
	o := outcome{loss: c, time: s.recover(takes)}
	o.down, o.stuck = int32(len(s.down)), int32(s.stuck())
	if o.stuck > 0 {
		for _, v := range s.down {
			if s.up[v] != s.round && len(o.example) < 5 {
				o.example = append(o.example, v)
			}
		}
	}
	return o
}

func (x *index) tell(o *outcome) Outcome {
	out := Outcome{Name: o.name, Down: int(o.down), Stuck: int(o.stuck), Recoverable: o.stuck == 0, Time: o.time}
	if o.name == "" {
		for _, v := range o.lost {
			out.Lost = append(out.Lost, x.name(v))
		}
		out.Name = strings.Join(out.Lost, " and ")
	}
	for _, v := range o.example {
		out.Example = append(out.Example, x.name(v))
	}
	return out
}

// hit is the services of a storm.
func (x *index) hit(st Storm) ([]int32, error) {
	var out []int32
	if len(st.Lost) > 0 || st.Region != "" {
		var err error
		if out, err = x.find(st.Lost, st.Region); err != nil {
			return nil, err
		}
	}
	for i := range x.g.Services {
		if st.All || st.Tier != NoTier && x.g.Services[i].Tier == st.Tier {
			out = append(out, int32(i))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: it hits no service", ErrInvalid)
	}
	return out, nil
}

// share gives the numbers below n to as many workers as there are processors.
func share(ctx context.Context, n int, worker func() func(int)) error {
	const batch = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 1+n/batch) {
		wg.Go(func() {
			do := worker()
			for ctx.Err() == nil {
				from := int(next.Add(batch)) - batch
				if from >= n {
					return
				}
				for i := from; i < min(n, from+batch); i++ {
					do(i)
				}
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}
