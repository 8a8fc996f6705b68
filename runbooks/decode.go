package runbooks

import (
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// maxList bounds each list and mapping of a document.
const maxList = 1000

// field is one key of a mapping in the language.
type field struct {
	index    int
	key      string
	about    string
	text     string // the rule for its text, or its items' or values'
	required bool
	one      bool
	kinds    []string // empty: goes with all
	min, max float64  // of a number; max 0: not bounded
}

// tables are the language's, for each of its structs.
var tables = sync.OnceValue(func() map[reflect.Type][]field {
	all := map[reflect.Type][]field{}
	for _, t := range []reflect.Type{
		reflect.TypeFor[Runbook](), reflect.TypeFor[Var](), reflect.TypeFor[Step](), reflect.TypeFor[With](),
		reflect.TypeFor[Probe](), reflect.TypeFor[Rehearsal](), reflect.TypeFor[Hardware](),
	} {
		all[t] = readTags(t)
	}
	return all
})

// fields is the table for a struct.
func fields(t reflect.Type) []field { return tables()[t] }

func readTags(t reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		f := field{index: i, key: tag.Get("yaml"), about: tag.Get("about"), kinds: strings.Fields(tag.Get("kinds"))}
		if f.key == "-" {
			continue
		}
		for _, r := range strings.Split(tag.Get("rule"), ",") {
			switch name, value, _ := strings.Cut(r, "="); name {
			case "required":
				f.required = true
			case "one":
				f.one = true
			case "min":
				f.min, _ = strconv.ParseFloat(value, 64)
			case "max":
				f.max, _ = strconv.ParseFloat(value, 64)
			default:
				f.text = name
			}
		}
		all = append(all, f)
	}
	return all
}

// oneOf is the key, of those marked one in a struct, that is there.
func oneOf(v any) string {
	s := reflect.ValueOf(v).Elem()
	for _, f := range fields(s.Type()) {
		if f.one && !s.Field(f.index).IsZero() {
			return f.key
		}
	}
	return ""
}

// decoder fills structs from nodes.
type decoder struct{ *report }

// decode fills v, a struct, from a mapping. kind is that of the mapping above.
func (d decoder) decode(n *node, v reflect.Value, kind string) {
	if p, ok := v.Addr().Interface().(interface{ setNode(*node) }); ok {
		p.setNode(n)
	}
	if n.shape != mapping {
		d.at(n, "want a mapping, got %s", n.shape)
		return
	}
	table := fields(v.Type())
	kind, ok := d.kind(n, table, kind)
	for _, p := range n.pairs {
		i := slices.IndexFunc(table, func(f field) bool { return f.key == p.key.text })
		if i < 0 {
			d.at(p.key, "unknown key %.80q%s", p.key.text, meant(p.key.text, table))
			continue
		}
		f := table[i]
		if ok && len(f.kinds) > 0 && !slices.Contains(f.kinds, kind) {
			d.at(p.key, "%s does not go with %s", f.key, kind)
			continue
		}
		d.value(p.value, v.Field(f.index), f, kind)
	}
	for _, f := range table {
		if f.required && n.get(f.key) == n && (len(f.kinds) == 0 || slices.Contains(f.kinds, kind)) {
			d.at(n, "%s is missing", f.key)
		}
	}
}

// kind finds which of the keys marked one is there. It is false if that is not known, and the error is noted.
func (d decoder) kind(n *node, table []field, above string) (string, bool) {
	var could, there []string
	for _, f := range table {
		if !f.one {
			continue
		}
		could = append(could, f.key)
		if at := n.get(f.key); at != n {
			if there = append(there, f.key); len(there) == 2 {
				d.at(at, "%s and %s: exactly one of them may be there", there[0], there[1])
			}
		}
	}
	if len(could) == 0 {
		return above, true
	}
	if len(there) == 0 {
		d.at(n, "one of %s is missing", strings.Join(could, ", "))
	}
	if len(there) != 1 {
		return "", false
	}
	return there[0], true
}

// value fills v from any node.
func (d decoder) value(n *node, v reflect.Value, f field, kind string) {
	if n.shape == nothing {
		d.at(n, "%s is empty", f.key)
		return
	}
	if c, ok := v.Addr().Interface().(*Condition); ok {
		d.condition(n, c)
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if n.shape != text && n.shape != number {
			d.at(n, "want text, got %s", n.shape)
		} else if err := u.UnmarshalText([]byte(n.text)); err != nil {
			d.at(n, "%v", err)
		}
		return
	}
	switch v.Kind() { //nolint:exhaustive // the kinds of fields that the language has
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), f, kind)
	case reflect.Struct:
		d.decode(n, v, kind)
	case reflect.String:
		if d.text(n, f) {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if n.shape != boolean {
			d.at(n, "want true or false, got %s", n.shape)
			return
		}
		v.SetBool(n.text == "true")
	case reflect.Int, reflect.Float64:
		d.number(n, v, f)
	case reflect.Slice:
		d.list(n, v, f, kind)
	case reflect.Map:
		d.mapping(n, v, f, kind)
	}
}

func (d decoder) number(n *node, v reflect.Value, f field) {
	x, err := strconv.ParseFloat(n.text, 64)
	if n.shape != number || err != nil || x < f.min || (f.max > 0 && x > f.max) || x != x {
		d.at(n, "want a number from %g to %g", f.min, f.max)
		return
	}
	if v.Kind() == reflect.Float64 {
		v.SetFloat(x)
		return
	}
	if x != float64(int64(x)) {
		d.at(n, "want a whole number, got %.40s", n.text)
		return
	}
	v.SetInt(int64(x))
}

func (d decoder) list(n *node, v reflect.Value, f field, kind string) {
	if n.shape != list {
		d.at(n, "want a list, got %s", n.shape)
		return
	}
	if len(n.items) > maxList {
		d.at(n, "more than %d items", maxList)
		return
	}
	if f.required && len(n.items) == 0 {
		d.at(n, "%s is empty", f.key)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.items), len(n.items)))
	for i, item := range n.items {
		d.value(item, v.Index(i), f, kind)
	}
}

func (d decoder) mapping(n *node, v reflect.Value, f field, kind string) {
	if n.shape != mapping {
		d.at(n, "want a mapping, got %s", n.shape)
		return
	}
	if len(n.pairs) > maxList {
		d.at(n, "more than %d keys", maxList)
		return
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(n.pairs)))
	key := field{key: f.key, text: f.text}
	if f.text != "" {
		f.text = "value"
	}
	for _, p := range n.pairs {
		name := *p.key
		name.shape = text
		value := reflect.New(v.Type().Elem()).Elem()
		d.value(p.value, value, f, kind)
		if d.text(&name, key) {
			v.SetMapIndex(reflect.ValueOf(name.text), value)
		}
	}
}

// condition reads text, or a mapping with any_of.
func (d decoder) condition(n *node, c *Condition) {
	c.setNode(n)
	name := field{key: "conditions", text: "line"}
	switch {
	case n.shape == text:
		if d.text(n, name) {
			c.Name = n.text
		}
	case n.shape == mapping && len(n.pairs) == 1 && n.pairs[0].key.text == "any_of":
		if among := n.pairs[0].value; among.shape == list && len(among.items) >= 2 {
			d.list(among, reflect.ValueOf(&c.AnyOf).Elem(), name, "")
			return
		}
		fallthrough
	default:
		d.at(n, "want a capability, an endpoint, or {any_of: [ONE, OTHER]}")
	}
}
