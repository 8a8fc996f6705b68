package drill

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// NewProof is what a rehearsal leaves of which each run passed. What the runs tried to reach has the names that the
// catalogue has for it.
func NewProof(runs []Result, h *runbooks.Rehearsal, runbook *runbooks.File, from sandbox.Catalogue, binary, commit string) runbooks.Proof {
	last := runs[len(runs)-1]
	p := runbooks.Proof{
		Service: h.Service, Rehearsal: h.Title, At: last.Began.Truncate(time.Second), Took: took(last.Took), Steps: map[string]runbooks.Duration{},
		Conditions: h.Conditions, Commit: commit, Runbook: runbook.Digest, Binary: binary,
	}
	for _, s := range last.Steps {
		p.Steps[s.ID] = took(s.Took)
	}
	reached := map[runbooks.Attempted]int{} // without its count
	for _, r := range runs {
		if len(runs) > 1 {
			p.Runs = append(p.Runs, took(r.Took))
		}
		for _, a := range r.Attempts {
			for _, to := range called(a, from, r.Hosts) {
				reached[runbooks.Attempted{To: to, Blocked: a.Verdict == sandbox.Blocked}] += a.Count
			}
		}
	}
	for a, n := range reached {
		a.Count = n
		p.Attempts = append(p.Attempts, a)
	}
	slices.SortFunc(p.Attempts, func(a, b runbooks.Attempted) int {
		if a.To == b.To && a.Blocked {
			return 1
		}
		return strings.Compare(a.To, b.To)
	})
	return p
}

// took is at least a millisecond: nothing takes no time.
func took(d time.Duration) runbooks.Duration {
	return runbooks.Duration(max(d.Round(time.Millisecond), time.Millisecond))
}

// called is the capabilities that an attempt was for, else the endpoint that would have let it through. What no capability
// speaks of on the rehearsal's own hosts, before something listens there, is nobody else's.
func called(a sandbox.Attempt, from sandbox.Catalogue, own []netip.Addr) []string {
	if a.Capability != "" && a.Verdict != sandbox.Blocked {
		return []string{a.Capability}
	}
	var names []string
	for name, all := range from {
		if slices.ContainsFunc(all, func(c sandbox.Capability) bool { return shows(c, a) }) {
			names = append(names, name)
		}
	}
	if len(names) > 0 || a.Verdict != sandbox.Blocked {
		return names
	}
	if to, err := netip.ParseAddrPort(a.Destination); err == nil && (to.Addr().IsLoopback() || slices.Contains(own, to.Addr().Unmap())) {
		return nil
	}
	for _, c := range sandbox.Suggest([]sandbox.Attempt{a}) {
		if c.Kind != sandbox.KindUnix && c.Kind != sandbox.KindFile {
			names = append(names, c.Endpoint())
		}
	}
	return names
}
