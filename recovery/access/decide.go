package access

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Subject is who asks, as far as a host knows.
type Subject struct {
	User       string   `json:"user,omitempty"`
	UID        int      `json:"uid"`
	Unix       []string `json:"unix,omitempty"`       // names of unix groups
	GIDs       []int    `json:"gids,omitempty"`       // as the kernel has them
	Principals []string `json:"principals,omitempty"` // of an SSH certificate that was checked
	TLS        []string `json:"tls,omitempty"`        // names in a TLS client certificate that was checked
	Orgs       []string `json:"orgs,omitempty"`       // its organizations
	Key        string   `json:"key,omitempty"`        // the name among the signers, where a key of theirs was used
}

// Outcome is what was decided.
type Outcome string

// The outcomes.
const (
	Allowed Outcome = "allowed"
	Denied  Outcome = "denied"
	Needed  Outcome = "needs approval"
)

// Decision is an outcome and the line that made it.
type Decision struct {
	Outcome Outcome `json:"outcome"`
	// By is the line that decided; nil where no line allows it.
	By *Where `json:"by,omitempty"`
	// Through is the subject of that line that fitted, and the way there, such as "unix:storage in group:oncall".
	Through string `json:"through,omitempty"`
	Needs   *Needs `json:"needs,omitempty"` // of an outcome Needed
	// Grant is the ID of the approved request that made it allowed.
	Grant string `json:"grant,omitempty"`
}

func (d Decision) String() string {
	switch {
	case d.By == nil:
		return string(d.Outcome) + ": no line allows it"
	case d.Outcome == Needed:
		return fmt.Sprintf("needs %d approvals of %s, by %s:%d: %s (%s)", d.Needs.Count, d.Needs.Of, d.By.File, d.By.Line, d.By.Text, d.Through)
	case d.Grant != "":
		return fmt.Sprintf("%s by the approved request %s and %s:%d: %s (%s)", d.Outcome, d.Grant, d.By.File, d.By.Line, d.By.Text, d.Through)
	}
	return fmt.Sprintf("%s by %s:%d: %s (%s)", d.Outcome, d.By.File, d.By.Line, d.By.Text, d.Through)
}

// tokens are a subject's words, each with how it came to it.
func (p *Policy) tokens(s Subject) map[string]string {
	all := map[string]string{anyone: anyone}
	add := func(t string) {
		all[t] = t
		for _, g := range p.members[t] {
			if all[g] == "" {
				all[g] = t + " in " + g
			}
		}
	}
	if s.User != "" {
		add("user:" + s.User)
	}
	if s.UID >= 0 {
		add("uid:" + strconv.Itoa(s.UID))
	}
	for kind, names := range map[string][]string{"unix:": s.Unix, "cert:": s.Principals, "tls:": s.TLS, "org:": s.Orgs} {
		for _, n := range names {
			add(kind + n)
		}
	}
	for _, g := range s.GIDs {
		add("gid:" + strconv.Itoa(g))
	}
	if s.Key != "" {
		add("key:" + s.Key)
	}
	return all
}

// match is a rule that fits.
type match struct {
	rule    int
	through string
}

func (p *Policy) matches(s Subject, verb, service string) []match {
	var all []match
	take := func(list []int, through string) {
		for _, n := range list {
			if p.covers(n, service) {
				all = append(all, match{n, through})
			}
		}
	}
	for t, through := range p.tokens(s) {
		for _, v := range []string{verb, "*"} {
			at := p.index[pair{t, v}]
			if at == nil {
				continue
			}
			take(at.exact[service], through)
			for n := 0; n <= min(at.longest, len(service)); n++ {
				take(at.prefix[service[:n]], through)
			}
		}
	}
	slices.SortFunc(all, func(a, b match) int { return cmp.Or(a.rule-b.rule, strings.Compare(a.through, b.through)) })
	return all
}

// Decide says whether somebody may do something to a service: "" stands for the host itself. grants are approved requests.
func (p *Policy) Decide(now time.Time, s Subject, verb, service string, grants []Grant) Decision {
	return p.judge(now, s, verb, service, grants, p.matches(s, verb, service))
}

func (p *Policy) judge(now time.Time, s Subject, verb, service string, grants []Grant, fit []match) Decision {
	var waits *Decision
	var allow *Decision
	for _, m := range fit {
		r := &p.rules[m.rule]
		d := Decision{Outcome: Allowed, By: &r.Where, Through: m.through}
		switch {
		case r.Deny:
			d.Outcome = Denied
			return d
		case r.Needs == nil:
			if allow == nil {
				allow = &d
			}
			continue
		}
		for _, g := range grants {
			if g.covers(s, verb, service) && p.approved(now, g, *r.Needs) == nil {
				d.Grant = g.Request.ID
				if allow == nil {
					allow = &d
				}
				break
			}
		}
		if d.Grant == "" && waits == nil {
			d.Outcome, d.Needs = Needed, r.Needs
			waits = &d
		}
	}
	switch {
	case allow != nil:
		return *allow
	case waits != nil:
		return *waits
	}
	return Decision{Outcome: Denied}
}

// Explanation is a decision and every line that had a say.
type Explanation struct {
	Decision
	Fits []Fit `json:"fits"`
}

// Fit is a line that fits what was asked.
type Fit struct {
	Where
	Deny    bool   `json:"deny,omitempty"`
	Through string `json:"through"`
}

// Explain is Decide with everything that it looked at, in the order of files and lines.
func (p *Policy) Explain(now time.Time, s Subject, verb, service string, grants []Grant) Explanation {
	fit := p.matches(s, verb, service)
	e := Explanation{Decision: p.judge(now, s, verb, service, grants, fit), Fits: []Fit{}}
	for _, m := range fit {
		r := p.rules[m.rule]
		e.Fits = append(e.Fits, Fit{Where: r.Where, Deny: r.Deny, Through: m.through})
	}
	return e
}
