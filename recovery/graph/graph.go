// Package graph is the recovery graph: what must come back first, what can never come back, and how long it takes.
//
// A service is recoverable when its manager and everything it needs is. What needs nothing but the hardware, this
// binary and safe storage comes first; the rest follows in waves. What stays behind holds a loop, or needs something
// that nobody provides. The package reads bytes that the caller gives it and returns values: it opens no file, looks
// up no name and has no clock.
//
// # Files
//
// A YAML (or JSON) document with a list under services declares them:
//
//	given: [power]                              # there without any service, beside hardware, blackstart and safe-storage
//	services:
//	  - {name: zelos-region, tier: 1, owner: storage-oncall, managed_by: meta-root, needs: [safe-storage:read], provides: [coordination]}
//	  - {name: scheduler, tier: 2, region: eu, managed_by: meta-region, needs: [coordination, {any_of: [dns, dns-frozen]}],
//	     runbook: scheduler.yaml, takes: 4m, observed: [metrics]}
//	capabilities:                               # as a kit.yaml has them
//	  - {name: coordination:read, service: zelos-region}
//
// Lower tiers are nearer to the hardware. A name in needs is that of a service, of a capability that one or more
// services provide, or a service's name with a colon and a kind of use (package-store:read). managed_by is a need as
// well: what starts a service must be up before it. observed is what was seen in use, and holds nothing up.
//
// A document that starts with rehearsal adds its conditions to what its service needs, as declared. One that starts with
// runbook says where its service's runbook is. A JSON document with service and at is a [Proof]. Others are left alone.
package graph

import (
	"slices"
	"strings"
	"time"
)

// NoTier is the tier of a service that says none.
const NoTier = -1

// Bounds of the input.
const (
	MaxFile  = 64 << 20 // bytes of a JSON file, or of a YAML file in the plain form that this package writes
	MaxYAML  = 4 << 20  // bytes of any other YAML file
	maxName  = 253      // bytes of a name
	maxNodes = 8 << 20  // values of one file
)

// Provenance is what is known of an edge; more is higher.
type Provenance uint8

// An edge is written by somebody, or seen in a rehearsal's record, or proven necessary by taking it away.
const (
	Declared Provenance = iota
	Observed
	Proven
)

// String is declared, observed or proven.
func (p Provenance) String() string {
	return [...]string{"declared", "observed", "proven"}[min(p, Proven)]
}

// MarshalText writes what String writes.
func (p Provenance) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// Position is a place in a file; Line counts from 1, and 0 is unknown.
type Position struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// Need is one edge of the graph: any one of the names holds. The names are of services or capabilities.
type Need struct {
	AnyOf      []string   `json:"any_of"`
	Managed    bool       `json:"managed,omitempty"` // by this one: it starts the service
	Soft       bool       `json:"soft,omitempty"`    // seen in use, but not known to be needed
	Provenance Provenance `json:"provenance"`
	At         Position   `json:"at,omitzero"`
	Proof      string     `json:"proof,omitempty"` // the file of the record that an observed or proven edge came from
}

// String is the need in words: a or b.
func (n Need) String() string { return strings.Join(n.AnyOf, " or ") }

// Service is one node of the graph.
type Service struct {
	Name     string        `json:"name"`
	Tier     int           `json:"tier"` // 0 and up, or NoTier
	Region   string        `json:"region,omitempty"`
	Owner    string        `json:"owner,omitempty"`
	Needs    []Need        `json:"needs,omitempty"` // the manager is one of them
	Provides []string      `json:"provides,omitempty"`
	Runbook  string        `json:"runbook,omitempty"` // path, from where the graph's files are given
	Asks     bool          `json:"asks,omitempty"`    // its runbook has questions for an operator
	Takes    time.Duration `json:"takes,omitempty"`   // what its owner expects, in nanoseconds; 0: unknown
	At       Position      `json:"at,omitzero"`
}

// Manager is the name of what starts the service, or "".
func (s Service) Manager() string {
	for _, n := range s.Needs {
		if n.Managed && !n.Soft {
			return n.AnyOf[0]
		}
	}
	return ""
}

// Graph is services and the proofs of their rehearsals. It is not changed once it is made.
type Graph struct {
	Services   []Service   // by name, each once
	Proofs     []Proof     // the newest first
	Rehearsals []Rehearsal // by file and line
	Given      []string    // what is there without a service
	Problems   []Problem   // what contradicts itself in the files
	Ignored    []Ignored   // files that say nothing about the graph
	runbooks   map[string]string
}

// Ignored is a file, or a document in one, that was left out.
type Ignored struct {
	At  Position `json:"at"`
	Why string   `json:"why"`
}

// Problem is something wrong that leaves the rest of the graph useful.
type Problem struct {
	Kind    ProblemKind `json:"kind"`
	Service string      `json:"service"`
	Message string      `json:"message"`
	At      Position    `json:"at,omitzero"`
	Other   Position    `json:"other,omitzero"` // of the other of two that contradict each other
}

// ProblemKind sorts problems.
type ProblemKind string

// A service that two files tell differently; a name in needs that nobody provides; a proof of another runbook than the
// one that is there, of which nothing is made.
const (
	Conflict ProblemKind = "conflict"
	Unknown  ProblemKind = "unknown"
	Mismatch ProblemKind = "mismatch"
)

// Find is the service with a name.
func (g *Graph) Find(name string) (Service, bool) {
	i, ok := slices.BinarySearchFunc(g.Services, name, func(s Service, n string) int { return strings.Compare(s.Name, n) })
	if !ok {
		return Service{}, false
	}
	return g.Services[i], true
}

// base is what a recovery starts from.
func base() []string { return []string{"hardware", "blackstart", "safe-storage"} }
