package runbooks

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
)

// durationPattern is what a duration in a document looks like.
const durationPattern = `^([0-9]+d|([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+)$`

// sizePattern is what a size in a document looks like.
const sizePattern = `^[0-9]+(KiB|MiB|GiB|TiB)?$`

// object is a part of a JSON document. encoding/json sorts its keys, so the same tables give the same bytes.
type object = map[string]any

// Schema is the JSON Schema (draft 2020-12) of one YAML document: a runbook or a rehearsal. It is made from the
// tables that Parse reads with, and says all that they say. It cannot say what spans steps: needs, names, variables.
func Schema() []byte {
	s := schema{defs: object{}}
	s.define("runbook", reflect.TypeFor[Runbook](), "")
	s.define("rehearsal", reflect.TypeFor[Rehearsal](), "")
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	// Maps, slices and plain values always encode.
	_ = enc.Encode(object{
		"$schema":  "https://json-schema.org/draft/2020-12/schema",
		"title":    "blackstart runbook or rehearsal",
		"type":     "object",
		"anyOf":    []any{object{"required": []string{"runbook"}}, object{"required": []string{"rehearsal"}}},
		"if":       object{"required": []string{"rehearsal"}},
		"then":     ref("rehearsal"),
		"else":     ref("runbook"),
		"$defs":    s.defs,
		"$comment": "one document of a file; --- separates documents",
	})
	return out.Bytes()
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

type schema struct{ defs object }

// define puts a struct under a name. A struct with keys marked one becomes a choice among a mapping for each.
func (s schema) define(name string, t reflect.Type, kind string) {
	if _, ok := s.defs[name]; ok {
		return
	}
	table := fields(t)
	var choice []any
	for _, f := range table {
		if f.one {
			choice = append(choice, ref(name+"-"+f.key))
		}
	}
	if choice == nil {
		s.defs[name] = s.object(t, table, kind)
		return
	}
	s.defs[name] = object{"oneOf": choice}
	for _, f := range table {
		if f.one {
			s.defs[name+"-"+f.key] = s.object(t, slices.DeleteFunc(slices.Clone(table), func(o field) bool { return o.one && o.key != f.key }), f.key)
		}
	}
}

func (s schema) object(t reflect.Type, table []field, kind string) object {
	properties, required := object{}, []string{}
	for _, f := range table {
		if len(f.kinds) > 0 && !slices.Contains(f.kinds, kind) {
			continue
		}
		p := s.value(t.Field(f.index).Type, f, kind)
		p["description"] = f.about
		properties[f.key] = p
		if f.required || f.one || (f.key == "with" && s.needsWith(t.Field(f.index).Type, kind)) || (f.key == "contains" && kind == string(LogProbe)) {
			required = append(required, f.key)
		}
	}
	o := object{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

// needsWith says whether with has a required field for a kind.
func (s schema) needsWith(t reflect.Type, kind string) bool {
	return slices.ContainsFunc(fields(t.Elem()), func(f field) bool { return f.required && slices.Contains(f.kinds, kind) })
}

func (s schema) value(t reflect.Type, f field, kind string) object {
	switch t {
	case reflect.TypeFor[Duration]():
		return object{"type": "string", "pattern": durationPattern}
	case reflect.TypeFor[Bytes]():
		return object{"type": []string{"string", "integer"}, "pattern": sizePattern, "exclusiveMinimum": 0}
	case reflect.TypeFor[Condition]():
		name := s.text("line")
		return object{"anyOf": []any{name, object{
			"type": "object", "required": []string{"any_of"}, "additionalProperties": false,
			"properties": object{"any_of": object{"type": "array", "items": name, "minItems": 2, "maxItems": maxList, "uniqueItems": true}},
		}}}
	}
	switch t.Kind() { //nolint:exhaustive // the kinds of fields that the language has
	case reflect.Pointer:
		return s.value(t.Elem(), f, kind)
	case reflect.Struct:
		name := defName(t)
		if t == reflect.TypeFor[With]() {
			name += "-" + kind
		}
		s.define(name, t, kind)
		return ref(name)
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Float64:
		o := object{"type": "number", "minimum": f.min}
		if t.Kind() == reflect.Int {
			o["type"] = "integer"
		}
		if f.max > 0 {
			o["maximum"] = f.max
		}
		return o
	case reflect.Slice:
		o := object{"type": "array", "items": s.value(t.Elem(), f, kind), "maxItems": maxList}
		if f.required {
			o["minItems"] = 1
		}
		return o
	case reflect.Map:
		o := object{"type": "object", "maxProperties": maxList, "additionalProperties": s.value(t.Elem(), field{text: "value"}, kind)}
		if f.text != "" {
			o["propertyNames"] = s.text(f.text)
		}
		return o
	}
	return s.text(f.text)
}

func (s schema) text(rule string) object {
	w := vocabulary()[rule]
	if len(w.among) > 0 {
		return object{"type": "string", "enum": w.among}
	}
	o := object{"type": "string", "maxLength": w.max}
	if p := w.pattern.String(); p != "" {
		o["pattern"] = p
	}
	return o
}

// defName is a struct's name in the schema.
func defName(t reflect.Type) string {
	return map[reflect.Type]string{
		reflect.TypeFor[Var](): "var", reflect.TypeFor[Step](): "step", reflect.TypeFor[With](): "with",
		reflect.TypeFor[Probe](): "probe", reflect.TypeFor[Hardware](): "hardware",
	}[t]
}
