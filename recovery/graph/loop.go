package graph

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Loop is services of which each waits for the next, and the last for the first.
type Loop struct {
	Services []string `json:"services"`
	Edges    []Edge   `json:"edges"`    // one for each service: to the next
	Shortest bool     `json:"shortest"` // no shorter one is in its knot; false where the search was too long
	Knot     int      `json:"knot"`     // services that are in one loop or another with these
}

// Edge is a need, and the service that would meet it.
type Edge struct {
	From string `json:"from"`
	To   string `json:"to"`
	Need Need   `json:"need"`
}

// loops are the shortest loops of each knot, the shortest first.
func (x *index) loops(t *tide) []Loop {
	k := newKnots(x, t)
	return k.loops(t, k.components())
}

func (k *knots) loops(t *tide, components [][]int32) []Loop {
	var all []Loop
	for _, c := range components {
		found, exact := k.shortest(c)
		l := k.loop(t, found)
		l.Shortest, l.Knot = exact, len(c)
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b Loop) int { return len(a.Services) - len(b.Services) })
	return all
}

// loop tells a loop of stuck services.
func (k *knots) loop(t *tide, found []int32) Loop {
	l := Loop{}
	found = k.fromLowest(found)
	for i, v := range found {
		s, next := k.services[v], k.services[found[(i+1)%len(found)]]
		l.Services = append(l.Services, k.x.name(s))
		l.Edges = append(l.Edges, k.x.edge(t, s, next))
	}
	return l
}

// fromLowest turns a loop so that it starts with the service nearest to the hardware: the one that a person would start
// first.
func (k *knots) fromLowest(loop []int32) []int32 {
	best := 0
	for i, v := range loop {
		if k.tier(v) < k.tier(loop[best]) || k.tier(v) == k.tier(loop[best]) && v < loop[best] {
			best = i
		}
	}
	return append(slices.Clone(loop[best:]), loop[:best]...)
}

// tier is of a stuck service; those that say none come last.
func (k *knots) tier(v int32) int {
	if t := k.x.g.Services[k.services[v]].Tier; t != NoTier {
		return t
	}
	return math.MaxInt
}

// edge is what makes one service wait for another: of several needs the one with the best evidence, of those a manager.
func (x *index) edge(t *tide, from, to int32) Edge {
	e := Edge{From: x.name(from), To: x.name(to)}
	rank := -1
	for g := x.groups[from]; g < x.groups[from+1]; g++ {
		if t.holds[g] || !slices.Contains(x.group(g), to) {
			continue
		}
		n := x.needOf(g)
		r := 4 * int(n.Provenance)
		if len(n.AnyOf) == 1 {
			r += 2
		}
		if n.Managed {
			r++
		}
		if r > rank {
			e.Need, rank = *n, r
		}
	}
	return e
}

// String is the edge in words: zk is managed by scheduler.
func (e Edge) String() string {
	verb := "needs"
	if e.Need.Managed {
		verb = "is managed by"
	}
	if len(e.Need.AnyOf) == 1 {
		if n := e.Need.AnyOf[0]; n != e.To {
			return fmt.Sprintf("%s %s %s, which is %s's", e.From, verb, n, e.To)
		}
		return fmt.Sprintf("%s %s %s", e.From, verb, e.To)
	}
	others := slices.DeleteFunc(slices.Clone(e.Need.AnyOf), func(n string) bool { return n == e.To })
	if len(others) == len(e.Need.AnyOf) {
		return fmt.Sprintf("%s %s %s, of which none comes without %s", e.From, verb, strings.Join(others, " or "), e.To)
	}
	return fmt.Sprintf("%s %s %s (%s does not come either)", e.From, verb, e.To, strings.Join(others, " or "))
}

// Evidence says where the edge comes from: declared, services.yaml:12.
func (e Edge) Evidence() string {
	var b strings.Builder
	b.WriteString(e.Need.Provenance.String())
	if e.Need.Proof != "" {
		b.WriteString(" in " + printable(e.Need.Proof))
	}
	if at := e.Need.At; at.File != "" && at.File != e.Need.Proof {
		fmt.Fprintf(&b, ", %s:%d", printable(at.File), at.Line)
	} else if at.File != "" && at.Line > 0 {
		fmt.Fprintf(&b, ":%d", at.Line)
	}
	return b.String()
}

// Sentence tells the loop to a person.
func (l Loop) Sentence() string {
	if len(l.Services) == 1 {
		if n := l.Edges[0].Need; len(n.AnyOf) == 1 && n.AnyOf[0] != l.Services[0] {
			return strings.TrimSuffix(l.Edges[0].String(), l.Services[0]+"'s") + "its own: it can never start"
		} else if len(n.AnyOf) > 1 {
			return l.Edges[0].String() + ": it can never start"
		}
		return strings.TrimSuffix(l.Edges[0].String(), l.Services[0]) + "itself: it can never start"
	}
	var b strings.Builder
	const most = 8 // edges that a sentence holds
	for i, e := range l.Edges {
		if len(l.Edges) > most && i == most/2 {
			fmt.Fprintf(&b, ", … %d more …", len(l.Edges)-most)
		}
		if len(l.Edges) > most && i >= most/2 && i < len(l.Edges)-most/2 {
			continue
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.String())
	}
	if len(l.Services) == 2 {
		b.WriteString(": neither can start first")
	} else {
		b.WriteString(": none of them can start first")
	}
	return b.String()
}
