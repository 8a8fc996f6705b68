package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// UnlockKind sorts what would help.
type UnlockKind string

// Another way to a capability, such as a frozen copy; another manager, that stands; a recovery container, which needs
// nothing.
const (
	AddCapability UnlockKind = "capability"
	MoveManager   UnlockKind = "manager"
	Jumpstart     UnlockKind = "jumpstart"
)

// Unlock is a change that would bring services back.
type Unlock struct {
	Kind    UnlockKind `json:"kind"`
	Name    string     `json:"name"`           // of the capability; else of the service that is moved or started
	From    string     `json:"from,omitempty"` // its manager today
	Unlocks int        `json:"unlocks"`        // services that come back
	Left    int        `json:"left"`           // services that stay stuck
}

// String tells the change to a person.
func (u Unlock) String() string {
	var what string
	switch u.Kind {
	case AddCapability:
		what = "another way to " + u.Name
	case MoveManager:
		what = fmt.Sprintf("another manager for %s than %s", u.Name, u.From)
	case Jumpstart:
		what = "a recovery container for " + u.Name
	}
	s := fmt.Sprintf("%s brings back %d", what, u.Unlocks)
	if u.Left > 0 {
		s += fmt.Sprintf(", and leaves %d stuck", u.Left)
	}
	return s
}

// unlocks ranks what would bring most back. Past a bound of work, changes to what few services use are not tried.
func (k *knots) unlocks(t *tide, components [][]int32, top int) []Unlock {
	x := k.x
	type change struct {
		Unlock
		groups []int32
		start  int32 // the service to start; -1: none
		users  int32
	}
	var all []change
	byName := map[string]int{}
	for _, s := range k.services {
		for g := x.groups[s]; g < x.groups[s+1]; g++ {
			if t.holds[g] {
				continue
			}
			n := x.needOf(g)
			if n.Managed {
				all = append(all, change{Unlock{Kind: MoveManager, Name: x.name(s), From: n.AnyOf[0]}, []int32{g}, -1, x.users[s+1] - x.users[s]})
				continue
			}
			for _, name := range n.AnyOf {
				i, ok := byName[name]
				if !ok {
					i = len(all)
					byName[name] = i
					all = append(all, change{Unlock: Unlock{Kind: AddCapability, Name: name}, start: -1})
				}
				all[i].groups = append(all[i].groups, g)
				all[i].users++
			}
		}
	}
	for _, c := range components {
		for _, v := range c {
			s := k.services[v]
			all = append(all, change{Unlock{Kind: Jumpstart, Name: x.name(s)}, nil, s, x.users[s+1] - x.users[s]})
		}
	}
	slices.SortStableFunc(all, func(a, b change) int { return cmp.Compare(b.users, a.users) })
	var out []Unlock
	const most = 4_000_000 // edges looked at
	work := 0
	var room trialRoom
	for _, c := range all {
		if work > most {
			break
		}
		var cost int
		c.Unlocks, cost = x.trial(t, c.groups, c.start, &room)
		c.Left = x.n() - len(t.order) - c.Unlocks
		if work += cost; c.Unlocks > 0 {
			out = append(out, c.Unlock)
		}
	}
	slices.SortFunc(out, func(a, b Unlock) int {
		return cmp.Or(b.Unlocks-a.Unlocks, cmp.Compare(a.Kind.effort(), b.Kind.effort()), strings.Compare(a.Name, b.Name))
	})
	return out[:min(len(out), top)]
}

// effort ranks the changes of equal use: a recovery container can be there today, a fallback soon, an uplift takes long.
func (k UnlockKind) effort() int {
	return slices.Index([]UnlockKind{Jumpstart, AddCapability, MoveManager}, k)
}

// trialRoom is memory that one trial after the other uses.
type trialRoom struct{ held, up []int32 }

// trial counts what comes up when groups hold and a service is started, and leaves the tide as it was.
func (x *index) trial(t *tide, groups []int32, start int32, room *trialRoom) (count, cost int) {
	held, up := room.held[:0], room.up[:0]
	hold := func(g int32) {
		cost++
		if t.holds[g] {
			return
		}
		t.holds[g] = true
		held = append(held, g)
		o := x.of[g]
		t.left[o]--
		if t.left[o] == 0 && t.wave[o] == 0 {
			t.wave[o] = 1
			up = append(up, o)
		}
	}
	for _, g := range groups {
		hold(g)
	}
	if start >= 0 && t.wave[start] == 0 {
		t.wave[start] = 1
		up = append(up, start)
	}
	for i := 0; i < len(up); i++ {
		for _, g := range x.used[x.users[up[i]]:x.users[up[i]+1]] {
			hold(g)
		}
	}
	for _, g := range held {
		t.holds[g] = false
		t.left[x.of[g]]++
	}
	for _, s := range up {
		t.wave[s] = 0
	}
	room.held, room.up = held, up
	return len(up), cost
}
