package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Parse reads a document. tool is the version of the program that asks, such as v1.2.3; any other word stands
// for a version that is new enough.
//
// Errors: ErrNewer where min_tool names a newer version, or is there together with fields that are not known;
// else ErrInvalid.
func Parse(b []byte, tool string) (*Document, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("reading kit document: %w: larger than %d bytes", ErrInvalid, MaxDocument)
	}
	if err := scanJSON(b); err != nil {
		return nil, fmt.Errorf("reading kit document: %w: %w", ErrInvalid, err)
	}
	var head struct {
		MinTool string `json:"min_tool"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("reading kit document: %w: %w", ErrInvalid, err)
	}
	if newer(head.MinTool, tool) {
		return nil, fmt.Errorf("%w: version %s or later, this is %s", ErrNewer, head.MinTool, tool)
	}
	d := &Document{}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	err := dec.Decode(d)
	if err != nil && validTool(head.MinTool) {
		return nil, fmt.Errorf("%w: version %s or later: %w", ErrNewer, head.MinTool, err)
	}
	if err == nil {
		err = d.check()
	}
	if err != nil {
		return nil, fmt.Errorf("reading kit document: %w: %w", ErrInvalid, err)
	}
	return d, nil
}

// Marshal writes a document as Parse reads it. The same document always gives the same bytes.
func (d *Document) Marshal() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d); err != nil {
		return nil, fmt.Errorf("writing kit document: %w", err)
	}
	return out.Bytes(), nil
}

// scanJSON refuses what encoding/json is content with and this format is not: a key twice in one object, a key
// in other letters (Name for name), deep nesting, bytes that are not UTF-8, a second document. What is inside
// of "spec" has keys of its own.
func scanJSON(b []byte) error {
	const deep = 60
	if !utf8.Valid(b) {
		return errors.New("not UTF-8")
	}
	type object struct {
		keys  map[string]bool // nil in an array
		isKey bool            // the next string is a key
		spec  bool
	}
	var open []object
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	spec := false // the next value belongs to the key "spec", or lies deeper
	for {
		t, err := dec.Token()
		if err != nil {
			if errors.Is(err, io.EOF) && len(open) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		top := len(open) - 1
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{', '[':
				if len(open) == deep {
					return fmt.Errorf("offset %d: nested too deeply", dec.InputOffset())
				}
				o := object{spec: spec}
				if v == '{' {
					o.keys, o.isKey = map[string]bool{}, true
				}
				open = append(open, o)
				continue
			default:
				open = open[:top]
				top--
			}
		case string:
			if top >= 0 && open[top].isKey {
				o := &open[top]
				if o.keys[v] {
					return fmt.Errorf("offset %d: key %.100q twice in one object", dec.InputOffset(), v)
				}
				if !o.spec && !plainKey(v) {
					return fmt.Errorf("offset %d: key %.100q is not of lower-case letters", dec.InputOffset(), v)
				}
				o.keys[v], o.isKey = true, false
				spec = o.spec || v == "spec"
				continue
			}
		}
		// A value ended.
		if top < 0 {
			if _, err := dec.Token(); !errors.Is(err, io.EOF) {
				return fmt.Errorf("offset %d: something follows the document", dec.InputOffset())
			}
			return nil
		}
		open[top].isKey = open[top].keys != nil
		spec = open[top].spec
	}
}

func plainKey(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}
