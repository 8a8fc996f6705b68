package kit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Change is one difference between two kits.
type Change struct {
	Section string `json:"section"` // the document's field, or "kit" for what it says of itself
	Name    string `json:"name"`
	Kind    string `json:"kind"`           // added, removed or changed
	From    string `json:"from,omitempty"` // for people to read, where that is short: a digest, a URL, a time
	To      string `json:"to,omitempty"`
}

// Diff lists what b has that a has not, and the other way round, sorted by section and name. What differs between
// any two kits (signed_at, previous) is left out.
func Diff(a, b *Document) ([]Change, error) {
	from, err := a.entries()
	if err == nil {
		var to map[entry]json.RawMessage
		if to, err = b.entries(); err == nil {
			return changes(from, to), nil
		}
	}
	return nil, fmt.Errorf("comparing kits: %w", err)
}

// entry names something in a document.
type entry struct{ section, name string }

func changes(from, to map[entry]json.RawMessage) []Change {
	var all []Change
	for e, old := range from {
		now, ok := to[e]
		switch {
		case !ok:
			all = append(all, Change{e.section, e.name, "removed", short(old), ""})
		case !bytes.Equal(old, now):
			all = append(all, Change{e.section, e.name, "changed", short(old), short(now)})
		}
	}
	for e, now := range to {
		if _, ok := from[e]; !ok {
			all = append(all, Change{e.section, e.name, "added", "", short(now)})
		}
	}
	slices.SortFunc(all, func(x, y Change) int {
		return cmp.Or(cmp.Compare(x.Section, y.Section), cmp.Compare(x.Name, y.Name))
	})
	return all
}

// entries takes a document apart as its JSON is: lists are sections, and their members are known by their name.
func (d *Document) entries() (map[entry]json.RawMessage, error) {
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	maps.DeleteFunc(fields, func(k string, _ json.RawMessage) bool { return k == "signed_at" || k == "previous" })
	all := map[entry]json.RawMessage{}
	for section, raw := range fields {
		var members []json.RawMessage
		if json.Unmarshal(raw, &members) != nil {
			all[entry{"kit", section}] = raw
			continue
		}
		for _, m := range members {
			var named struct{ Name string }
			if json.Unmarshal(m, &named) != nil {
				named.Name = short(m)
			}
			all[entry{section, named.Name}] = m
		}
	}
	return all, nil
}

// short says what a member is in one word.
func short(raw json.RawMessage) string {
	var word string
	if json.Unmarshal(raw, &word) == nil {
		return word
	}
	var number json.Number
	if json.Unmarshal(raw, &number) == nil {
		return number.String()
	}
	var m struct{ Digest, URL, URI, SPKI string }
	if json.Unmarshal(raw, &m) != nil {
		return ""
	}
	return cmp.Or(m.Digest, m.URL, m.URI, m.SPKI)
}
