package graph

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds lists and mappings in each other.
const maxDepth = 50

// shape is what a YAML value is.
type shape uint8

const (
	nothing shape = iota
	text
	number
	boolean
	list
	mapping
)

// String is how an error names it.
func (s shape) String() string {
	return [...]string{"nothing", "text", "a number", "true or false", "a list", "a mapping"}[s]
}

// node is a YAML value and where it starts.
type node struct {
	line, column int32
	shape        shape
	text         string // of text, as it reads; of number and boolean, as it is written
	items        []node // of a list
	pairs        []pair // of a mapping, in the order of the file
}

type pair struct {
	key   string
	at    node // where the key is
	value node
}

// get is the value of a key; nil if it is not there.
func (n *node) get(key string) *node {
	for i := range n.pairs {
		if n.pairs[i].key == key {
			return &n.pairs[i].value
		}
	}
	return nil
}

// str is the text under a key, for documents that other programs define; "" if there is none.
func (n *node) str(key string) string {
	if v := n.get(key); v != nil && (v.shape == text || v.shape == number) {
		return v.text
	}
	return ""
}

// find goes down through mappings; nil if it ends.
func (n *node) find(keys ...string) *node {
	for _, k := range keys {
		if n = n.get(k); n == nil {
			return nil
		}
	}
	return n
}

// tree reads the documents of a YAML or JSON file, without comments. Errors are in the report.
func tree(b []byte, r *report) []node {
	if len(b) > MaxFile {
		r.pos(1, 1, "larger than %d bytes", MaxFile)
		return nil
	}
	if !utf8.Valid(b) {
		line := 1
		for ; len(b) > 0; line++ {
			head, tail, _ := strings.Cut(string(b), "\n")
			if !utf8.ValidString(head) {
				break
			}
			b = []byte(tail)
		}
		r.pos(line, 1, "not UTF-8")
		return nil
	}
	if docs, ok := readPlain(b); ok {
		return docs
	}
	return full(b, r)
}

// full reads everything that YAML can be, at the speed and with the memory that needs.
func full(b []byte, r *report) (docs []node) {
	defer func() {
		// Some malformed documents make the YAML library panic.
		if p := recover(); p != nil {
			docs = nil
			r.pos(1, 1, "malformed YAML: %v", p)
		}
	}()
	if len(b) > MaxYAML {
		r.pos(1, 1, "larger than %d bytes, and not in the plain form that is read up to %d", MaxYAML, MaxFile)
		return nil
	}
	tokens := lexer.Tokenize(string(b))
	if !tame(tokens, r) {
		return nil
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at yaml.Error
		if !errors.As(err, &at) || at.GetToken() == nil {
			r.pos(1, 1, "malformed YAML: %v", err)
			return nil
		}
		p := at.GetToken().Position
		r.pos(p.Line, p.Column, "malformed YAML: %s", at.GetMessage())
		return nil
	}
	t := builder{report: r, anchors: map[string]node{}}
	for _, d := range f.Docs {
		if d.Body != nil {
			docs = append(docs, t.build(d.Body, 0))
		}
	}
	if len(r.errs) > 0 {
		return nil
	}
	return docs
}

// tame refuses what a small file can blow up with: aliases, tags, and nesting deeper than a parser's stack should
// have to follow.
func tame(tokens token.Tokens, r *report) bool {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		p := t.Position
		switch t.Type { //nolint:exhaustive // the others are harmless
		case token.AliasType, token.AnchorType, token.MergeKeyType, token.TagType, token.DirectiveType:
			if r.anchors && t.Type != token.DirectiveType {
				continue
			}
			r.pos(p.Line, p.Column, "anchors, aliases, tags and directives are not taken")
			return false
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if p.Line != line {
				line, entries = p.Line, 0
			}
			entries++
		}
		if depth > maxDepth || entries > maxDepth || p.IndentNum > 16*maxDepth {
			r.pos(p.Line, p.Column, "nested too deeply")
			return false
		}
	}
	return true
}

// builder turns the library's tree into nodes.
type builder struct {
	*report
	anchors map[string]node
	shared  int // nodes that aliases stand for
}

func (b *builder) build(n ast.Node, depth int) node {
	out := position(n)
	if depth > maxDepth {
		b.at(&out, "nested too deeply")
		return out
	}
	switch v := n.(type) {
	case *ast.StringNode:
		out.shape, out.text = text, v.Value
	case *ast.LiteralNode:
		out.shape, out.text = text, v.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		out.shape, out.text = number, n.GetToken().Value
	case *ast.BoolNode:
		out.shape, out.text = boolean, n.GetToken().Value
	case *ast.NullNode:
	case *ast.SequenceNode:
		out.shape = list
		for _, i := range v.Values {
			item := b.build(i, depth+1)
			if v.IsFlowStyle {
				item = unsplit(i, item)
			}
			out.items = append(out.items, item)
		}
	case *ast.MappingNode:
		out.shape = mapping
		for _, m := range v.Values {
			b.pair(&out, m, depth)
		}
		b.merge(&out, v.Values, depth)
	case *ast.MappingValueNode:
		out.shape = mapping
		b.pair(&out, v, depth)
		b.merge(&out, []*ast.MappingValueNode{v}, depth)
	case *ast.AnchorNode:
		out = b.build(v.Value, depth+1)
		b.anchors[v.Name.String()] = out
	case *ast.AliasNode:
		return b.alias(v, out)
	case *ast.TagNode:
		return b.build(v.Value, depth+1)
	default:
		b.at(&out, "%s is not taken here", strings.ToLower(n.Type().YAMLName()))
	}
	b.twice(&out)
	if len(out.pairs) > 0 {
		first := &out.pairs[0].at
		if out.line > first.line || out.line == first.line && out.column > first.column {
			out.line, out.column = first.line, first.column
		}
	}
	return out
}

// unsplit mends a list in a mapping, both in brackets: there the library takes a:b for a mapping, which wants a blank
// after the colon (YAML 1.2.2, 7.3.3).
func unsplit(from ast.Node, n node) node {
	m, ok := from.(*ast.MappingValueNode)
	if !ok {
		if all, isMap := from.(*ast.MappingNode); isMap && !all.IsFlowStyle && len(all.Values) == 1 {
			m, ok = all.Values[0], true
		}
	}
	if !ok || len(n.pairs) != 1 {
		return n
	}
	key, isText := m.Key.(*ast.StringNode)
	value := m.Value.GetToken()
	if !isText || key.Token.Type != token.StringType || m.Start == nil || value == nil || value.Position.Offset != m.Start.Position.Offset+1 {
		return n
	}
	p := &n.pairs[0]
	inner := unsplit(m.Value, p.value)
	switch inner.shape {
	case mapping, list:
		return n
	case nothing:
		if value.Type != token.NullType { // else it is written: ~ or null
			return n
		}
		inner.text = value.Value
	case text, number, boolean:
	}
	return node{line: p.at.line, column: p.at.column, shape: text, text: p.key + ":" + inner.text}
}

func (b *builder) pair(out *node, m *ast.MappingValueNode, depth int) {
	p := pair{at: position(m.Key)}
	switch k := m.Key.(type) {
	case *ast.MergeKeyNode:
		return
	case *ast.StringNode:
		p.key = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		p.key = k.GetToken().Value
	default:
		b.at(&p.at, "a key must be plain text")
		return
	}
	p.value = b.build(m.Value, depth+1)
	out.pairs = append(out.pairs, p)
}

// twice notes keys that are there twice.
func (b *builder) twice(n *node) {
	seen := make(map[string]int32, len(n.pairs))
	for i := range n.pairs {
		p := &n.pairs[i]
		if first, ok := seen[p.key]; ok {
			b.at(&p.at, "key %.80q is there twice: the first is in line %d", p.key, first)
			continue
		}
		seen[p.key] = p.at.line
	}
}

// position is a node without content.
func position(n ast.Node) node {
	out := node{}
	if t := n.GetToken(); t != nil && t.Position != nil {
		out.line, out.column = int32(t.Position.Line), int32(t.Position.Column)
	}
	return out
}
