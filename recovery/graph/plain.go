package graph

import (
	"encoding/json"
	"strings"
)

// readPlain reads the plain form of YAML that graphs are written in, JSON among it, about twenty times as fast as the
// YAML library: a million edges have to be read in a second. What it is not certain of (texts over several lines,
// anchors, words such as Null, anything malformed) it leaves to the library, which then says what is wrong and where.
func readPlain(b []byte) ([]node, bool) {
	p := plain{s: string(b), line: 1}
	if strings.ContainsAny(p.s, "\r\t\x00\uFEFF") && !p.blanksOnly() {
		return nil, false
	}
	var docs []node
	for p.skip(); p.i < len(p.s); p.skip() {
		if p.column() == 0 && p.marker() {
			if rest := p.rest(); rest != "" {
				return nil, false
			}
			continue
		}
		n := p.block(p.column(), 0)
		if p.bad || p.nodes > maxNodes {
			return nil, false
		}
		p.skip()
		if p.i < len(p.s) && !(p.column() == 0 && strings.HasPrefix(p.s[p.i:], "---")) {
			return nil, false
		}
		docs = append(docs, n)
	}
	return docs, true
}

// plain is where a reading stands.
type plain struct {
	s     string
	i     int // the next byte
	start int // of the line
	line  int32
	nodes int
	bad   bool
}

// blanksOnly says whether tabs are all that is odd, and all of them in JSON, where they are blanks.
func (p *plain) blanksOnly() bool {
	return !strings.ContainsAny(p.s, "\r\x00\uFEFF") && strings.HasPrefix(strings.TrimSpace(p.s), "{") && json.Valid([]byte(p.s))
}

func (p *plain) fail() node { p.bad = true; return node{} }

func (p *plain) column() int { return p.i - p.start }

func (p *plain) here() node {
	p.nodes++
	return node{line: p.line, column: int32(p.column() + 1)}
}

// peek is the next byte; 0 at the end.
func (p *plain) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

// skip goes over blanks, comments and the ends of lines.
func (p *plain) skip() {
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == ' ' || c == '\t':
			p.i++
		case c == '\n':
			p.i++
			p.line++
			p.start = p.i
		case c == '#' && (p.i == p.start || p.s[p.i-1] == ' '):
			for p.i < len(p.s) && p.s[p.i] != '\n' {
				p.i++
			}
		default:
			return
		}
	}
}

// rest takes what is left of the line, without a comment and blanks.
func (p *plain) rest() string {
	end := strings.IndexByte(p.s[p.i:], '\n')
	if end < 0 {
		end = len(p.s) - p.i
	}
	rest := p.s[p.i : p.i+end]
	p.i += end
	if at := strings.Index(rest, " #"); at >= 0 {
		rest = rest[:at]
	}
	return strings.TrimRight(rest, " ")
}

func (p *plain) marker() bool {
	if strings.HasPrefix(p.s[p.i:], "---") && (p.i+3 == len(p.s) || p.s[p.i+3] == '\n' || p.s[p.i+3] == ' ') {
		p.i += 3
		return true
	}
	return false
}

// block reads a value whose first line starts at a column.
func (p *plain) block(indent, depth int) node {
	switch c := p.peek(); {
	case depth > maxDepth:
		return p.fail()
	case c == '{' || c == '[':
		n := p.flow(depth)
		p.endOfLine()
		return n
	case p.dash():
		return p.sequence(indent, depth)
	}
	mark, line := p.i, p.here()
	if _, ok := p.key(false); ok {
		p.i = mark
		return p.mapping(indent, depth)
	}
	if p.bad || depth == 0 {
		return p.fail()
	}
	p.i = mark
	n := p.scalar(false)
	n.line, n.column = line.line, line.column
	p.endOfLine()
	return n
}

// dash says whether an item of a list comes next.
func (p *plain) dash() bool {
	return p.peek() == '-' && (p.i+1 == len(p.s) || p.s[p.i+1] == ' ' || p.s[p.i+1] == '\n')
}

// endOfLine goes to the next line with something on it, which must not be further in than a value may be.
func (p *plain) endOfLine() {
	line := p.line
	p.skip()
	if p.i < len(p.s) && p.line == line {
		p.bad = true
	}
}

func (p *plain) sequence(indent, depth int) node {
	n := p.here()
	n.shape = list
	for !p.bad && p.i < len(p.s) && p.column() == indent && p.dash() {
		line := p.line
		p.i++
		p.skip()
		if p.line != line || p.i >= len(p.s) {
			return p.fail() // an item on a line of its own, or none
		}
		n.items = append(n.items, p.block(p.column(), depth+1))
	}
	if p.i < len(p.s) && p.column() > indent {
		return p.fail()
	}
	return n
}

func (p *plain) mapping(indent, depth int) node {
	n := p.here()
	n.shape = mapping
	for !p.bad && p.i < len(p.s) && p.column() == indent && !p.dash() {
		if indent == 0 && strings.HasPrefix(p.s[p.i:], "---") {
			break
		}
		e := pair{at: p.here()}
		key, ok := p.key(false)
		if !ok {
			return p.fail()
		}
		e.key = key
		line := p.line
		p.skip()
		switch {
		case p.i < len(p.s) && p.line == line:
			if c := p.peek(); c == '{' || c == '[' {
				e.value = p.flow(depth + 1)
			} else if p.dash() {
				return p.fail()
			} else {
				e.value = p.scalar(false)
			}
			p.endOfLine()
		case p.i < len(p.s) && (p.column() > indent || p.column() == indent && p.dash()) && !p.atMarker():
			e.value = p.block(p.column(), depth+1)
		default:
			return p.fail() // an empty value: the library knows where it is
		}
		n.pairs = append(n.pairs, e)
	}
	if p.i < len(p.s) && p.column() > indent || repeated(n.pairs) {
		return p.fail()
	}
	return n
}

// repeated says whether a key is there twice.
func repeated(pairs []pair) bool {
	if len(pairs) > 16 {
		seen := make(map[string]bool, len(pairs))
		for i := range pairs {
			if seen[pairs[i].key] {
				return true
			}
			seen[pairs[i].key] = true
		}
		return false
	}
	for i := range pairs {
		for j := range i {
			if pairs[i].key == pairs[j].key {
				return true
			}
		}
	}
	return false
}

func (p *plain) atMarker() bool { return p.column() == 0 && strings.HasPrefix(p.s[p.i:], "---") }

// flow reads {…} or […].
func (p *plain) flow(depth int) node {
	if depth > maxDepth || p.nodes > maxNodes {
		return p.fail()
	}
	n := p.here()
	open := p.peek()
	n.shape = list
	end := byte(']')
	if open == '{' {
		n.shape, end = mapping, '}'
	}
	p.i++
	for {
		p.skip()
		if p.bad || p.i >= len(p.s) {
			return p.fail()
		}
		if p.peek() == end {
			p.i++
			if repeated(n.pairs) {
				return p.fail()
			}
			return n
		}
		if open == '{' {
			e := pair{at: p.here()}
			key, ok := p.key(true)
			if !ok {
				return p.fail()
			}
			e.key = key
			p.skip()
			e.value = p.item(depth)
			n.pairs = append(n.pairs, e)
		} else {
			n.items = append(n.items, p.item(depth))
		}
		p.skip()
		switch p.peek() {
		case ',':
			p.i++
		case end:
		default:
			return p.fail()
		}
	}
}

func (p *plain) item(depth int) node {
	if c := p.peek(); c == '{' || c == '[' {
		return p.flow(depth + 1)
	}
	return p.scalar(true)
}
