package runbooks

import (
	"slices"
	"strings"
)

// steps checks a list of steps: each by itself, and their order.
func (c checker) steps(steps []*Step, b *Runbook) {
	known := len(c.errs)
	byName := map[string]int{}
	for i, s := range steps {
		if first, there := byName[s.Name]; there {
			c.at(s.get("name"), "step %.80q is there twice: the first is in line %d", s.Name, steps[first].line)
			continue
		}
		byName[s.Name] = i
	}
	names := b.names()
	for _, s := range steps {
		c.step(s, b, names)
		c.unique(&s.node, "needs", s.Needs)
		for j, need := range s.Needs {
			if _, ok := byName[need]; !ok {
				c.at(s.item("needs", j), "needs %.80q, which is no step here%s", need, similar(need, steps))
			}
		}
	}
	if len(c.errs) == known {
		c.order(steps)
	}
}

// similar is a hint for a step's name that is spelt nearly like one that is there.
func similar(name string, steps []*Step) string {
	for _, s := range steps {
		if near(name, s.Name) || strings.EqualFold(name, s.Name) {
			return ": did you mean " + s.Name + "?"
		}
	}
	return ""
}

func (c checker) step(s *Step, b *Runbook, names map[string]bool) {
	if strings.Contains(s.Name, "@") {
		c.at(s.get("name"), "a step's name has no @: it stands before the host in a record")
	}
	for i, h := range s.Hosts {
		if !slices.Contains(b.Hosts, h) {
			c.at(s.item("hosts", i), "host %s is not among the runbook's hosts", h)
		}
	}
	c.unique(&s.node, "hosts", s.Hosts)
	if s.WaitFor != nil {
		c.probe(s.WaitFor)
	}
	if s.Kind() == Handoff && s.With == nil {
		c.at(s.get("handoff"), "handoff needs with: {until: CHECK}, which the orchestrator's own instance answers")
	}
	if w := s.With; w != nil {
		c.with(w)
	}
	eachText(s, func(n *node, t *string) {
		if err := unknownVars(*t, names, len(s.Hosts) > 0); err != "" {
			c.at(n, "%s", err)
		}
	})
}

// with checks what goes together.
func (c checker) with(w *With) {
	if problem := w.problem(); problem != "" {
		c.at(&w.node, "%s", problem)
	}
	for key, check := range map[string]string{"until": w.Until, "health": w.Health} {
		if check != "" && !strings.Contains(check, "${") {
			if problem := checkProblem(check); problem != "" {
				c.at(w.get(key), "%s", problem)
			}
		}
	}
}

func (w *With) problem() string {
	sources := 0
	for _, s := range []string{w.Spec, w.Rootfs, w.Image} {
		if s != "" {
			sources++
		}
	}
	switch {
	case sources > 1:
		return "spec, image and rootfs: at most one of them may be there"
	case w.Salvage != "" && (w.Spec != "" || w.Rootfs != ""):
		return "salvage does not go with spec or rootfs"
	case w.Root != "" && w.Salvage == "":
		return "root says where the disk of what is salvaged is: salvage is missing"
	case w.Unpack && (w.To != "" || w.Mode != ""):
		return "an image that is unpacked is not written to a file: to and mode do not go with unpack"
	case w.Mode != "" && w.To == "":
		return "mode is that of the file written: to is missing"
	}
	for _, m := range w.Mounts {
		if strings.Count(m, ":") < 1 && !strings.Contains(m, "${") {
			return "want SRC:DST[:ro] in mounts"
		}
	}
	for _, a := range w.ReplaceArgs {
		if !strings.Contains(a, "=") {
			return "want OLD=NEW in replace_args"
		}
	}
	return ""
}

// needs are the steps, by their numbers from 0, that each of steps follows.
func needs(steps []*Step) [][]int {
	byName := map[string]int{}
	for i, s := range steps {
		byName[s.Name] = i
	}
	all := make([][]int, len(steps))
	for i, s := range steps {
		if s.Needs == nil && i > 0 {
			all[i] = []int{i - 1}
		}
		for _, n := range s.Needs {
			if j, ok := byName[n]; ok {
				all[i] = append(all[i], j)
			}
		}
	}
	return all
}

// order notes a cycle, and what can never be reached for it.
func (c checker) order(steps []*Step) {
	after := needs(steps)
	_, stuck := layers(after)
	if len(stuck) == 0 {
		return
	}
	loop := shortestLoop(after, stuck)
	said := make([]string, 0, len(loop)+1)
	for _, i := range loop {
		said = append(said, steps[i].Name)
	}
	said = append(said, said[0])
	at := steps[loop[0]]
	c.at(at.get("needs"), "a cycle: %s: none of them can start first", strings.Join(said, " needs "))
	for _, i := range stuck {
		if !slices.Contains(loop, i) {
			c.at(&steps[i].node, "step %.80q can never be reached: it waits, perhaps through others, for the cycle of %q", steps[i].Name, at.Name)
		}
	}
}
