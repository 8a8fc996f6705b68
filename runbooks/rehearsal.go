package runbooks

import (
	"strconv"
	"strings"
)

// Rehearsal says how the recovery of a service is proved.
type Rehearsal struct {
	node       `yaml:"-"`
	Title      string            `yaml:"rehearsal" rule:"required,line" about:"what is proved"`
	Service    string            `yaml:"service" rule:"required,id" about:"the service under test"`
	Hardware   Hardware          `yaml:"hardware" about:"what it is brought back on"`
	Runbook    string            `yaml:"runbook" rule:"file" about:"the runbook's file, beside this one; absent: the runbook in this file"`
	Vars       map[string]string `yaml:"vars" rule:"var" about:"values of the runbook's variables"`
	Tools      []string          `yaml:"tools" rule:"id" about:"programs that must be on the host"`
	Given      []*Step           `yaml:"given" about:"how the dead service is laid out, before the clock starts"`
	Healthy    []*Probe          `yaml:"healthy" rule:"required" about:"what is true when the service is back; all of it"`
	Conditions []Condition       `yaml:"conditions" about:"what may be reached: capabilities or endpoints; everything else is dark"`
	Within     Duration          `yaml:"within" rule:"required" about:"how long the recovery may take, from the first step until it is healthy"`
	Hold       Duration          `yaml:"hold" about:"how long it must stay healthy"`
}

// Hardware is what a rehearsal runs on. What is zero is not limited, and Hosts is 1.
type Hardware struct {
	node   `yaml:"-"`
	Hosts  int     `yaml:"hosts" rule:"min=1,max=5" about:"how many hosts; 1 if absent"`
	CPUs   float64 `yaml:"cpus" rule:"max=4096" about:"processors of each host"`
	Memory Bytes   `yaml:"memory" about:"of each host"`
}

// Condition is something a recovery may reach: Name, or any one of AnyOf. Each is a capability of the catalogue,
// such as package-store:read, or an endpoint such as tcp:10.0.0.1:443.
type Condition struct {
	node  `yaml:"-"`
	Name  string
	AnyOf []string // at least two
}

// Names are all the capabilities and endpoints that a condition speaks of.
func (c Condition) Names() []string {
	if c.Name != "" {
		return []string{c.Name}
	}
	return c.AnyOf
}

// same says whether two conditions are alike.
func (c Condition) same(o Condition) bool {
	return c.String() == o.String()
}

// String is the condition in YAML, as one item of a list in brackets.
func (c Condition) String() string {
	if c.Name != "" {
		return flowText(c.Name)
	}
	out := make([]string, len(c.AnyOf))
	for i, s := range c.AnyOf {
		// One brace deeper, the library takes a colon inside of a word for a mapping.
		if out[i] = flowText(s); strings.Contains(s, ":") {
			out[i] = strconv.Quote(s)
		}
	}
	return "{any_of: [" + strings.Join(out, ", ") + "]}"
}
