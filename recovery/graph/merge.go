package graph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// merger makes one graph of what many files say.
type merger struct {
	services []Service
	index    map[string]int // of services, by name
	offers   []offer
	books    []book
	out      Graph
}

func newMerger() *merger {
	return &merger{index: map[string]int{}, out: Graph{Given: base(), runbooks: map[string]string{}}}
}

func (m *merger) add(p *parsed) {
	if len(m.services) == 0 {
		m.index = make(map[string]int, len(p.services))
		m.services = slices.Grow(m.services, len(p.services))
	}
	for i := range p.services {
		m.service(&p.services[i])
	}
	m.offers = append(m.offers, p.offers...)
	m.books = append(m.books, p.books...)
	m.out.Rehearsals = append(m.out.Rehearsals, p.rehearsals...)
	m.out.Proofs = append(m.out.Proofs, p.proofs...)
	m.out.Ignored = append(m.out.Ignored, p.ignored...)
	m.out.Given = append(m.out.Given, p.given...)
	if p.runbook != "" {
		m.out.runbooks[p.runbook] = p.digest
	}
}

// service adds what is said about a service to what was said before.
func (m *merger) service(s *Service) {
	i, ok := m.index[s.Name]
	if !ok {
		m.index[s.Name] = len(m.services)
		m.services = append(m.services, *s)
		return
	}
	old := &m.services[i]
	one := func(what string, have *string, new string) {
		switch {
		case *have == "":
			*have = new
		case new != "" && new != *have:
			m.conflict(old, s, fmt.Sprintf("%s has the %s %s here, and %s there", s.Name, what, *have, new))
		}
	}
	one("owner", &old.Owner, s.Owner)
	one("region", &old.Region, s.Region)
	one("runbook", &old.Runbook, s.Runbook)
	switch {
	case old.Tier == NoTier:
		old.Tier = s.Tier
	case s.Tier != NoTier && s.Tier != old.Tier:
		m.conflict(old, s, fmt.Sprintf("%s is of tier %d here, and of tier %d there", s.Name, old.Tier, s.Tier))
	}
	if a, b := old.Manager(), s.Manager(); a != "" && b != "" && a != b {
		m.conflict(old, s, fmt.Sprintf("%s is managed by %s here, and by %s there", s.Name, a, b))
	}
	old.Takes = max(old.Takes, s.Takes)
	// What was there belongs to the caller.
	old.Needs = append(slices.Clip(old.Needs), s.Needs...)
	old.Provides = append(slices.Clip(old.Provides), s.Provides...)
}

func (m *merger) conflict(old, s *Service, message string) {
	m.out.Problems = append(m.out.Problems, Problem{Kind: Conflict, Service: s.Name, Message: message, At: old.At, Other: s.At})
}

// graph ends the merging: what capabilities, rehearsals and proofs say is added to the services.
func (m *merger) graph() *Graph {
	g := &m.out
	for _, o := range m.offers {
		m.service(&Service{Name: o.service, Tier: NoTier, Provides: []string{o.name}, At: o.at})
	}
	slices.SortStableFunc(m.books, func(a, b book) int { return strings.Compare(a.file, b.file) })
	for _, b := range m.books {
		m.book(b)
	}
	slices.SortStableFunc(g.Rehearsals, func(a, b Rehearsal) int {
		return cmp.Or(strings.Compare(a.At.File, b.At.File), cmp.Compare(a.At.Line, b.At.Line))
	})
	slices.SortStableFunc(g.Proofs, func(a, b Proof) int {
		return cmp.Or(b.Date.Compare(a.Date), strings.Compare(a.File, b.File))
	})
	for _, h := range g.Rehearsals {
		m.service(&Service{Name: h.Service, Tier: NoTier, Needs: h.Conditions, At: h.At})
	}
	rehearsed := g.rehearsed()
	for i := range g.Proofs {
		p := &g.Proofs[i]
		if m.reject(p, rehearsed[p.Service]); p.Rejected == "" {
			m.proof(p)
		} else if _, ok := m.index[p.Service]; !ok {
			m.service(&Service{Name: p.Service, Tier: NoTier, At: Position{File: p.File, Line: 1}})
		}
	}
	slices.SortFunc(m.services, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	for i := range m.services {
		s := &m.services[i]
		s.Needs = tidy(s.Needs)
		if len(s.Provides) > 1 {
			slices.Sort(s.Provides)
			s.Provides = slices.Compact(s.Provides)
		}
	}
	g.Services = m.services
	slices.Sort(g.Given)
	g.Given = slices.Compact(g.Given)
	return g
}

// book gives a runbook to its service, if that names none. A service may have several, for different losses: the first
// is the one that a plan calls, and the others contradict nothing.
func (m *merger) book(b book) {
	m.service(&Service{Name: b.service, Tier: NoTier, Owner: b.owner, At: b.at})
	s := &m.services[m.index[b.service]]
	if s.Runbook == "" {
		s.Runbook = b.file
	}
	s.Asks = s.Asks || s.Runbook == b.file && b.asks
}

// reject refuses a proof whose digest is of another runbook than its service's in the files.
func (m *merger) reject(p *Proof, rehearsed []*Rehearsal) {
	runbook := ""
	if i, ok := m.index[p.Service]; ok {
		runbook = m.services[i].Runbook
	}
	known, file := m.out.digests(runbook, p, rehearsed)
	if len(known) == 0 || slices.Contains(known, p.Runbook) {
		return
	}
	p.Rejected = "its runbook was changed since it was proven"
	m.out.Problems = append(m.out.Problems, Problem{
		Kind: Mismatch, Service: p.Service, At: Position{File: p.File, Line: 1}, Other: Position{File: file, Line: 1},
		Message: fmt.Sprintf("the proof %s of %s is not of the runbook %s as it is now: it is not used", p.File, p.Service, file),
	})
}

// proof adds the edges that a rehearsal's record gives evidence of.
func (m *merger) proof(p *Proof) {
	s := Service{Name: p.Service, Tier: NoTier, At: Position{File: p.File, Line: 1}}
	used := map[string]bool{}
	for _, a := range p.Attempts {
		used[a.To] = used[a.To] || !a.Blocked
	}
	for _, c := range p.Conditions {
		if c.Provenance == Observed && !slices.ContainsFunc(c.AnyOf, func(n string) bool { return used[n] }) {
			c.Provenance, c.Proof = Declared, ""
		}
		s.Needs = append(s.Needs, c)
	}
	for _, a := range p.Attempts {
		if a.To != "" {
			s.Needs = append(s.Needs, Need{
				AnyOf: []string{a.To}, Soft: true, Provenance: Observed,
				At: Position{File: p.File, Line: a.Line}, Proof: p.File,
			})
		}
	}
	m.service(&s)
}

// tidy gives each edge once, with the best evidence for it. A soft edge adds its evidence to a hard one that has its name.
func tidy(needs []Need) []Need {
	if distinct(needs) {
		for i := range needs {
			needs[i].AnyOf = sorted(needs[i].AnyOf)
		}
		return needs
	}
	out := make([]Need, 0, len(needs))
	keys := make(map[string]int, len(needs))
	names := map[string]int{} // of a hard edge that has the name; filled where there are soft ones
	for _, soft := range []bool{false, true} {
		for _, n := range needs {
			if n.Soft != soft {
				continue
			}
			n.AnyOf = sorted(n.AnyOf)
			key := key(n)
			i, ok := 0, false
			if soft {
				i, ok = names[key]
			}
			if n.Managed {
				key = "\x01" + key
			}
			if !ok {
				i, ok = keys[key]
			}
			if !ok {
				keys[key] = len(out)
				out = append(out, n)
				continue
			}
			if n.Provenance > out[i].Provenance {
				out[i].Provenance, out[i].Proof = n.Provenance, n.Proof
			}
		}
		if !soft {
			if !slices.ContainsFunc(needs, func(n Need) bool { return n.Soft }) {
				break
			}
			for i, n := range out {
				for _, name := range n.AnyOf {
					names[name] = i
				}
			}
		}
	}
	return out
}

// key tells needs apart by what they name.
func key(n Need) string {
	if len(n.AnyOf) == 1 {
		return n.AnyOf[0]
	}
	return strings.Join(sorted(n.AnyOf), "\x00")
}

// distinct says, for a list that is short enough to look, whether no name is there twice.
func distinct(needs []Need) bool {
	if len(needs) > 32 {
		return false
	}
	for i := range needs {
		if needs[i].Soft || len(needs[i].AnyOf) > 1 && i > 0 {
			return false
		}
		for j := range i {
			if needs[i].AnyOf[0] == needs[j].AnyOf[0] {
				return false
			}
		}
	}
	return true
}

// sorted gives each name once, without changing the list given.
func sorted(names []string) []string {
	if len(names) < 2 {
		return names
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}
