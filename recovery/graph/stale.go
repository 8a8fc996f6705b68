package graph

import (
	"fmt"
	"time"
)

// Unproven is a service whose recovery no valid proof vouches for.
type Unproven struct {
	Service string    `json:"service"`
	Owner   string    `json:"owner,omitempty"`
	Why     string    `json:"why"`
	Proof   string    `json:"proof,omitempty"` // file of the newest one; "" where there is none
	Date    time.Time `json:"at,omitzero"`
}

// unproven are the services without a proof that holds.
func unproven(g *Graph, o CheckOptions) []Unproven {
	proofs := map[string][]*Proof{}
	for i := range g.Proofs {
		proofs[g.Proofs[i].Service] = append(proofs[g.Proofs[i].Service], &g.Proofs[i])
	}
	rehearsed := g.rehearsed()
	var out []Unproven
	for i := range g.Services {
		s := &g.Services[i]
		u := Unproven{Service: s.Name, Owner: s.Owner}
		all := proofs[s.Name]
		switch {
		case len(all) > 0:
			for j, p := range all {
				why := g.stale(s, p, rehearsed[s.Name], o)
				if why == "" {
					u.Why = ""
					break
				}
				if j == 0 {
					u.Why, u.Proof, u.Date = why, p.File, p.Date
				}
			}
			if u.Why == "" {
				continue
			}
		case len(rehearsed[s.Name]) > 0:
			u.Why = "its rehearsal has left no proof"
		case s.Runbook != "":
			u.Why = "its runbook was never rehearsed"
		default:
			u.Why = "it has no runbook"
		}
		out = append(out, u)
	}
	return out
}

// stale says why a proof does not hold any more; "" if it does.
func (g *Graph) stale(s *Service, p *Proof, rehearsed []*Rehearsal, o CheckOptions) string {
	const day = 24 * time.Hour
	if p.Rejected != "" {
		return p.Rejected
	}
	if !o.Now.IsZero() {
		age := o.Now.Sub(p.Date)
		if age < -day {
			return fmt.Sprintf("its proof is dated %s, which is still to come", p.Date.UTC().Format(time.DateOnly))
		}
		if o.MaxAge > 0 && age > o.MaxAge {
			return fmt.Sprintf("its proof is %d days old", age/day)
		}
	}
	if o.Kit != "" && p.Kit != "" && o.Kit != p.Kit {
		return "its proof was made with another kit"
	}
	if known, _ := g.digests(s.Runbook, p, rehearsed); len(known) == 0 && p.Runbook != "" {
		return "the runbook of its proof is not among the files"
	}
	for _, h := range rehearsed {
		if h.Title == p.Rehearsal && !sameConditions(h.Conditions, p.Conditions) {
			return "its rehearsal's conditions were changed since it was proven"
		}
	}
	return ""
}

// rehearsed are the rehearsals of each service.
func (g *Graph) rehearsed() map[string][]*Rehearsal {
	out := map[string][]*Rehearsal{}
	for i := range g.Rehearsals {
		h := &g.Rehearsals[i]
		out[h.Service] = append(out[h.Service], h)
	}
	return out
}

// digests are those that a proof's runbook may have, as far as the files have it, and the first of these files: that of
// the rehearsal with its title, else the service's and its other rehearsals'.
func (g *Graph) digests(runbook string, p *Proof, rehearsed []*Rehearsal) (known []string, first string) {
	files := []string{runbook}
	for _, h := range rehearsed {
		file := h.Runbook
		if file == "" {
			file = clean(h.At.File)
		}
		if h.Title == p.Rehearsal {
			files = []string{file}
			break
		}
		files = append(files, file)
	}
	for _, file := range files {
		if d, ok := g.runbooks[file]; ok {
			if known = append(known, d); first == "" {
				first = file
			}
		}
	}
	return known, first
}

// sameConditions says whether two lists hold the same, in any order.
func sameConditions(a, b []Need) bool {
	return within(a, b) && within(b, a)
}

func within(a, b []Need) bool {
	have := make(map[string]bool, len(b))
	for i := range b {
		have[key(b[i])] = true
	}
	for i := range a {
		if !have[key(a[i])] {
			return false
		}
	}
	return true
}
