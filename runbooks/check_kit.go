package runbooks

import (
	"slices"
	"strings"
)

// kit compares what a runbook names with what there is.
func (c checker) kit(b *Runbook) {
	for i, name := range b.Contacts {
		if _, ok := c.known.Contacts[name]; !ok && c.known.Contacts != nil && !isURI(name) {
			c.at(b.item("contacts", i), "the kit has no contact %s", name)
		}
	}
	for i, h := range b.Hosts {
		c.has(b.item("hosts", i), c.known.Hosts, "no address for host %s: give it with --host %[1]s=IP", h)
	}
	c.named(b.Steps)
}

// given compares what a rehearsal names with what there is.
func (c checker) given(h *Rehearsal) {
	for i := range h.Conditions {
		k := &h.Conditions[i]
		for j, name := range k.Names() {
			if !Endpoint(name) {
				c.has(k.item("any_of", j), c.known.Capabilities, "the kit has no capability %s", name)
			}
		}
	}
	c.named(h.Given)
}

// named compares the artifacts and services of steps.
func (c checker) named(steps []*Step) {
	for _, s := range steps {
		if s.Kind() == Fetch && !strings.HasPrefix(s.Fetch, "sha256:") {
			c.has(s.get("fetch"), c.known.Artifacts, "the kit has no artifact %s", s.Fetch)
		}
		if s.Kind() != Container {
			continue
		}
		w := s.With
		if w == nil {
			w = &With{}
		}
		if w.Salvage == "" && w.Spec == "" && w.Image == "" && w.Rootfs == "" {
			c.has(s.get("container"), c.known.Services, "the kit has no service %s", s.Container)
		}
		if name, ok := strings.CutPrefix(w.Spec, "kit:"); ok {
			c.has(w.get("spec"), c.known.Services, "the kit has no service %s", name)
		}
		if name, ok := strings.CutPrefix(w.Image, "kit:"); ok {
			c.has(w.get("image"), c.known.Artifacts, "the kit has no artifact %s", name)
		}
	}
}

// has notes an error unless the name is known, is not checked, or is only known when the variables are.
func (c checker) has(n *node, known []string, format, name string) {
	if known != nil && !slices.Contains(known, name) && !strings.Contains(name, "${") {
		c.at(n, format, name)
	}
}

// Endpoint says whether a condition is an endpoint of its own, such as tcp:10.0.0.1:443, and not the name of a
// capability.
func Endpoint(condition string) bool {
	kind, _, ok := strings.Cut(condition, ":")
	return ok && slices.Contains([]string{"tcp", "udp", "dns", "http", "unix", "loopback", "file"}, kind)
}

// isURI says whether a contact says itself how to reach it.
func isURI(s string) bool {
	scheme, rest, ok := strings.Cut(s, ":")
	return ok && rest != "" && slices.Contains([]string{"sip", "sips", "tel", "mailto", "xmpp"}, strings.ToLower(scheme))
}
