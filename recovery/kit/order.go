package kit

import (
	"fmt"
	"slices"
	"strings"
)

// Order returns artifacts in the order in which they are to be repaired, each after all that it needs; in the
// document's order where that leaves a choice. Without names, all of them. What the named ones need is part of
// the answer. A name that is not there is ErrNotFound.
func (d *Document) Order(names ...string) ([]Artifact, error) {
	if len(names) == 0 {
		for _, a := range d.Artifacts {
			names = append(names, a.Name)
		}
	}
	byName := make(map[string]Artifact, len(d.Artifacts))
	for _, a := range d.Artifacts {
		byName[a.Name] = a
	}
	var order []Artifact
	done := map[string]bool{}
	var path []string
	var visit func(string) error
	visit = func(name string) error {
		if done[name] {
			return nil
		}
		a, ok := byName[name]
		if !ok {
			return fmt.Errorf("artifact %.100q: %w in the kit", name, ErrNotFound)
		}
		if i := slices.Index(path, name); i >= 0 {
			return fmt.Errorf("artifacts need each other: %s", strings.Join(append(path[i:], name), " -> "))
		}
		path = append(path, name)
		for _, n := range a.Needs {
			if err := visit(n); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		done[name] = true
		order = append(order, a)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// checkNeeds refuses needs that are not there or lead in a circle.
func (d *Document) checkNeeds() error {
	if _, err := d.Order(); err != nil {
		return fmt.Errorf("artifacts: %w", err)
	}
	return nil
}
