package graph

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// File is one file of the input. Data is not changed.
type File struct {
	Name string // as errors and positions name it; .json in the end makes it JSON, else it is YAML
	Data []byte
}

// Read makes a graph of files: declared services, rehearsals, runbooks (for their digests) and proofs, in any number and
// order. Files that say nothing about the graph are listed in Ignored.
//
// Errors: Errors, of at most 50 for each file.
func Read(files ...File) (*Graph, error) {
	read := make([]parsed, len(files))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(len(files), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				read[i] = parseFile(files[i])
			}
		})
	}
	for i := range files {
		next <- i
	}
	close(next)
	wg.Wait()
	var errs Errors
	m := newMerger()
	for i := range read {
		errs = append(errs, read[i].errs...)
		m.add(&read[i])
		read[i] = parsed{}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return m.graph(), nil
}

// New makes a graph of services, such as an importer returns, and of what is there without a service.
// Services of the same name become one.
func New(services []Service, given ...string) *Graph {
	m := newMerger()
	m.add(&parsed{services: services, given: given})
	return m.graph()
}

// parsed is what one file says.
type parsed struct {
	services   []Service
	offers     []offer
	books      []book
	rehearsals []Rehearsal
	proofs     []Proof
	given      []string
	ignored    []Ignored
	runbook    string // name of the file, if it has runbooks
	digest     string
	errs       Errors
}

// offer is a capability of a service, as a kit declares it.
type offer struct {
	name, service string
	at            Position
}

func parseFile(f File) parsed {
	r := &report{file: f.Name}
	d := decoder{report: r, parsed: &parsed{}, dir: path.Dir(clean(f.Name))}
	isJSON := strings.HasSuffix(f.Name, ".json")
	switch {
	case isJSON && !bytes.Contains(f.Data, []byte(`"service"`)) && !bytes.Contains(f.Data, []byte(`"services"`)):
		d.ignore(1, "no services in it")
		return *d.parsed
	case !isJSON && !speaks(f.Data):
		d.ignore(1, "none of services, rehearsal and runbook starts a line")
		return *d.parsed
	}
	docs := tree(f.Data, r)
	for i := range docs {
		d.document(&docs[i])
	}
	if d.runbook != "" {
		d.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(f.Data))
	}
	_ = r.err() // sorts
	d.parsed.errs = r.errs
	return *d.parsed
}

// speaks says whether a YAML file has one of the keys that a document about the graph starts with.
func speaks(b []byte) bool {
	for len(b) > 0 {
		for _, k := range []string{"services:", "capabilities:", "given:", "rehearsal:", "runbook:"} {
			if bytes.HasPrefix(b, []byte(k)) {
				return true
			}
		}
		at := bytes.IndexByte(b, '\n')
		if at < 0 {
			break
		}
		b = b[at+1:]
	}
	return false
}

// clean gives a path one form.
func clean(name string) string { return path.Clean(filepath.ToSlash(name)) }

// beside resolves a path that a file in dir names.
func beside(dir, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(dir, name)
}

// decoder turns the nodes of one file into what they mean.
type decoder struct {
	*report
	*parsed
	dir string
}

func (d *decoder) ignore(line int, why string) {
	d.ignored = append(d.ignored, Ignored{At: Position{File: d.file, Line: line}, Why: why})
}

func (d *decoder) position(n *node) Position { return Position{File: d.file, Line: int(n.line)} }

func (d *decoder) document(n *node) {
	services := n.get("services")
	switch {
	case n.shape != mapping:
		d.ignore(int(n.line), "not a mapping")
	case services != nil && services.shape == mapping:
		d.ignore(int(n.line), "services is a mapping, as in a Compose file: import it")
	case n.get("service") != nil && n.get("at") != nil: // a proof names its rehearsal, its runbook and its steps as well
		d.proof(n)
	case n.get("rehearsal") != nil && n.get("services") == nil:
		d.rehearsal(n)
	case n.get("runbook") != nil && n.get("steps") != nil:
		d.book(n)
	case services != nil || n.get("capabilities") != nil || n.get("given") != nil:
		d.declarations(n)
	default:
		d.ignore(int(n.line), "neither services nor a rehearsal, a runbook or a proof")
	}
}

// declarations reads a document with services. A kit.yaml is one as well; what only a kit has is left to it.
func (d *decoder) declarations(n *node) {
	ofKit := []string{"name", "fresh_for", "min_tool", "sources", "artifacts", "names", "trust", "policy", "runbooks", "contacts", "revoked", "include"}
	for i := range n.pairs {
		p := &n.pairs[i]
		switch p.key {
		case "services":
			items := d.items(&p.value)
			d.services = slices.Grow(d.services, len(items))
			for j := range items {
				d.service(&items[j])
			}
		case "capabilities":
			items := d.items(&p.value)
			for j := range items {
				d.offer(&items[j])
			}
		case "given":
			d.given = append(d.given, d.names(&p.value)...)
		default:
			if !slices.Contains(ofKit, p.key) {
				d.at(&p.at, "unknown key %.80q: want services, capabilities or given", p.key)
			}
		}
	}
}

func (d *decoder) service(n *node) {
	if n.shape != mapping {
		d.at(n, "want a mapping with the name of a service, got %s", n.shape)
		return
	}
	s := Service{Tier: NoTier, At: d.position(n)}
	for i := range n.pairs {
		p := &n.pairs[i]
		v := &p.value
		switch p.key {
		case "name":
			s.Name = d.name(v)
		case "tier":
			s.Tier = d.small(v)
		case "region":
			s.Region = d.name(v)
		case "owner":
			s.Owner = d.name(v)
		case "managed_by":
			if m := d.name(v); m != "" {
				s.Needs = append(s.Needs, Need{AnyOf: []string{m}, Managed: true, At: d.position(v)})
			}
		case "needs":
			s.Needs = d.needs(s.Needs, v)
		case "observed":
			from := len(s.Needs)
			s.Needs = d.needs(s.Needs, v)
			for j := from; j < len(s.Needs); j++ {
				s.Needs[j].Soft, s.Needs[j].Provenance = true, Observed
			}
		case "provides":
			s.Provides = d.names(v)
		case "runbook":
			s.Runbook = beside(d.dir, d.name(v))
		case "takes":
			s.Takes = d.duration(v)
		case "image", "spec": // a kit's
		default:
			d.at(&p.at, "unknown key %.80q in a service: want name, tier, region, owner, managed_by, needs, observed, provides, runbook or takes", p.key)
		}
	}
	if n.get("name") == nil {
		d.at(n, "name is missing")
	}
	if s.Name != "" {
		d.services = append(d.services, s)
	}
}

func (d *decoder) offer(n *node) {
	name, service := n.get("name"), n.get("service")
	if n.shape != mapping || name == nil {
		d.at(n, "want a mapping with the name of a capability and its service")
		return
	}
	if c := d.name(name); service == nil {
		d.ignore(int(n.line), "the capability "+c+" is no service's") // a sandbox may know it; nobody provides it
	} else if s := d.name(service); c != "" && s != "" {
		d.offers = append(d.offers, offer{c, s, d.position(n)})
	}
}

// needs adds the needs of a list.
func (d *decoder) needs(to []Need, n *node) []Need {
	items := d.items(n)
	to = slices.Grow(to, len(items))
	for i := range items {
		v := &items[i]
		need := Need{At: d.position(v)}
		if v.shape == mapping {
			any := v.get("any_of")
			if any == nil || len(v.pairs) != 1 {
				d.at(v, "want a name, or a mapping with any_of alone")
				continue
			}
			if need.AnyOf = d.names(any); len(any.items) < 2 {
				d.at(any, "any_of wants two names or more")
			}
		} else {
			need.AnyOf = []string{d.name(v)}
		}
		if len(need.AnyOf) > 0 && need.AnyOf[0] != "" {
			to = append(to, need)
		}
	}
	return to
}

func (d *decoder) items(n *node) []node {
	if n.shape != list {
		d.at(n, "want a list, got %s", n.shape)
		return nil
	}
	return n.items
}

// names reads a list of names, without those that are wrong.
func (d *decoder) names(n *node) []string {
	items := d.items(n)
	out := make([]string, 0, len(items))
	for i := range items {
		if s := d.name(&items[i]); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// name reads a text in one line; "" after an error.
func (d *decoder) name(n *node) string {
	if n.shape != text {
		d.at(n, "want text, got %s%s", n.shape, quote(n.shape))
		return ""
	}
	if why := badName(n.text); why != "" {
		d.at(n, "%s", why)
		return ""
	}
	return n.text
}

func quote(s shape) string {
	if s == number || s == boolean {
		return ": put it in quotes"
	}
	return ""
}

// small reads a tier.
func (d *decoder) small(n *node) int {
	if n.shape != number || !digits(n.text) || len(n.text) > 4 {
		d.at(n, "want a tier, a whole number from 0 to 9999")
		return NoTier
	}
	v := 0
	for i := range len(n.text) {
		v = 10*v + int(n.text[i]-'0')
	}
	return v
}

func (d *decoder) duration(n *node) time.Duration {
	v, err := parseDuration(n.text)
	if n.shape != text || err != nil {
		d.at(n, "%.40q is not a duration: write it like 90s, 5m or 1h30m, above zero and at most 8760h", n.text)
		return 0
	}
	return v
}

// parseDuration reads 30d, or what time.ParseDuration reads.
func parseDuration(s string) (time.Duration, error) {
	const most = 365 * 24 * time.Hour
	days, isDays := strings.CutSuffix(s, "d")
	if isDays {
		s = days + "h"
	}
	v, err := time.ParseDuration(s)
	if isDays && v < most {
		v *= 24
	}
	if err == nil && (v <= 0 || v > most) {
		err = fmt.Errorf("%s is out of range", s)
	}
	return v, err
}
