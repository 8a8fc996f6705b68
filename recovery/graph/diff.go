package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Diff is what a change of the graph means for recovery.
type Diff struct {
	Added      []string     `json:"added,omitempty"` // services
	Removed    []string     `json:"removed,omitempty"`
	NewEdges   []Change     `json:"new_edges,omitempty"`
	GoneEdges  []Change     `json:"gone_edges,omitempty"`
	NewLoops   []Loop       `json:"new_loops,omitempty"`
	GoneLoops  []Loop       `json:"gone_loops,omitempty"`
	Inversions []Inversion  `json:"inversions,omitempty"` // that were not there
	Stuck      []string     `json:"stuck,omitempty"`      // services that came back, or were not there, and never will
	Freed      []string     `json:"freed,omitempty"`      // services that never came back, and now do
	Never      int          `json:"never,omitempty"`      // services that never come back now
	Old        Estimate     `json:"old"`                  // until everything that comes back is back
	New        Estimate     `json:"new"`
	Slower     []TimeChange `json:"slower,omitempty"` // by a tenth and a minute at least; at most ten, the worst first
	Faster     []TimeChange `json:"faster,omitempty"`
}

// Change is an edge that was added or taken away.
type Change struct {
	Service string `json:"service"`
	Need    Need   `json:"need"`
}

// String is the edge in words.
func (c Change) String() string {
	verb := "needs"
	switch {
	case c.Need.Soft:
		verb = "was seen to reach"
	case c.Need.Managed:
		verb = "is managed by"
	}
	return fmt.Sprintf("%s %s %s", c.Service, verb, c.Need)
}

// TimeChange is when a service is back after everything was lost, before and now.
type TimeChange struct {
	Service string        `json:"service"`
	Old     time.Duration `json:"old"`
	New     time.Duration `json:"new"`
}

// Compare tells what changed between two graphs.
func Compare(before, now *Graph, o CheckOptions) Diff {
	var d Diff
	a, b := newSide(before, o), newSide(now, o)
	for i := range now.Services {
		s := &now.Services[i]
		old, ok := before.Find(s.Name)
		if !ok {
			d.Added = append(d.Added, s.Name)
		}
		d.NewEdges = append(d.NewEdges, missingIn(s, old)...)
		d.GoneEdges = append(d.GoneEdges, missingIn(&old, *s)...)
		if b.stuck[s.Name] && !a.stuck[s.Name] {
			d.Stuck = append(d.Stuck, s.Name)
		}
	}
	for i := range before.Services {
		s := &before.Services[i]
		if _, ok := now.Find(s.Name); !ok {
			d.Removed = append(d.Removed, s.Name)
			d.GoneEdges = append(d.GoneEdges, missingIn(s, Service{})...)
		} else if a.stuck[s.Name] && !b.stuck[s.Name] {
			d.Freed = append(d.Freed, s.Name)
		}
	}
	d.NewLoops, d.GoneLoops = b.loopsNotIn(a, d.NewEdges), a.loopsNotIn(b, d.GoneEdges)
	for _, v := range b.report.Inversions {
		if !slices.ContainsFunc(a.report.Inversions, func(w Inversion) bool { return v.From == w.From && v.To == w.To }) {
			d.Inversions = append(d.Inversions, v)
		}
	}
	d.Old, d.New, d.Never = a.time, b.time, len(b.stuck)
	for s, was := range a.finish {
		is, ok := b.finish[s]
		if by := (is - was).Abs(); !ok || by < time.Minute || by < was/10 {
			continue
		}
		if c := (TimeChange{s, was, is}); is > was {
			d.Slower = append(d.Slower, c)
		} else {
			d.Faster = append(d.Faster, c)
		}
	}
	for _, list := range []*[]TimeChange{&d.Slower, &d.Faster} {
		slices.SortFunc(*list, func(a, b TimeChange) int {
			return cmp.Or(cmp.Compare((b.New-b.Old).Abs(), (a.New-a.Old).Abs()), strings.Compare(a.Service, b.Service))
		})
		*list = (*list)[:min(len(*list), 10)]
	}
	return d
}

// Worse says whether the change makes something unrecoverable, closes a loop or turns tiers upside down.
func (d Diff) Worse() bool { return len(d.Stuck)+len(d.NewLoops)+len(d.Inversions) > 0 }

// missingIn are the edges of one service that another does not have.
func missingIn(s *Service, other Service) []Change {
	have := make(map[string]bool, len(other.Needs))
	id := func(n Need) string { return fmt.Sprint(n.Managed, n.Soft, key(n)) }
	for _, n := range other.Needs {
		have[id(n)] = true
	}
	var out []Change
	for _, n := range s.Needs {
		if !have[id(n)] {
			out = append(out, Change{s.Name, n})
		}
	}
	return out
}

// side is one of the two graphs that are compared.
type side struct {
	x      *index
	t      *tide
	report Report
	stuck  map[string]bool
	finish map[string]time.Duration
	time   Estimate
}

func newSide(g *Graph, o CheckOptions) *side {
	s := &side{x: newIndex(g, o.Observed), report: Check(g, o), stuck: map[string]bool{}, finish: map[string]time.Duration{}}
	s.t = s.x.rise()
	for _, n := range s.report.Stuck {
		s.stuck[n] = true
	}
	storm := newStorm(s.x)
	all, _ := s.x.find(nil, "") // everything is always there
	storm.fall(all, running)
	sp := newSpans(g, 0)
	s.time = storm.predict(sp)
	storm.recover(sp.likely())
	for _, v := range storm.order {
		s.finish[s.x.name(v)] = time.Duration(storm.finish[v])
	}
	return s
}

// loopsNotIn are the loops of this side that the other does not report, and for each edge that only this side has the
// shortest loop through it: at most 100.
func (s *side) loopsNotIn(other *side, edges []Change) []Loop {
	seen := map[string]bool{}
	for _, l := range other.report.Loops {
		seen[l.id()] = true
	}
	var out []Loop
	add := func(l Loop) {
		if id := l.id(); !seen[id] && len(out) < 100 {
			seen[id] = true
			out = append(out, l)
		}
	}
	for _, l := range s.report.Loops {
		add(l)
	}
	if len(s.report.Loops) == 0 {
		return nil
	}
	k := newKnots(s.x, s.t)
	for _, e := range edges {
		from, ok := s.x.id[e.Service]
		if e.Need.Soft || !ok || !s.stuck[e.Service] || len(out) >= 100 || k.visits > maxVisits {
			continue
		}
		by, _ := s.x.resolve(nil, e.Need.AnyOf)
		for _, to := range by {
			if s.t.wave[to] != 0 || !k.out.has(k.local[from], k.local[to]) {
				continue // another alternative holds
			}
			if path := k.path(k.local[to], k.local[from]); path != nil {
				add(k.loop(s.t, path))
			}
		}
	}
	return out
}

// id tells loops apart, wherever they start.
func (l Loop) id() string {
	at := 0
	for i, s := range l.Services {
		if s < l.Services[at] {
			at = i
		}
	}
	return strings.Join(append(slices.Clone(l.Services[at:]), l.Services[:at]...), "\x00")
}

// path is a shortest way from one stuck service to another, both in it; nil if there is none.
func (k *knots) path(from, to int32) []int32 {
	back := map[int32]int32{from: -1}
	queue := []int32{from}
	for i := 0; i < len(queue); i++ {
		v := queue[i]
		if v == to {
			var out []int32
			for ; v >= 0; v = back[v] {
				out = append(out, v)
			}
			slices.Reverse(out)
			return out
		}
		for _, w := range k.out.of(v) {
			k.visits++
			if _, ok := back[w]; !ok {
				back[w] = v
				queue = append(queue, w)
			}
		}
	}
	return nil
}

// Markdown is the change as a comment on a review.
func (d Diff) Markdown() string {
	var b strings.Builder
	switch {
	case len(d.NewLoops) > 0 || len(d.Stuck) > 0:
		fmt.Fprintf(&b, "### Recovery graph: %d services can no longer be brought back\n", len(d.Stuck))
	case d.Worse():
		b.WriteString("### Recovery graph: new inversions\n")
	case len(d.Freed) > 0:
		fmt.Fprintf(&b, "### Recovery graph: %d services can be brought back again\n", len(d.Freed))
	case len(d.Added)+len(d.Removed)+len(d.NewEdges)+len(d.GoneEdges) == 0 && d.Old == d.New:
		return "### Recovery graph: no change\n"
	default:
		b.WriteString("### Recovery graph: changed, and everything that came back still does\n")
	}
	if d.Old != d.New {
		without := ""
		if d.Never > 0 {
			without = fmt.Sprintf(", without the %d that never come back", d.Never)
		}
		fmt.Fprintf(&b, "\nTime to recover from nothing%s: **%s** (nine in ten within %s); it was %s (%s).\n", without, round(d.New.Likely), round(d.New.High), round(d.Old.Likely), round(d.Old.High))
	}
	part := func(title string, items []string) {
		const most = 20
		if len(items) == 0 {
			return
		}
		fmt.Fprintf(&b, "\n**%s** (%d)\n\n", title, len(items))
		for _, s := range items[:min(len(items), most)] {
			fmt.Fprintf(&b, "- %s\n", s)
		}
		if len(items) > most {
			fmt.Fprintf(&b, "- and %d more\n", len(items)-most)
		}
	}
	part("New loops", told(d.NewLoops, func(l Loop) string {
		s := markdown(l.Sentence())
		for _, e := range l.Edges[:min(len(l.Edges), 8)] {
			s += "\n  - " + markdown(e.String()) + " — " + markdown(e.Evidence())
		}
		return s
	}))
	part("Never comes back any more", told(d.Stuck, markdown))
	part("New inversions", told(d.Inversions, func(v Inversion) string { return markdown(v.String()) + " — " + markdown(v.Evidence()) }))
	part("New edges", told(d.NewEdges, func(c Change) string {
		return markdown(c.String()) + " — " + markdown(Edge{Need: c.Need}.Evidence())
	}))
	part("Edges that are gone", told(d.GoneEdges, func(c Change) string { return markdown(c.String()) }))
	part("Loops that are gone", told(d.GoneLoops, func(l Loop) string { return markdown(l.Sentence()) }))
	part("Comes back again", told(d.Freed, markdown))
	part("Later", told(d.Slower, TimeChange.markdown))
	part("Sooner", told(d.Faster, TimeChange.markdown))
	part("New services", told(d.Added, markdown))
	part("Services that are gone", told(d.Removed, markdown))
	return b.String()
}

func (c TimeChange) markdown() string {
	return fmt.Sprintf("%s after %s; it was %s", markdown(c.Service), round(c.New), round(c.Old))
}

func told[T any](items []T, tell func(T) string) []string {
	var out []string
	for _, i := range items {
		out = append(out, tell(i))
	}
	return out
}

// markdown makes a text mean nothing but itself (CommonMark 0.31, 2.4; @ calls nobody).
func markdown(s string) string {
	var b strings.Builder
	for _, c := range printable(s) {
		switch {
		case c == '@':
			b.WriteString("&#64;")
		case strings.ContainsRune("\\`*_{}[]<>()#!|~&$", c):
			b.WriteByte('\\')
			b.WriteRune(c)
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}
