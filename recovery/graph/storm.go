package graph

import (
	"slices"
	"time"
)

// storm plays what falls with a loss, and how it comes back. It is used for one loss after the other; each costs in
// proportion to what falls.
type storm struct {
	x     *index
	round int32
	seen  []int32 // the round in which a service fell
	alive []int32 // alternatives of a group that did not fall
	fresh []int32 // the round that alive is of
	down  []int32 // what fell, those lost first

	up     []int32 // the round in which a service came back
	left   []int32 // groups it waits for
	holder []int32 // the alternative that made a group hold again; -1: none yet, or it never fell
	last   []int32 // the alternative that came last of those a service waited for; -1: it waited for none
	finish []int64 // nanoseconds from the start
	order  []int32 // what came back, in that order
	queue  arrivals
}

// reach is along which edges a loss spreads.
type reach int

const (
	nothingElse reach = iota // only what was named is lost
	running                  // what runs falls with what it needs, but goes on without its manager
	startingToo              // what could not be started is down as well
)

func newStorm(x *index) *storm {
	n, groups := x.n(), len(x.of)
	return &storm{
		x: x, seen: make([]int32, n), alive: make([]int32, groups), fresh: make([]int32, groups),
		up: make([]int32, n), left: make([]int32, n), holder: make([]int32, groups), last: make([]int32, n), finish: make([]int64, n),
	}
}

func (s *storm) isDown(v int32) bool { return s.seen[v] == s.round }

// fall takes services away, and all that goes with them.
func (s *storm) fall(lost []int32, r reach) {
	s.round++
	s.down = s.down[:0]
	drop := func(v int32) {
		if s.seen[v] != s.round {
			s.seen[v] = s.round
			s.down = append(s.down, v)
		}
	}
	for _, v := range lost {
		drop(v)
	}
	for i := 0; i < len(s.down); i++ {
		v := s.down[i]
		for _, g := range s.x.used[s.x.users[v]:s.x.users[v+1]] {
			if s.fresh[g] != s.round {
				s.fresh[g], s.alive[g] = s.round, int32(len(s.x.group(g)))
			}
			s.alive[g]--
			if s.alive[g] == 0 && (r == startingToo || r == running && !s.x.manage[g]) {
				drop(s.x.of[g])
			}
		}
	}
}

// dead says whether no alternative of a group is there.
func (s *storm) dead(g int32) bool {
	return len(s.x.group(g)) == 0 || s.fresh[g] == s.round && s.alive[g] == 0
}

// recover brings back what fell, each as soon as what it waits for is there, and returns how long that takes.
// takes is the time of each service in nanoseconds.
func (s *storm) recover(takes []int64) time.Duration {
	s.order, s.queue = s.order[:0], s.queue[:0]
	for _, v := range s.down {
		s.left[v], s.last[v] = 0, -1
		for g := s.x.groups[v]; g < s.x.groups[v+1]; g++ {
			if s.holder[g] = -1; s.dead(g) {
				s.left[v]++
			}
		}
		if s.left[v] == 0 {
			s.finish[v] = takes[v]
			s.queue = append(s.queue, arrival{takes[v], v})
		}
	}
	for i := len(s.queue)/2 - 1; i >= 0; i-- {
		s.queue.sink(i)
	}
	var now int64
	for len(s.queue) > 0 {
		a := s.queue.pop()
		now = a.at
		s.up[a.service] = s.round
		s.order = append(s.order, a.service)
		for _, g := range s.x.used[s.x.users[a.service]:s.x.users[a.service+1]] {
			o := s.x.of[g]
			if s.seen[o] != s.round || !s.dead(g) || s.holder[g] >= 0 {
				continue
			}
			s.holder[g] = a.service
			if s.left[o]--; s.left[o] == 0 {
				s.last[o] = a.service
				s.finish[o] = now + takes[o]
				s.queue.push(arrival{s.finish[o], o})
			}
		}
	}
	return time.Duration(now)
}

// stuck is how many of what fell never come back.
func (s *storm) stuck() int { return len(s.down) - len(s.order) }

// left is the services that never come back, in the order of the graph.
func (s *storm) lost() []int32 {
	var out []int32
	for _, v := range s.down {
		if s.up[v] != s.round {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

// tide is where the storm ended, for what looks at loops.
func (s *storm) tide() *tide {
	t := &tide{wave: make([]int32, s.x.n()), holds: make([]bool, len(s.x.of))}
	for v := range t.wave {
		t.wave[v] = 1
	}
	for _, v := range s.lost() {
		t.wave[v] = 0
		for g := s.x.groups[v]; g < s.x.groups[v+1]; g++ {
			t.holds[g] = !s.dead(g) || s.holder[g] >= 0
		}
	}
	return t
}

// arrival is a service that comes up at a time.
type arrival struct {
	at      int64
	service int32
}

// arrivals is a heap, the earliest first, of services that come at the same time the first of the graph.
type arrivals []arrival

func (a arrival) before(b arrival) bool {
	return a.at < b.at || a.at == b.at && a.service < b.service
}

func (h *arrivals) push(a arrival) {
	*h = append(*h, a)
	q := *h
	i := len(q) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !a.before(q[up]) {
			break
		}
		q[i] = q[up]
		i = up
	}
	q[i] = a
}

func (h *arrivals) pop() arrival {
	q := *h
	first := q[0]
	q[0] = q[len(q)-1]
	*h = q[:len(q)-1]
	h.sink(0)
	return first
}

func (h *arrivals) sink(i int) {
	q := *h
	if i >= len(q) {
		return
	}
	a := q[i]
	for {
		down := 2*i + 1
		if down >= len(q) {
			break
		}
		if down+1 < len(q) && q[down+1].before(q[down]) {
			down++
		}
		if !q[down].before(a) {
			break
		}
		q[i] = q[down]
		i = down
	}
	q[i] = a
}
