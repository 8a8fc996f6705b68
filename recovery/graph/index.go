package graph

import (
	"slices"
	"strings"
)

// index is a graph in numbers: services in the order of the graph, each with groups, of which every one must hold, each
// with alternatives, of which any one will do. What is given makes a group hold from the start, so it has none.
type index struct {
	g     *Graph
	id    map[string]int32
	offer map[string][]int32 // services that provide a capability

	groups []int32 // n+1: where a service's groups start
	alts   []int32 // groups+1: where a group's alternatives start
	to     []int32 // the alternatives
	of     []int32 // the service of each group
	manage []bool  // whether a group is of a manager
	need   []int32 // the index in its service's Needs of each group
	users  []int32 // n+1: where the groups that have a service as alternative start in used
	used   []int32
}

func (x *index) n() int { return len(x.g.Services) }

func (x *index) group(g int32) []int32 { return x.to[x.alts[g]:x.alts[g+1]] }

// needOf is the edge that a group stands for.
func (x *index) needOf(g int32) *Need { return &x.g.Services[x.of[g]].Needs[x.need[g]] }

func (x *index) name(s int32) string { return x.g.Services[s].Name }

// newIndex numbers a graph. Soft edges are left out unless observed is set.
func newIndex(g *Graph, observed bool) *index {
	n := len(g.Services)
	x := &index{g: g, id: make(map[string]int32, n), offer: map[string][]int32{}, groups: make([]int32, 1, n+1), alts: []int32{0}}
	edges := 0
	for i := range g.Services {
		s := &g.Services[i]
		x.id[s.Name] = int32(i)
		for _, p := range s.Provides {
			x.offer[p] = append(x.offer[p], int32(i))
		}
		edges += len(s.Needs)
	}
	x.to, x.of, x.need = make([]int32, 0, edges), make([]int32, 0, edges), make([]int32, 0, edges)
	x.alts = slices.Grow(x.alts, edges)
	var found []int32
	for i := range g.Services {
		for j := range g.Services[i].Needs {
			need := &g.Services[i].Needs[j]
			if need.Soft && !observed {
				continue
			}
			var given bool
			if found, given = x.resolve(found[:0], need.AnyOf); given {
				continue
			}
			x.to = append(x.to, found...)
			x.alts = append(x.alts, int32(len(x.to)))
			x.manage = append(x.manage, need.Managed)
			x.of = append(x.of, int32(i))
			x.need = append(x.need, int32(j))
		}
		x.groups = append(x.groups, int32(len(x.of)))
	}
	x.reverse()
	return x
}

func (x *index) reverse() {
	x.users = make([]int32, x.n()+1)
	for _, t := range x.to {
		x.users[t+1]++
	}
	for i := range x.n() {
		x.users[i+1] += x.users[i]
	}
	x.used = make([]int32, len(x.to))
	at := slices.Clone(x.users[:x.n()])
	for g := range int32(len(x.of)) {
		for _, t := range x.group(g) {
			x.used[at[t]] = g
			at[t]++
		}
	}
}

// resolve adds the services that make any of the names hold, each once, or says that one is given.
func (x *index) resolve(to []int32, names []string) ([]int32, bool) {
	for _, name := range names {
		before := len(to)
		if s, ok := x.id[name]; ok {
			to = append(to, s)
		}
		to = append(to, x.offer[name]...)
		if len(to) > before {
			continue
		}
		if x.given(name) {
			return to, true
		}
		if head, _, ok := strings.Cut(name, ":"); ok {
			if s, ok := x.id[head]; ok {
				to = append(to, s)
			} else if x.given(head) {
				return to, true
			}
		}
	}
	if len(to) > 1 {
		slices.Sort(to)
		to = slices.Compact(to)
	}
	return to, false
}

func (x *index) given(name string) bool {
	_, ok := slices.BinarySearch(x.g.Given, name)
	return ok
}

// known says whether anything makes a name hold.
func (x *index) known(name string) bool {
	to, given := x.resolve(nil, []string{name})
	return given || len(to) > 0
}

// tide is how far a recovery has come.
type tide struct {
	wave  []int32 // of each service, from 1; 0: it is not up
	left  []int32 // groups of each service that do not hold yet
	holds []bool  // groups
	order []int32 // services in the order they came up, by wave and then by number
}

// rise brings up everything that can be, from nothing. Each wave needs only what is in the waves before.
func (x *index) rise() *tide {
	t := &tide{wave: make([]int32, x.n()), left: make([]int32, x.n()), holds: make([]bool, len(x.of)), order: make([]int32, 0, x.n())}
	for s := range int32(x.n()) {
		if t.left[s] = x.groups[s+1] - x.groups[s]; t.left[s] == 0 {
			t.wave[s] = 1
			t.order = append(t.order, s)
		}
	}
	x.spread(t, 0)
	return t
}

// spread goes on from the services in t.order[from:].
func (x *index) spread(t *tide, from int) {
	for i := from; i < len(t.order); {
		end := len(t.order)
		for ; i < end; i++ {
			s := t.order[i]
			for _, g := range x.used[x.users[s]:x.users[s+1]] {
				if t.holds[g] {
					continue
				}
				t.holds[g] = true
				o := x.of[g]
				if t.left[o]--; t.left[o] == 0 && t.wave[o] == 0 {
					t.wave[o] = t.wave[s] + 1
					t.order = append(t.order, o)
				}
			}
		}
		slices.Sort(t.order[end:])
	}
}

func (t *tide) clone() *tide {
	return &tide{wave: slices.Clone(t.wave), left: slices.Clone(t.left), holds: slices.Clone(t.holds), order: slices.Clone(t.order)}
}

// stuck are the services that are not up.
func (t *tide) stuck() []int32 {
	var out []int32
	for s, w := range t.wave {
		if w == 0 {
			out = append(out, int32(s))
		}
	}
	return out
}
