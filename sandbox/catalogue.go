package sandbox

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Catalogue has capabilities by the names that a site gives them, such as
// package-store:read. One name may stand for several endpoints.
type Catalogue map[string][]Capability

// maxCatalogued is how many endpoints a name may stand for.
const maxCatalogued = 100

// Add reads what a name stands for: a JSON object whose allow is a list of
// endpoints with their options, as [ParseCapability] takes them.
//
//	{"allow": ["http:https://10.0.0.5:5000;GET,HEAD;/v2/*", "dns:store.example"]}
func (c Catalogue) Add(name string, spec []byte) error {
	var s struct {
		Allow []string `json:"allow"`
	}
	if err := json.Unmarshal(spec, &s); err != nil {
		return fmt.Errorf("%w: %.100q: %w", ErrBadCapability, name, err)
	}
	if len(s.Allow) == 0 || len(s.Allow) > maxCatalogued {
		return fmt.Errorf("%w: %.100q: want allow, a list of at most %d endpoints", ErrBadCapability, name, maxCatalogued)
	}
	var all []Capability
	for _, e := range s.Allow {
		one, err := ParseCapability(e)
		if err != nil {
			return fmt.Errorf("%.100q: %w", name, err)
		}
		one.Name = name
		all = append(all, one)
	}
	c[name] = all
	return nil
}

// Resolve reads a capability's name, with options that hold for all that it
// stands for, or an inline endpoint.
func (c Catalogue) Resolve(s string) ([]Capability, error) {
	name, options, with := strings.Cut(s, ",")
	found, ok := c[name]
	if !ok {
		one, err := ParseCapability(s)
		if err != nil && len(c) > 0 {
			err = fmt.Errorf("%w; the catalogue has %s", err, strings.Join(slices.Sorted(maps.Keys(c)), ", "))
		}
		return []Capability{one}, err
	}
	if !with {
		return slices.Clone(found), nil
	}
	var all []Capability
	for _, one := range found {
		// What the name's own options say is left out where it is said again.
		changed, err := ParseCapability(one.Endpoint() + "," + options)
		if err != nil {
			return nil, err
		}
		base := one
		base.Dark, base.Mode = changed.Dark, changed.Mode
		if changed.Latency > 0 {
			base.Latency = changed.Latency
		}
		if changed.Loss > 0 {
			base.Loss = changed.Loss
		}
		if changed.Bandwidth > 0 {
			base.Bandwidth = changed.Bandwidth
		}
		all = append(all, base)
	}
	return all, nil
}
