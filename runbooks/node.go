package runbooks

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of one file.
const (
	MaxFile      = 256 << 10 // bytes
	maxDocuments = 100
	maxDepth     = 20    // of lists and mappings in each other
	maxNodes     = 50000 // values
)

// shape is what a YAML value is.
type shape int

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

// node is a YAML value and where it starts. Every struct of the language keeps the one it was read from.
type node struct {
	line, column int
	shape        shape
	text         string          // of text, as it reads; of number and boolean, as it is written
	items        []*node         // of a list
	pairs        []pair          // of a mapping, in the order of the file
	flow         *token.Position // of a list in brackets: its closing one
}

type pair struct{ key, value *node }

func (n *node) setNode(from *node) { *n = *from }

// get is the value of a key, or the mapping itself where the key is not there: either is a place to point at.
func (n *node) get(key string) *node {
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.value
		}
	}
	return n
}

// item is one value of the list under a key, or the next best place to point at.
func (n *node) item(key string, i int) *node {
	l := n.get(key)
	if l != n && i < len(l.items) {
		return l.items[i]
	}
	return l
}

// tree reads the documents of a file, without comments. Errors are in the report.
func tree(b []byte, r *report) (docs []*node) {
	defer func() {
		// Some malformed documents make the YAML library panic.
		if p := recover(); p != nil {
			docs = nil
			r.pos(1, 1, "malformed YAML: %v", p)
		}
	}()
	if !plain(b, r) {
		return nil
	}
	tokens := lexer.Tokenize(string(b))
	if !tame(tokens, r) {
		return nil
	}
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		syntax(err, r)
		return nil
	}
	b2 := builder{report: r, left: maxNodes}
	for _, d := range f.Docs {
		if d.Body == nil {
			continue
		}
		if len(docs) == maxDocuments {
			r.at(position(d.Body), "more than %d documents in one file", maxDocuments)
			break
		}
		docs = append(docs, b2.build(d.Body, 0))
	}
	if len(r.errs) > 0 {
		return nil
	}
	return docs
}

// plain looks at what a parser may not even see: the size, the encoding, tabs that indent.
func plain(b []byte, r *report) bool {
	if len(b) > MaxFile {
		r.lines = nil
		r.pos(1, 1, "larger than %d bytes", MaxFile)
		return false
	}
	block := -1 // the indentation above which lines belong to a block of text; -1: none
	for i, line := range r.lines {
		if !utf8.ValidString(line) {
			at := 0
			for c := range line {
				if strings.HasPrefix(line[c:], "\uFFFD") {
					continue
				}
				if bad, size := utf8.DecodeRuneInString(line[c:]); bad == utf8.RuneError && size == 1 {
					break
				}
				at++
			}
			r.pos(i+1, at+1, "not UTF-8")
			continue
		}
		for c, at := range indexed(line) {
			if hidden(c) && !(c == '\uFEFF' && i == 0 && at == 1) {
				r.pos(i+1, at, "hidden character %U", c)
				break
			}
		}
		content := strings.TrimLeft(line, " \t")
		if content == "" {
			continue
		}
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if block >= 0 && indent > block {
			continue
		}
		if block = -1; startsBlock(content) {
			block = indent
		}
		if line[indent] == '\t' {
			r.pos(i+1, indent+1, "a tab cannot indent: use spaces")
		}
	}
	return len(r.errs) == 0
}

// indexed gives the characters of a line with their columns.
func indexed(line string) func(func(rune, int) bool) {
	return func(yield func(rune, int) bool) {
		at := 1
		for _, c := range line {
			if !yield(c, at) {
				return
			}
			at++
		}
	}
}

// startsBlock says whether a block of text, | or >, follows a line.
func startsBlock(line string) bool {
	if before, _, ok := strings.Cut(line, " #"); ok {
		line = before
	}
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return false
	}
	last := fields[len(fields)-1]
	return (last[0] == '|' || last[0] == '>') && strings.Trim(last[1:], "+-0123456789") == ""
}

// tame refuses what a small file can blow up with: aliases, tags, and nesting deeper than a parser's stack should
// have to follow.
func tame(tokens token.Tokens, r *report) bool {
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		p := t.Position
		switch t.Type {
		case token.AliasType, token.AnchorType, token.MergeKeyType, token.TagType, token.DirectiveType:
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

// syntax notes an error of the YAML library.
func syntax(err error, r *report) {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil {
		r.pos(1, 1, "malformed YAML: %v", err)
		return
	}
	p := at.GetToken().Position
	r.pos(p.Line, p.Column, "malformed YAML: %s", at.GetMessage())
}

// builder turns the library's tree into nodes.
type builder struct {
	*report
	left int
}

func (b *builder) build(n ast.Node, depth int) *node {
	out := position(n)
	if b.left--; b.left < 0 || depth > maxDepth {
		if len(b.errs) == 0 {
			b.at(out, "nested too deeply, or more than %d values", maxNodes)
		}
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
		out.shape, out.text = boolean, strconv.FormatBool(v.Value)
	case *ast.NullNode:
	case *ast.SequenceNode:
		out.shape = list
		if v.IsFlowStyle && v.End != nil {
			out.flow = v.End.Position
		}
		for _, i := range v.Values {
			out.items = append(out.items, b.build(i, depth+1))
		}
	case *ast.MappingNode:
		out.shape = mapping
		seen := map[string]*node{}
		for _, m := range v.Values {
			b.pair(out, m, seen, depth)
		}
		if len(out.pairs) > 0 && !v.IsFlowStyle {
			out.line, out.column = out.pairs[0].key.line, out.pairs[0].key.column
		}
	case *ast.MappingValueNode:
		out.shape = mapping
		b.pair(out, v, map[string]*node{}, depth)
	default:
		b.at(out, "%s is not taken here", strings.ToLower(n.Type().YAMLName()))
	}
	return out
}

func (b *builder) pair(out *node, m *ast.MappingValueNode, seen map[string]*node, depth int) {
	key := position(m.Key)
	switch k := m.Key.(type) {
	case *ast.StringNode:
		key.text = k.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		key.text = k.GetToken().Value
	default:
		b.at(key, "a key must be plain text")
		return
	}
	if first := seen[key.text]; first != nil {
		b.at(key, "key %.80q is there twice: the first is in line %d", key.text, first.line)
		return
	}
	seen[key.text] = key
	out.pairs = append(out.pairs, pair{key, b.build(m.Value, depth+1)})
}

// position is a node without content.
func position(n ast.Node) *node {
	out := &node{}
	if t := n.GetToken(); t != nil && t.Position != nil {
		out.line, out.column = t.Position.Line, t.Position.Column
	}
	return out
}
