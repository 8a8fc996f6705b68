package graph

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ImportFormat is something that services and edges are taken from.
type ImportFormat string

// Manifests, unit files and Compose files as they are; Nomad's jobs in JSON (nomad job run -output); what terraform graph
// prints; a service graph of OpenTelemetry in JSON: OTLP metrics of the service graph connector, the answer of Prometheus
// for them, or Jaeger's dependencies.
const (
	Kubernetes    ImportFormat = "kubernetes"
	Systemd       ImportFormat = "systemd"
	Compose       ImportFormat = "compose"
	Nomad         ImportFormat = "nomad"
	Terraform     ImportFormat = "terraform"
	OpenTelemetry ImportFormat = "opentelemetry"
)

// ImportFormats are all there are.
func ImportFormats() []ImportFormat {
	return []ImportFormat{Kubernetes, Systemd, Compose, Nomad, Terraform, OpenTelemetry}
}

// Import reads services of other programs' files, by name, each once. Their edges are declared; those of a service graph
// observed and soft. None is proof. Give them to New, or write that with Render as JSON to keep them.
//
// Errors: Errors, of at most 50 for each file; ErrInvalid for a format that there is not.
func Import(f ImportFormat, files ...File) ([]Service, error) {
	read := map[ImportFormat]func(*importer, File){
		Kubernetes: (*importer).kubernetes, Systemd: (*importer).unit, Compose: (*importer).compose,
		Nomad: (*importer).nomad, Terraform: (*importer).terraform, OpenTelemetry: (*importer).telemetry,
	}[f]
	if read == nil {
		return nil, fmt.Errorf("%w: nothing is imported from %.40q: want one of %v", ErrInvalid, string(f), ImportFormats())
	}
	m := &importer{format: f, services: map[string]*Service{}}
	var errs Errors
	for _, file := range files {
		m.report = &report{file: file.Name, anchors: f == Compose}
		if len(file.Data) > MaxFile {
			m.pos(1, 1, "larger than %d bytes", MaxFile)
		} else {
			read(m, file)
		}
		_ = m.err() // sorts
		errs = append(errs, m.errs...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	m.cluster()
	m.units()
	m.closed()
	return m.list(), nil
}

// importer collects services.
type importer struct {
	*report
	format   ImportFormat
	services map[string]*Service
	objects  []object // of Kubernetes
	install  []install
}

// needed are the names that an edge leads to.
func (m *importer) needed() map[string]bool {
	all := map[string]bool{}
	for _, s := range m.services {
		for _, n := range s.Needs {
			for _, name := range n.AnyOf {
				all[name] = true
			}
		}
	}
	return all
}

// list gives what was collected, without edges to themselves.
func (m *importer) list() []Service {
	out := make([]Service, 0, len(m.services))
	for _, s := range m.services {
		s.Needs = tidy(slices.DeleteFunc(s.Needs, func(n Need) bool { return len(n.AnyOf) == 1 && n.AnyOf[0] == s.Name }))
		slices.Sort(s.Provides)
		s.Provides = slices.Compact(s.Provides)
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// named makes a name of any text: what a name may not hold becomes a question mark.
func named(s string) string {
	s = strings.TrimSpace(strings.Map(func(c rune) rune {
		if hidden(c) || c == '\uFFFD' {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(s, "?")))
	if len(s) > maxName {
		s = strings.TrimSpace(strings.ToValidUTF8(s[:maxName], ""))
	}
	return s
}

// service finds or makes a service; nil for a name without characters.
func (m *importer) service(name string, line int) *Service {
	if name = named(name); name == "" {
		return nil
	}
	s := m.services[name]
	if s == nil {
		s = &Service{Name: name, Tier: NoTier, At: Position{m.file, line}}
		m.services[name] = s
	}
	return s
}

// needs adds an edge, if both ends have names.
func (m *importer) needs(s *Service, on string, line int, change func(*Need)) {
	if on = named(on); s == nil || on == "" {
		return
	}
	n := Need{AnyOf: []string{on}, At: Position{m.file, line}}
	if change != nil {
		change(&n)
	}
	s.Needs = append(s.Needs, n)
}

func managed(n *Need) { n.Managed = true }

func soft(n *Need) { n.Soft = true }

func observed(n *Need) { n.Soft, n.Provenance = true, Observed }

// compose reads depends_on and what else ties a service to another (the Compose specification's services).
func (m *importer) compose(f File) {
	for _, doc := range tree(f.Data, m.report) {
		services := doc.get("services")
		if services == nil || services.shape != mapping {
			continue
		}
		for i := range services.pairs {
			p := &services.pairs[i]
			s := m.service(p.key, int(p.at.line))
			if on := p.value.get("depends_on"); on != nil {
				for j := range on.items {
					m.needs(s, on.items[j].text, int(on.items[j].line), nil)
				}
				for j := range on.pairs {
					e := &on.pairs[j]
					if required := e.value.get("required"); required != nil && required.text == "false" {
						m.needs(s, e.key, int(e.at.line), soft)
					} else {
						m.needs(s, e.key, int(e.at.line), nil)
					}
				}
			}
			for _, key := range []string{"links", "volumes_from"} {
				if v := p.value.get(key); v != nil {
					for j := range v.items {
						name, _, _ := strings.Cut(v.items[j].text, ":")
						if name != "container" {
							m.needs(s, name, int(v.items[j].line), nil)
						}
					}
				}
			}
			for _, key := range []string{"network_mode", "ipc", "pid"} {
				if name, ok := strings.CutPrefix(p.value.str(key), "service:"); ok {
					m.needs(s, name, int(p.value.get(key).line), nil)
				}
			}
		}
	}
}

// baseName is a file's name without its directory.
func baseName(name string) string { return path.Base(clean(name)) }
