package runbooks

import (
	"net/netip"
	"slices"
	"strings"
)

// Known is what a kit and a command line have. A list or map that is nil is not checked against.
type Known struct {
	Artifacts    []string
	Services     []string
	Capabilities []string
	Hosts        []string          // that have an address
	Contacts     map[string]string // the URI of each name
}

// Check says what files name that is not there: files that rehearsals want, and what a kit lacks.
//
// Errors: Errors, of at most 50 for each file.
func Check(known Known, files ...*File) error {
	var all Errors
	for _, f := range files {
		r := newReport(f.Name, f.source)
		c := checker{report: r, file: f, known: known}
		for _, b := range f.Runbooks {
			c.kit(b)
		}
		for _, h := range f.Rehearsals {
			c.given(h)
			b, err := f.Runbook(h, files...)
			if missing, ok := AsErrors(err); ok {
				r.errs = append(r.errs, missing...)
				continue
			}
			c.match(h, b)
		}
		if err := r.err(); err != nil {
			all = append(all, r.errs...)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// checker looks at what the tables cannot say.
type checker struct {
	*report
	file  *File
	known Known
}

// check looks at each document of a file by itself.
func (c checker) check() {
	for _, b := range c.file.Runbooks {
		c.runbook(b)
	}
	for _, h := range c.file.Rehearsals {
		c.rehearsal(h)
	}
}

func (c checker) runbook(b *Runbook) {
	c.unique(&b.node, "hosts", b.Hosts)
	c.unique(&b.node, "contacts", b.Contacts)
	for name, v := range b.Vars {
		c.variable(b.get("vars").key(name), name, v)
	}
	c.hostVars(b)
	c.steps(b.Steps, b)
}

func (c checker) variable(at *node, name string, v *Var) {
	switch {
	case reserved(name):
		c.at(at, "%s means something else to programs or to this language: take another name", name)
	case v.Secret && v.Default != nil:
		c.at(v.get("default"), "a secret has no default: its place is not a file")
		if n := len(c.errs); n > 0 {
			c.errs[n-1].Source = ""
		}
	}
}

// hostVars refuses hosts whose addresses would have one variable, or that of something else.
func (c checker) hostVars(b *Runbook) {
	seen := map[string]string{}
	for i, h := range b.Hosts {
		v := hostVar(h)
		if other := seen[v]; other != "" && other != h {
			c.at(b.item("hosts", i), "hosts %s and %s would both be ${%s}", other, h, v)
		}
		seen[v] = h
	}
}

func (c checker) rehearsal(h *Rehearsal) {
	c.unique(&h.node, "tools", h.Tools)
	seen := map[string]bool{}
	for i := range h.Conditions {
		k := &h.Conditions[i]
		if s := k.String(); seen[s] {
			c.at(&k.node, "condition %s is there twice", s)
		} else {
			seen[s] = true
		}
		c.unique(&k.node, "any_of", k.AnyOf)
	}
	for _, p := range h.Healthy {
		c.probe(p)
	}
	if h.Runbook != "" {
		return
	}
	if len(c.file.Runbooks) != 1 {
		c.at(&h.node, "%d runbooks in this file: name the file with the one that is rehearsed", len(c.file.Runbooks))
		return
	}
	c.match(h, c.file.Runbooks[0])
}

// match compares a rehearsal with its runbook.
func (c checker) match(h *Rehearsal, b *Runbook) {
	if n := max(h.Hardware.Hosts, 1); len(b.Hosts) > n {
		c.at(h.get("hardware"), "the runbook names %d hosts, the hardware has %d", len(b.Hosts), n)
	}
	if h.Service != b.Service {
		c.at(h.get("service"), "the runbook brings back %s, not %s", b.Service, h.Service)
	}
	for name := range h.Vars {
		if b.Vars[name] == nil {
			c.at(h.get("vars").key(name), "the runbook has no variable %s", name)
		}
	}
	for _, name := range b.varNames() {
		if _, ok := h.Vars[name]; !ok && b.Vars[name].Default == nil {
			c.at(h.get("vars"), "the runbook's variable %s has no value", name)
		}
	}
	names := b.names()
	for _, p := range h.Healthy {
		eachProbeText(p, func(n *node, t *string) {
			if err := unknownVars(*t, names, false); err != "" {
				c.at(n, "%s", err)
			}
		})
	}
	c.steps(h.Given, b)
}

// unique refuses what is twice in a list.
func (c checker) unique(n *node, key string, l []string) {
	for i, s := range l {
		if slices.Index(l, s) < i {
			c.at(n.item(key, i), "%.80q is there twice", s)
		}
	}
}

// key is the place of a key in a mapping.
func (n *node) key(name string) *node {
	for _, p := range n.pairs {
		if p.key.text == name {
			return p.key
		}
	}
	return n
}

// reserved names are those that programs read, whatever their case, or that every step has.
func reserved(name string) bool {
	return name == "ip" || name == "host" || strings.HasPrefix(name, "ip_") || strings.HasSuffix(name, "_proxy")
}

// hostVar is the variable with a host's address.
func hostVar(host string) string {
	return "ip_" + strings.Map(func(c rune) rune {
		if c == '.' || c == '-' {
			return '_'
		}
		return c
	}, host)
}

// addrPort says whether s is IP:PORT.
func addrPort(s string) bool {
	a, err := netip.ParseAddrPort(s)
	return err == nil && a.Port() > 0
}
