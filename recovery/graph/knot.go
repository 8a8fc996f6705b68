package graph

import (
	"math"
	"slices"
)

// maxVisits bounds the search for shortest loops, in edges looked at: about a second.
const maxVisits = 100_000_000

// knots is the part of a graph that is stuck, in which every service waits for others of it or for a name that nobody
// provides.
type knots struct {
	x        *index
	services []int32 // stuck, in the order of the graph
	local    []int32 // of each service of the graph its number here
	out      csr
	in       csr
	search   *search
	visits   int
}

// csr is a directed graph: the neighbours of i are to[at[i]:at[i+1]], in ascending order.
type csr struct{ at, to []int32 }

func (c csr) of(i int32) []int32 { return c.to[c.at[i]:c.at[i+1]] }

func (c csr) has(from, to int32) bool {
	_, ok := slices.BinarySearch(c.of(from), to)
	return ok
}

func newKnots(x *index, t *tide) *knots {
	k := &knots{x: x, services: t.stuck(), local: make([]int32, x.n())}
	for i, s := range k.services {
		k.local[s] = int32(i)
	}
	n := len(k.services)
	k.out.at, k.in.at = make([]int32, 1, n+1), make([]int32, n+1)
	for _, s := range k.services {
		from := len(k.out.to)
		for g := x.groups[s]; g < x.groups[s+1]; g++ {
			if t.holds[g] {
				continue
			}
			for _, o := range x.group(g) {
				k.out.to = append(k.out.to, k.local[o])
			}
		}
		row := k.out.to[from:]
		slices.Sort(row)
		row = slices.Compact(row)
		k.out.to = k.out.to[:from+len(row)]
		k.out.at = append(k.out.at, int32(len(k.out.to)))
	}
	for _, o := range k.out.to {
		k.in.at[o+1]++
	}
	for i := range n {
		k.in.at[i+1] += k.in.at[i]
	}
	k.in.to = make([]int32, len(k.out.to))
	at := slices.Clone(k.in.at[:n])
	for i := range int32(n) {
		for _, o := range k.out.of(i) {
			k.in.to[at[o]] = i
			at[o]++
		}
	}
	return k
}

// components are the strongly connected ones that hold a loop, each in ascending order (Tarjan, 1972, without recursion).
func (k *knots) components() [][]int32 {
	n := len(k.services)
	low, number := make([]int32, n), make([]int32, n)
	onStack := make([]bool, n)
	type frame struct{ node, next int32 }
	var stack []int32
	var calls []frame
	var all [][]int32
	count := int32(0)
	for root := range int32(n) {
		if number[root] != 0 {
			continue
		}
		calls = append(calls, frame{node: root})
		for len(calls) > 0 {
			f := &calls[len(calls)-1]
			v := f.node
			if f.next == 0 {
				count++
				number[v], low[v] = count, count
				stack = append(stack, v)
				onStack[v] = true
			}
			if row := k.out.of(v); int(f.next) < len(row) {
				w := row[f.next]
				f.next++
				switch {
				case number[w] == 0:
					calls = append(calls, frame{node: w})
				case onStack[w]:
					low[v] = min(low[v], number[w])
				}
				continue
			}
			calls = calls[:len(calls)-1]
			if len(calls) > 0 {
				u := calls[len(calls)-1].node
				low[u] = min(low[u], low[v])
			}
			if low[v] != number[v] {
				continue
			}
			at := len(stack) - 1
			for ; stack[at] != v; at-- {
				onStack[stack[at]] = false
			}
			onStack[v] = false
			if len(stack)-at > 1 || k.out.has(v, v) {
				c := slices.Clone(stack[at:])
				slices.Sort(c)
				all = append(all, c)
			}
			stack = stack[:at]
		}
	}
	slices.SortFunc(all, func(a, b []int32) int { return int(a[0] - b[0]) })
	return all
}

// pair is two services of a component that wait for each other, the nearest to the hardware of several; nil if there are
// none.
func (k *knots) pair(c []int32) []int32 {
	var best []int32
	low := math.MaxInt
	for _, v := range c {
		for _, w := range k.out.of(v) {
			if v < w && k.out.has(w, v) {
				if tier := min(k.tier(v), k.tier(w)); best == nil || tier < low {
					best, low = []int32{v, w}, tier
				}
			}
		}
	}
	return best
}

// shortest is a shortest loop of a component, each service waiting for the next. It is false where the search was given up, and the loop may not be a shortest one.
func (k *knots) shortest(c []int32) ([]int32, bool) {
	for _, v := range c {
		if k.out.has(v, v) {
			return []int32{v}, true
		}
	}
	if pair := k.pair(c); pair != nil {
		return pair, true
	}
	s := k.prepare(c)
	defer s.leave(c)
	var best []int32
	for _, v := range c {
		if !s.there[v] {
			continue
		}
		if best != nil && (len(best) == 3 || k.visits > maxVisits) {
			return best, len(best) == 3
		}
		if loop := s.through(v, len(best)); loop != nil {
			best = loop
		}
		// Any other loop through v is as long or longer: what is left without v is the rest of the question.
		s.remove(v)
	}
	return best, true
}

// search looks for loops in what is left of a component.
type search struct {
	k       *knots
	there   []bool  // of each stuck service
	in, out []int32 // edges left
	from    []int32 // of each service reached: from where, plus one
	queue   []int32
	gone    []int32
}

// prepare makes a search for a component. There is one at a time.
func (k *knots) prepare(c []int32) *search {
	if k.search == nil {
		n := len(k.services)
		k.search = &search{k: k, there: make([]bool, n), in: make([]int32, n), out: make([]int32, n), from: make([]int32, n)}
	}
	s := k.search
	for _, v := range c {
		s.there[v] = true
	}
	for _, v := range c {
		for _, w := range k.out.of(v) {
			if s.there[w] {
				s.out[v]++
				s.in[w]++
			}
		}
	}
	return s
}

// leave makes the search ready for another component.
func (s *search) leave(c []int32) {
	for _, v := range c {
		s.there[v], s.in[v], s.out[v] = false, 0, 0
	}
}

// through is a shortest loop through v; nil if there is none with fewer services than a bound, unless the bound is 0.
func (s *search) through(v int32, bound int) []int32 {
	for _, u := range s.queue {
		s.from[u] = 0
	}
	s.queue = append(s.queue[:0], v)
	depth, end := 1, 1
	for i := 0; i < len(s.queue); i++ {
		if i == end {
			depth, end = depth+1, len(s.queue)
		}
		if bound > 0 && depth >= bound {
			return nil
		}
		u := s.queue[i]
		for _, w := range s.k.out.of(u) {
			s.k.visits++
			if w == v {
				loop := []int32{u}
				for u != v {
					u = s.from[u] - 1
					loop = append(loop, u)
				}
				slices.Reverse(loop)
				return loop
			}
			if s.from[w] == 0 && s.there[w] {
				s.from[w] = u + 1
				s.queue = append(s.queue, w)
			}
		}
	}
	return nil
}

// remove takes a service away, and then all that no loop can go through any more.
func (s *search) remove(v int32) {
	s.there[v] = false
	s.gone = append(s.gone[:0], v)
	for len(s.gone) > 0 {
		v := s.gone[len(s.gone)-1]
		s.gone = s.gone[:len(s.gone)-1]
		for _, w := range s.k.out.of(v) {
			if s.there[w] {
				if s.in[w]--; s.in[w] == 0 {
					s.there[w] = false
					s.gone = append(s.gone, w)
				}
			}
		}
		for _, w := range s.k.in.of(v) {
			if s.there[w] {
				if s.out[w]--; s.out[w] == 0 {
					s.there[w] = false
					s.gone = append(s.gone, w)
				}
			}
		}
	}
}
