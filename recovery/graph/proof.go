package graph

import (
	"slices"
	"strings"
	"time"
)

// Rehearsal is what a rehearsal's YAML says about its service's edges.
type Rehearsal struct {
	Title      string        `json:"rehearsal"`
	Service    string        `json:"service"`
	Runbook    string        `json:"runbook,omitempty"` // path; "" where it is in the same file
	Conditions []Need        `json:"conditions,omitempty"`
	Within     time.Duration `json:"within,omitempty"`
	At         Position      `json:"at,omitzero"`
}

// Proof is the record that a rehearsal which passed leaves, a JSON document:
//
//	{"service": "etcd", "rehearsal": "etcd recovers alone", "at": "2026-03-01T04:00:00Z", "took": "61.2s",
//	 "runs": ["61.2s", "58s"], "conditions": ["package-store:read", {"any_of": ["dns", "dns-frozen"]}], "minimal": true,
//	 "runbook": "sha256:…", "kit": "sha256:…",
//	 "attempts": [{"to": "package-store:read", "count": 3}, {"to": "metrics", "blocked": true, "count": 9}]}
//
// minimal says that each condition was taken away once, and the rehearsal failed for it. A key that is not known is left
// alone: a newer program may have written it.
type Proof struct {
	Service    string          `json:"service"`
	Rehearsal  string          `json:"rehearsal"`
	Date       time.Time       `json:"at"`
	Runs       []time.Duration `json:"runs,omitempty"` // how long each took, in nanoseconds
	Conditions []Need          `json:"conditions,omitempty"`
	Minimal    bool            `json:"minimal,omitempty"`
	Runbook    string          `json:"runbook,omitempty"` // digest
	Kit        string          `json:"kit,omitempty"`     // digest
	Attempts   []Attempt       `json:"attempts,omitempty"`
	File       string          `json:"file"`
	Rejected   string          `json:"rejected,omitempty"` // why nothing is made of it: it is of another runbook than the files have
}

// Attempt is something that a rehearsal tried to reach.
type Attempt struct {
	To      string `json:"to"`                // a capability, or an endpoint that none covers
	Blocked bool   `json:"blocked,omitempty"` // and the rehearsal passed without it
	Count   int    `json:"count,omitempty"`
	Line    int    `json:"line,omitempty"` // in the proof's file
}

// rehearsal reads what concerns the graph; the rest of the document is its own language's.
func (d *decoder) rehearsal(n *node) {
	h := Rehearsal{Title: n.str("rehearsal"), Service: d.required(n, "service"), At: d.position(n)}
	if v := n.get("runbook"); v != nil {
		h.Runbook = beside(d.dir, d.name(v))
	}
	if v := n.get("conditions"); v != nil {
		h.Conditions = d.conditions(v)
	}
	if v := n.get("within"); v != nil {
		h.Within = d.duration(v)
	}
	if h.Service != "" {
		d.rehearsals = append(d.rehearsals, h)
	}
}

// conditions are needs without the options (latency, loss) that a rehearsal reaches them with.
func (d *decoder) conditions(n *node) []Need {
	needs := d.needs(nil, n)
	for i := range needs {
		for j, name := range needs[i].AnyOf {
			needs[i].AnyOf[j], _, _ = strings.Cut(name, ",")
		}
	}
	return slices.DeleteFunc(needs, func(n Need) bool { return slices.Contains(n.AnyOf, "") })
}

// book is a runbook: where it is, who keeps it, and whether it asks an operator.
type book struct {
	service, owner, file string
	asks                 bool
	at                   Position
}

func (d *decoder) book(n *node) {
	b := book{service: d.required(n, "service"), file: clean(d.file), at: d.position(n)}
	if v := n.get("owner"); v != nil {
		b.owner = d.name(v)
	}
	for _, step := range n.get("steps").items {
		b.asks = b.asks || step.get("confirm") != nil
	}
	if d.runbook = b.file; b.service != "" {
		d.books = append(d.books, b)
	}
}

func (d *decoder) required(n *node, key string) string {
	v := n.get(key)
	if v == nil {
		d.at(n, "%s is missing", key)
		return ""
	}
	return d.name(v)
}

func (d *decoder) proof(n *node) {
	p := Proof{
		Service: d.required(n, "service"), Rehearsal: n.str("rehearsal"), File: d.file,
		Runbook: n.str("runbook"), Kit: n.str("kit"),
	}
	at := n.get("at")
	date, err := time.Parse(time.RFC3339, at.text)
	if err != nil {
		d.at(at, "want the time of the rehearsal, like 2026-03-01T04:00:00Z")
	}
	p.Date = date
	if v := n.get("runs"); v != nil {
		for i := range d.items(v) {
			p.Runs = append(p.Runs, d.duration(&v.items[i]))
		}
	}
	if v := n.get("took"); v != nil && len(p.Runs) == 0 {
		p.Runs = []time.Duration{d.duration(v)}
	}
	p.Runs = slices.DeleteFunc(p.Runs, func(v time.Duration) bool { return v <= 0 })
	if v := n.get("conditions"); v != nil {
		p.Conditions = d.conditions(v)
	}
	if v := n.get("minimal"); v != nil {
		p.Minimal = v.shape == boolean && v.text == "true"
	}
	if v := n.get("attempts"); v != nil {
		for i := range d.items(v) {
			p.Attempts = append(p.Attempts, d.attempt(&v.items[i]))
		}
	}
	for i := range p.Conditions {
		p.Conditions[i].Provenance, p.Conditions[i].Proof = Observed, d.file
		if p.Minimal {
			p.Conditions[i].Provenance = Proven
		}
	}
	if p.Service != "" {
		d.proofs = append(d.proofs, p)
	}
}

func (d *decoder) attempt(n *node) Attempt {
	a := Attempt{To: d.required(n, "to"), Line: int(n.line)}
	if v := n.get("blocked"); v != nil {
		a.Blocked = v.shape == boolean && v.text == "true"
	}
	if v := n.get("count"); v != nil && v.shape == number && digits(v.text) && len(v.text) < 10 {
		for i := range len(v.text) {
			a.Count = 10*a.Count + int(v.text[i]-'0')
		}
	}
	return a
}
