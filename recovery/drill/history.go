package drill

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/blackstart-project/blackstart/runbooks"
)

// ErrOverdue is returned where something was not practised for too long.
var ErrOverdue = errors.New("not practised for too long")

// Due is when a runbook, a person or a team practised last: when a drill of theirs
// ended with the service back. One that was given up or cut off does not count.
type Due struct {
	Kind    string    `json:"kind"` // runbook, person or team
	Name    string    `json:"name"`
	Service string    `json:"service,omitempty"` // of a runbook
	Last    time.Time `json:"last,omitzero"`     // zero: never
	By      string    `json:"by,omitempty"`      // who did a runbook last, or what a person or team did
	Overdue bool      `json:"overdue"`
	Changed bool      `json:"changed,omitempty"` // the runbook's file has since
}

// DueIn says of each runbook, person and team of some drills when they practised
// last. Where files are given, only their runbooks count, and those that were never
// practised are among them. ErrOverdue comes with the whole list.
func DueIn(drills []Drill, files []*runbooks.File, every time.Duration, now time.Time) ([]Due, error) {
	type key struct{ kind, name, service string }
	last := map[key]*Due{}
	digests := map[key]string{} // of the last practice
	at := func(k key) *Due {
		if last[k] == nil {
			last[k] = &Due{Kind: k.kind, Name: k.name, Service: k.service}
		}
		return last[k]
	}
	wanted := map[key]*runbooks.File{}
	for _, f := range files {
		for _, rb := range f.Runbooks {
			k := key{"runbook", rb.Title, rb.Service}
			wanted[k] = f
			at(k)
		}
	}
	for _, d := range drills {
		of := key{"runbook", d.Runbook, d.Service}
		if len(files) > 0 && wanted[of] == nil {
			continue
		}
		for k, by := range map[key]string{of: d.As, {kind: "person", name: d.As}: d.Runbook, {kind: "team", name: d.Team}: d.Runbook} {
			if k.name == "" {
				continue
			}
			if one := at(k); d.Outcome() == DidRecover && d.Began.After(one.Last) {
				one.Last, one.By, digests[k] = d.Began, by, d.Digest
			}
		}
	}
	all := []Due{}
	overdue := 0
	for k, one := range last {
		if one.Overdue = now.Sub(one.Last) > every; one.Overdue {
			overdue++
		}
		if f := wanted[k]; f != nil && digests[k] != "" {
			one.Changed = digests[k] != f.Digest
		}
		all = append(all, *one)
	}
	kinds := []string{"runbook", "team", "person"}
	slices.SortFunc(all, func(a, b Due) int {
		return cmp.Or(slices.Index(kinds, a.Kind)-slices.Index(kinds, b.Kind), a.Last.Compare(b.Last), cmp.Compare(a.Name, b.Name))
	})
	if overdue > 0 {
		return all, fmt.Errorf("%w: %d of %d", ErrOverdue, overdue, len(all))
	}
	return all, nil
}
