package graph

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// CheckOptions are what a check cannot know from the graph.
type CheckOptions struct {
	Now      time.Time     // zero: the age of proofs is not looked at
	MaxAge   time.Duration // after which a proof is stale; 0: never
	Kit      string        // digest of the kit in use; "": not looked at
	Observed bool          // what was seen in use counts as needed
	Top      int           // entries of Single and Unlock; 10 if 0
}

// Report is the answer of a check.
type Report struct {
	Recoverable bool         `json:"recoverable"` // everything comes back
	Services    int          `json:"services"`
	Edges       int          `json:"edges"`
	Waves       []int        `json:"waves,omitempty"` // services in each
	Stuck       []string     `json:"stuck,omitempty"` // what never comes back
	Loops       []Loop       `json:"loops,omitempty"` // one for each knot, the shortest first; at most 1000
	Missing     []Missing    `json:"missing,omitempty"`
	Inversions  []Inversion  `json:"inversions,omitempty"`
	Undeclared  []Undeclared `json:"undeclared,omitempty"`
	Unproven    []Unproven   `json:"unproven,omitempty"`
	Single      []Single     `json:"single,omitempty"`
	Unlock      []Unlock     `json:"unlock,omitempty"`
	Jumpstart   []string     `json:"jumpstart,omitempty"` // services whose recovery containers together break every loop; at most ten
	Problems    []Problem    `json:"problems,omitempty"`
}

// Missing is a need of which nobody provides any name.
type Missing struct {
	Service string `json:"service"`
	Need    Need   `json:"need"`
}

// Inversion is a service that waits for one of a higher tier than its own.
type Inversion struct {
	Edge
	Tier   int `json:"tier"`
	ToTier int `json:"to_tier"`
}

// Undeclared is what a service was seen to reach, and does not say that it needs.
type Undeclared struct {
	Service  string   `json:"service"`
	Name     string   `json:"name"`
	Provider []string `json:"provider,omitempty"` // services; empty where the name is nobody's
	Need     Need     `json:"need"`
	Closes   bool     `json:"closes,omitempty"` // it would close a loop: each provider waits for the service
}

// Check answers whether everything can be brought back from what is given, and if not, why not.
func Check(g *Graph, o CheckOptions) Report {
	if o.Top == 0 {
		o.Top = 10
	}
	x := newIndex(g, o.Observed)
	t := x.rise()
	r := Report{Services: x.n(), Recoverable: len(t.order) == x.n()}
	for i := range g.Services {
		r.Edges += len(g.Services[i].Needs)
	}
	for _, s := range t.order {
		if w := int(t.wave[s]); w > len(r.Waves) {
			r.Waves = append(r.Waves, 0)
		}
		r.Waves[t.wave[s]-1]++
	}
	if !r.Recoverable {
		for _, s := range t.stuck() {
			r.Stuck = append(r.Stuck, x.name(s))
		}
	}
	// What is stuck and what is not are looked at side by side: either takes a second in a large graph.
	var wg sync.WaitGroup
	if !r.Recoverable {
		wg.Go(func() {
			t := t.clone()
			k := newKnots(x, t)
			all := k.components()
			r.Loops = k.loops(t, all)
			r.Loops = r.Loops[:min(len(r.Loops), 1000)]
			r.Unlock = k.unlocks(t, all, o.Top)
			r.Jumpstart = k.jumpstarts(t, all)
		})
	}
	r.Problems = append(slices.Clone(g.Problems), x.unknown(&r.Missing)...)
	r.Inversions = x.inversions(t)
	r.Undeclared = x.undeclared()
	r.Unproven = unproven(g, o)
	r.Single = x.single(t, o.Top)
	wg.Wait()
	return r
}

// unknown are the names that nobody provides, once for each place.
func (x *index) unknown(missing *[]Missing) []Problem {
	var out []Problem
	note := func(s string, n *Need, name string) {
		out = append(out, Problem{Kind: Unknown, Service: s, Message: fmt.Sprintf("%s needs %s, which no service provides", s, name), At: n.At})
	}
	for g := range int32(len(x.of)) {
		if len(x.group(g)) > 0 {
			continue
		}
		n := x.needOf(g)
		*missing = append(*missing, Missing{Service: x.name(x.of[g]), Need: *n})
		if len(n.AnyOf) == 1 {
			note(x.name(x.of[g]), n, n.AnyOf[0])
		}
	}
	for i := range x.g.Services {
		s := &x.g.Services[i]
		for j := range s.Needs {
			n := &s.Needs[j]
			if len(n.AnyOf) < 2 || n.Soft {
				continue
			}
			for _, name := range n.AnyOf {
				if !x.known(name) {
					note(s.Name, n, name)
				}
			}
		}
	}
	return out
}

// inversions are the groups of which every alternative is of a higher tier.
func (x *index) inversions(t *tide) []Inversion {
	var out []Inversion
	for g := range int32(len(x.of)) {
		s := x.of[g]
		tier := x.g.Services[s].Tier
		if tier == NoTier || len(x.group(g)) == 0 {
			continue
		}
		best := int32(-1)
		for _, o := range x.group(g) {
			ot := x.g.Services[o].Tier
			if ot <= tier { // NoTier among them: who does not say cannot be wrong
				best = -1
				break
			}
			if best < 0 || ot < x.g.Services[best].Tier {
				best = o
			}
		}
		if best >= 0 {
			out = append(out, Inversion{Edge: Edge{From: x.name(s), To: x.name(best), Need: *x.needOf(g)}, Tier: tier, ToTier: x.g.Services[best].Tier})
		}
	}
	return out
}

// String tells the inversion to a person.
func (v Inversion) String() string {
	return fmt.Sprintf("%s: %s is of tier %d, %s of tier %d", v.Edge, v.From, v.Tier, v.To, v.ToTier)
}

// undeclared are the soft edges that no other edge covers.
func (x *index) undeclared() []Undeclared {
	var out []Undeclared
	var storm *storm
	looked := 0
	for i := range x.g.Services {
		s := &x.g.Services[i]
		for j := range s.Needs {
			n := &s.Needs[j]
			if !n.Soft {
				continue
			}
			to, given := x.resolve(nil, n.AnyOf)
			if given || x.covered(int32(i), to) || slices.Contains(to, int32(i)) {
				continue
			}
			u := Undeclared{Service: s.Name, Name: n.String(), Need: *n}
			for _, p := range to {
				u.Provider = append(u.Provider, x.name(p))
			}
			const most = 5_000_000 // services looked at: each edge looks at all that waits for its service
			if len(to) > 0 && looked < most {
				if storm == nil {
					storm = newStorm(x)
				}
				storm.fall([]int32{int32(i)}, startingToo)
				looked += 1 + len(storm.down)
				u.Closes = !slices.ContainsFunc(to, func(p int32) bool { return !storm.isDown(p) })
			}
			out = append(out, u)
		}
	}
	return out
}

// covered says whether a service has an edge that any of the providers meets.
func (x *index) covered(s int32, providers []int32) bool {
	for g := x.groups[s]; g < x.groups[s+1]; g++ {
		if x.needOf(g).Soft {
			continue
		}
		for _, p := range providers {
			if slices.Contains(x.group(g), p) {
				return true
			}
		}
	}
	return false
}

// String tells it to a person.
func (u Undeclared) String() string {
	s := fmt.Sprintf("%s reaches %s, and does not say that it needs it", u.Service, u.Name)
	if len(u.Provider) > 0 && !(len(u.Provider) == 1 && u.Provider[0] == u.Name) {
		s += " (" + strings.Join(u.Provider, " or ") + " provides it)"
	}
	if u.Closes {
		s += "; if it does, that is a loop"
	}
	return s
}
