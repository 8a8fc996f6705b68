package graph

import (
	"cmp"
	"math/bits"
	"slices"
)

// Single is a service without which others never come back.
type Single struct {
	Service string `json:"service"`
	Owner   string `json:"owner,omitempty"`
	Loses   int    `json:"loses"` // services that never come back without it, besides itself
}

// lanes is how many services are taken away at once, a bit for each.
const lanes = 4

type mask [lanes]uint64

// single finds the services whose loss makes the most others unrecoverable, worst first.
//
// Whoever needs a service, with nothing that stands in for it, loses less than it does. So only what has no such need is
// looked at first, and its users when it turned out to be among the worst.
func (x *index) single(t *tide, top int) []Single {
	waits := make([]int32, x.n()) // needs without an alternative that were not among the worst yet
	var next []int32
	for _, s := range t.order {
		waits[s] = int32(len(x.parents(s)))
		if waits[s] == 0 && x.users[s+1] > x.users[s] {
			next = append(next, s)
		}
	}
	type loss struct {
		service int32
		loses   int
	}
	var seen []loss
	var out []Single
	lost := x.newLosses(t)
	for len(out) < top {
		for len(next) > 0 {
			batch := next[:min(len(next), 64*lanes)]
			next = next[len(batch):]
			for i, n := range lost.count(batch) {
				if n > 0 {
					seen = append(seen, loss{batch[i], n})
				}
			}
		}
		if len(seen) == 0 {
			break
		}
		best := slices.MinFunc(seen, func(a, b loss) int {
			return cmp.Or(b.loses-a.loses, int(a.service-b.service))
		})
		seen = slices.DeleteFunc(seen, func(l loss) bool { return l == best })
		out = append(out, Single{Service: x.name(best.service), Owner: x.g.Services[best.service].Owner, Loses: best.loses})
		for _, g := range x.used[x.users[best.service]:x.users[best.service+1]] {
			s := x.of[g]
			if t.wave[s] == 0 || !slices.Contains(x.parents(s), best.service) || s == best.service {
				continue
			}
			if waits[s]--; waits[s] == 0 && x.users[s+1] > x.users[s] {
				next = append(next, s)
			}
		}
	}
	return out
}

// parents are what a service needs with nothing that stands in for it, once for each.
func (x *index) parents(s int32) []int32 {
	var out []int32
	for g := x.groups[s]; g < x.groups[s+1]; g++ {
		if a := x.group(g); len(a) == 1 {
			out = append(out, a[0])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// losses counts what never comes back without a service, for many services at once.
type losses struct {
	x     *index
	order []int32
	up    []mask
	once  bool // no service has an alternative that comes after it: one pass is enough
}

func (x *index) newLosses(t *tide) *losses {
	l := &losses{x: x, order: t.order, up: make([]mask, x.n()), once: true}
	for _, s := range t.order {
		for g := x.groups[s]; g < x.groups[s+1] && l.once; g++ {
			for _, a := range x.group(g) {
				if t.wave[a] != 0 && t.wave[a] >= t.wave[s] {
					l.once = false
				}
			}
		}
	}
	return l
}

// count takes each of at most 64*lanes services away, alone, and counts the others that stay down.
func (l *losses) count(without []int32) []int {
	clear(l.up)
	down := make(map[int32]mask, len(without))
	for i, s := range without {
		m := down[s]
		m[i/64] |= 1 << (i % 64)
		down[s] = m
	}
	for changed := true; changed; {
		changed = false
		for _, s := range l.order {
			if l.lift(s, down) && !l.once {
				changed = true
			}
		}
	}
	out := make([]int, len(without))
	for _, s := range l.order {
		for lane, m := range l.up[s] {
			for m = ^m & l.asked(lane, len(without)); m != 0; m &= m - 1 {
				out[64*lane+bits.TrailingZeros64(m)]++
			}
		}
	}
	for i := range out {
		out[i]-- // itself
	}
	return out
}

// asked are the bits of a lane that stand for one of n services.
func (l *losses) asked(lane, n int) uint64 {
	switch n -= 64 * lane; {
	case n >= 64:
		return ^uint64(0)
	case n <= 0:
		return 0
	}
	return 1<<n - 1
}

// lift computes in which of the cases a service comes up, and says whether that is more than before.
func (l *losses) lift(s int32, down map[int32]mask) bool {
	up := mask{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	for g := l.x.groups[s]; g < l.x.groups[s+1]; g++ {
		var any mask
		for _, a := range l.x.group(g) {
			for i, m := range l.up[a] {
				any[i] |= m
			}
		}
		for i := range up {
			up[i] &= any[i]
		}
	}
	if m, ok := down[s]; ok {
		for i := range up {
			up[i] &^= m[i]
		}
	}
	changed := up != l.up[s]
	l.up[s] = up
	return changed
}
