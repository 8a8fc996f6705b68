package graph

import (
	"math/rand/v2"
	"slices"
	"time"
)

// Source says where an estimate comes from.
type Source string

// Measured in rehearsals; expected by its owner, or the most that a rehearsal allows; guessed for want of anything.
const (
	Measured Source = "measured"
	Expected Source = "expected"
	Guessed  Source = "guessed"
)

// Estimate is how long something takes: one run in ten is done by Low, half by Likely, nine in ten by High. Of a service
// with few runs, Low and High are the least and the most. In nanoseconds.
type Estimate struct {
	Low    time.Duration `json:"low"`
	Likely time.Duration `json:"likely"`
	High   time.Duration `json:"high"`
	Source Source        `json:"source,omitempty"` // of a service
	Runs   int           `json:"runs,omitempty"`   // measured
}

// defaultGuess is what a service takes of which nothing is known.
const defaultGuess = 10 * time.Minute

// spans are what is known of each service's time: values in ascending order, between which any is as likely.
type spans struct {
	points    [][]int64
	estimates []Estimate
}

// newSpans takes the measured times of each service, else what is expected, else a guess. What nobody measured may take
// half or twice as long; what was measured once, from three quarters to one and a half.
func newSpans(g *Graph, guess time.Duration) *spans {
	if guess <= 0 {
		guess = defaultGuess
	}
	runs := map[string][]int64{}
	for i := range g.Proofs {
		p := &g.Proofs[i]
		if p.Rejected != "" {
			continue
		}
		for _, d := range p.Runs {
			runs[p.Service] = append(runs[p.Service], int64(d))
		}
	}
	most := map[string]time.Duration{}
	for i := range g.Rehearsals {
		h := &g.Rehearsals[i]
		most[h.Service] = max(most[h.Service], h.Within)
	}
	s := &spans{points: make([][]int64, len(g.Services)), estimates: make([]Estimate, len(g.Services))}
	for i := range g.Services {
		v := &g.Services[i]
		e := Estimate{Source: Measured, Runs: len(runs[v.Name])}
		p := runs[v.Name]
		slices.Sort(p)
		unknown := func(d time.Duration, from Source) []int64 {
			e.Source = from
			return []int64{int64(d) / 2, int64(d), 2 * int64(d)}
		}
		switch {
		case len(p) == 1:
			p = []int64{p[0] / 4 * 3, p[0], p[0] / 2 * 3}
		case len(p) > 1:
		case v.Takes > 0:
			p = unknown(v.Takes, Expected)
		case most[v.Name] > 0:
			p = unknown(most[v.Name], Expected)
		default:
			p = unknown(guess, Guessed)
		}
		e.Low, e.Likely, e.High = time.Duration(p[0]), time.Duration(quantile(p, 0.5)), time.Duration(p[len(p)-1])
		s.points[i], s.estimates[i] = p, e
	}
	return s
}

// quantile of values in ascending order, of which there is at least one, in a straight line between them.
func quantile(p []int64, q float64) int64 {
	at := q * float64(len(p)-1)
	i := min(int(at), len(p)-1)
	if i == len(p)-1 {
		return p[i]
	}
	return p[i] + int64((at-float64(i))*float64(p[i+1]-p[i]))
}

// likely is the middle time of each service.
func (s *spans) likely() []int64 {
	out := make([]int64, len(s.points))
	for i := range out {
		out[i] = int64(s.estimates[i].Likely)
	}
	return out
}

// predict plays the recovery of what fell again and again, each service taking any of its times. The same graph always
// gives the same answer.
func (s *storm) predict(sp *spans) Estimate {
	if len(s.down) == 0 {
		return Estimate{}
	}
	const work = 2_000_000 // services brought up
	takes := make([]int64, s.x.n())
	r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not for secrets
	samples := make([]int64, min(1000, max(20, work/len(s.down))))
	for i := range samples {
		for _, v := range s.down {
			takes[v] = quantile(sp.points[v], r.Float64())
		}
		samples[i] = int64(s.recover(takes))
	}
	slices.Sort(samples)
	return Estimate{
		Low: time.Duration(quantile(samples, 0.1)), Likely: time.Duration(quantile(samples, 0.5)), High: time.Duration(quantile(samples, 0.9)),
	}
}
