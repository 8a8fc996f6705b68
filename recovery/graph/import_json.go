package graph

import (
	"regexp"
	"strings"
	"sync"
)

// nomad reads jobs in JSON (the Nomad API's Job). Jobs are managed by nomad. Upstreams are needs; what templates look up
// in Consul is soft.
func (m *importer) nomad(f File) {
	docs := tree(f.Data, m.report)
	for i := range docs {
		job := &docs[i]
		if j := job.get("Job"); j != nil {
			job = j
		}
		name := job.str("ID")
		if name == "" {
			name = job.str("Name")
		}
		s := m.service(name, int(job.line))
		if s == nil {
			m.at(job, "want a job in JSON, with its ID: nomad job run -output makes it")
			continue
		}
		m.needs(s, "nomad", int(job.line), managed)
		m.nomadPart(s, job, 0)
	}
}

var lookups = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\b(service|key|secret)\s+"([^"|]+)`)
})

func (m *importer) nomadPart(s *Service, n *node, depth int) {
	if depth > maxDepth {
		return
	}
	for i := range n.pairs {
		p := &n.pairs[i]
		line := int(p.value.line)
		switch p.key {
		case "Services":
			for j := range p.value.items {
				if name := named(p.value.items[j].str("Name")); name != "" && !strings.Contains(name, "${") {
					s.Provides = append(s.Provides, name)
				}
			}
		case "Upstreams":
			for j := range p.value.items {
				m.needs(s, p.value.items[j].str("DestinationName"), line, nil)
			}
		case "Vault":
			if p.value.shape == mapping {
				m.needs(s, "vault", line, nil)
			}
		case "EmbeddedTmpl":
			for _, hit := range lookups().FindAllStringSubmatch(p.value.text, 100) {
				switch hit[1] {
				case "service":
					m.needs(s, hit[2], line, soft)
				case "key":
					m.needs(s, "consul", line, soft)
				case "secret":
					m.needs(s, "vault", line, soft)
				}
			}
		}
		m.nomadPart(s, &p.value, depth+1)
	}
	for i := range n.items {
		m.nomadPart(s, &n.items[i], depth+1)
	}
}

// telemetry reads who calls whom.
func (m *importer) telemetry(f File) {
	docs := tree(f.Data, m.report)
	found := 0
	for i := range docs {
		m.calls(&docs[i], &found, 0)
	}
	if len(docs) > 0 && found == 0 {
		m.pos(1, 1, "no calls in it: want traces_service_graph_request_total as OTLP or Prometheus give it, or Jaeger's dependencies")
	}
}

func (m *importer) calls(n *node, found *int, depth int) {
	if depth > maxDepth {
		return
	}
	from, to := n.str("client"), n.str("server")
	if from == "" {
		from, to = n.str("parent"), n.str("child")
	}
	if a := n.get("attributes"); a != nil && a.shape == list {
		for i := range a.items {
			value := a.items[i].get("value")
			if value == nil {
				continue
			}
			switch a.items[i].str("key") {
			case "client":
				from = value.str("stringValue")
			case "server":
				to = value.str("stringValue")
			}
		}
	}
	if from != "" && to != "" {
		*found++
		m.service(to, int(n.line))
		m.needs(m.service(from, int(n.line)), to, int(n.line), observed)
	}
	for i := range n.pairs {
		m.calls(&n.pairs[i].value, found, depth+1)
	}
	for i := range n.items {
		m.calls(&n.items[i], found, depth+1)
	}
}

// terraform reads the edges of a graph in the DOT language, each in its line, as terraform graph prints them: what a
// resource's arrow points to comes first.
func (m *importer) terraform(f File) {
	found := false
	for i, text := range strings.Split(string(f.Data), "\n") {
		text = strings.TrimSpace(text)
		found = found || strings.HasPrefix(text, "digraph")
		if !strings.HasPrefix(text, `"`) {
			continue
		}
		from, rest, ok := dotText(text)
		if !ok {
			m.pos(i+1, 1, "a text without its end")
			continue
		}
		s := m.service(resource(from), i+1)
		if rest, ok = strings.CutPrefix(strings.TrimSpace(rest), "->"); !ok {
			continue
		}
		to, _, ok := dotText(strings.TrimSpace(rest))
		if !ok {
			m.pos(i+1, 1, "want -> and a text in quotes")
			continue
		}
		m.service(resource(to), i+1)
		m.needs(s, resource(to), i+1, nil)
	}
	if !found {
		m.pos(1, 1, "want what terraform graph prints, which starts with digraph")
	}
}

// dotText takes a quoted text off the front.
func dotText(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", s, false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), s[i+1:], true
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == '"' || s[i+1] == '\\'):
			i++
		}
		b.WriteByte(s[i])
	}
	return "", s, false
}

// resource is a node's name without what Terraform adds. What closes a module or provider stays apart from what opens it:
// one waits for all that is in it, the other does not.
func resource(s string) string {
	return strings.TrimSuffix(strings.TrimPrefix(s, "[root] "), " (expand)")
}

// closed leaves out the root of Terraform's graphs, and what closes modules and providers that nothing waits for.
func (m *importer) closed() {
	if m.format != Terraform {
		return
	}
	delete(m.services, "root")
	needed := m.needed()
	for name := range m.services {
		if strings.HasSuffix(name, " (close)") && !needed[name] {
			delete(m.services, name)
		}
	}
}
