package graph

import (
	"path"
	"strings"
)

// install is an edge that the [Install] section of a unit gives to another one.
type install struct {
	unit, by string
	hard     bool
	at       Position
}

// unit reads a unit file, or a drop-in of one (systemd.unit(5), systemd.syntax(7)). Requires=, Requisite= and BindsTo= are
// needs; Wants= and After= hold nothing up and are soft.
func (m *importer) unit(f File) {
	name := baseName(f.Name)
	if dir := path.Base(path.Dir(clean(f.Name))); strings.HasSuffix(name, ".conf") && strings.HasSuffix(dir, ".d") {
		name = strings.TrimSuffix(dir, ".d")
	}
	s := m.service(name, 1)
	if s == nil {
		return
	}
	section, defaults := "", strings.HasSuffix(name, ".service")
	lines := strings.Split(string(f.Data), "\n")
	for i := 0; i < len(lines); i++ {
		at, text := i+1, strings.TrimSpace(lines[i])
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		for strings.HasSuffix(text, `\`) && i+1 < len(lines) {
			i++
			if next := strings.TrimSpace(lines[i]); next == "" || next[0] != '#' && next[0] != ';' {
				text = text[:len(text)-1] + " " + next
			}
		}
		if text[0] == '[' {
			section = strings.Trim(text, "[]")
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			m.pos(at, 1, "want KEY=VALUE")
			continue
		}
		names := strings.Fields(strings.ReplaceAll(value, `"`, " "))
		switch section + "." + strings.TrimSpace(key) {
		case "Unit.Requires", "Unit.Requisite", "Unit.BindsTo":
			m.each(s, names, at, nil)
		case "Unit.Wants", "Unit.After":
			m.each(s, names, at, soft)
		case "Unit.DefaultDependencies":
			defaults = defaults && len(names) == 1 && isTrue(names[0])
		case "Install.RequiredBy", "Install.WantedBy":
			for _, by := range names {
				m.install = append(m.install, install{s.Name, named(by), strings.TrimSpace(key) == "RequiredBy", Position{m.file, at}})
			}
		}
	}
	if defaults {
		m.needs(s, "sysinit.target", 1, nil)
	}
}

func isTrue(s string) bool {
	switch strings.ToLower(s) {
	case "1", "yes", "true", "on", "y", "t":
		return true
	}
	return false
}

// each adds edges. Units that exist only while a host runs, and names with specifiers, are nobody's to bring back.
func (m *importer) each(s *Service, names []string, line int, change func(*Need)) {
	for _, n := range names {
		switch path.Ext(n) {
		case ".mount", ".swap", ".device", ".slice", ".scope":
			continue
		}
		if !strings.Contains(n, "%") {
			m.needs(s, n, line, change)
		}
	}
}

// units resolves what takes all unit files: who is installed into what, and templates' instances.
func (m *importer) units() {
	if m.format != Systemd {
		return
	}
	for _, i := range m.install {
		if by := m.services[i.by]; by != nil {
			by.Needs = append(by.Needs, Need{AnyOf: []string{i.unit}, Soft: !i.hard, At: i.at})
		}
	}
	for _, s := range m.services {
		kept := s.Needs[:0]
		for _, n := range s.Needs {
			on := n.AnyOf[0]
			if m.services[on] == nil {
				if head, tail, ok := strings.Cut(on, "@"); ok && m.services[head+"@"+path.Ext(tail)] != nil {
					n.AnyOf = []string{head + "@" + path.Ext(tail)}
				} else if n.Soft || on == "sysinit.target" {
					continue // what is not installed is not waited for
				}
			}
			kept = append(kept, n)
		}
		s.Needs = kept
	}
}
