package runbooks

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// SetConditions gives the file's bytes with other conditions for one of its rehearsals. Everything else stays byte for
// byte, comments too: only what stands behind a condition on its line goes with it. Conditions that stay keep their
// order and come first.
//
// Errors: ErrInvalid where the file is written in a way that cannot be changed like this.
func (f *File) SetConditions(h *Rehearsal, want []Condition) ([]byte, error) {
	i := slices.Index(f.Rehearsals, h)
	if i < 0 {
		return nil, fmt.Errorf("%w: %q is no rehearsal of %s", ErrInvalid, h.Title, f.Name)
	}
	e := editor{lines: strings.Split(string(f.source), "\n")}
	if bytes.Contains(f.source, []byte("\r\n")) {
		e.end = "\r"
	}
	at := h.get("conditions")
	switch {
	case at == &h.node:
		e.insert(h.key("within").line, indentOf(e.line(h.key("within").line))+"conditions: "+flowConditions(want))
	case at.flow != nil:
		e.flow(at, h.key("conditions").line, want, comments(f.source))
	default:
		e.block(at, h, want)
	}
	out := []byte(strings.Join(e.lines, "\n"))
	if err := f.changedOnly(out, i, want); err != nil {
		return nil, f.error(at, "cannot change the conditions here (%v): write them as a list with one condition in a line", err)
	}
	return out, nil
}

// changedOnly says whether new bytes differ in the conditions of one rehearsal alone.
func (f *File) changedOnly(b []byte, i int, want []Condition) error {
	g, err := Parse(f.Name, b)
	if err != nil {
		return err
	}
	if len(g.Rehearsals) != len(f.Rehearsals) || len(g.Runbooks) != len(f.Runbooks) {
		return fmt.Errorf("%w: the documents changed", ErrInvalid)
	}
	got := g.Rehearsals[i].Conditions
	if len(got) != len(want) {
		return fmt.Errorf("%w: %d conditions, want %d", ErrInvalid, len(got), len(want))
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, w.same) {
			return fmt.Errorf("%w: condition %s is lost", ErrInvalid, w)
		}
	}
	for j := range f.Runbooks {
		if !same(&f.Runbooks[j].node, &g.Runbooks[j].node, "") {
			return fmt.Errorf("%w: a runbook changed", ErrInvalid)
		}
	}
	for j := range f.Rehearsals {
		except := ""
		if j == i {
			except = "conditions"
		}
		if !same(&f.Rehearsals[j].node, &g.Rehearsals[j].node, except) {
			return fmt.Errorf("%w: something else changed", ErrInvalid)
		}
	}
	return nil
}

// same says whether two values say the same, but for one key.
func same(a, b *node, except string) bool {
	left := slices.DeleteFunc(slices.Clone(a.pairs), func(p pair) bool { return p.key.text == except })
	right := slices.DeleteFunc(slices.Clone(b.pairs), func(p pair) bool { return p.key.text == except })
	return a.shape == b.shape && a.text == b.text &&
		slices.EqualFunc(a.items, b.items, func(x, y *node) bool { return same(x, y, "") }) &&
		slices.EqualFunc(left, right, func(x, y pair) bool { return x.key.text == y.key.text && same(x.value, y.value, "") })
}

// editor changes lines, counted from 1.
type editor struct {
	lines []string
	end   string // of each line, before the newline
}

func (e *editor) line(n int) string { return e.lines[n-1] }

// insert puts a line before line n.
func (e *editor) insert(n int, line string) {
	e.lines = slices.Insert(e.lines, n-1, line+e.end)
}

// flow replaces a list in brackets. Comments inside it move above its key.
func (e *editor) flow(at *node, key int, want []Condition, all []comment) {
	first, last := e.line(at.line), e.line(at.flow.Line)
	joined := first[:offset(first, at.column)] + flowConditions(want) + last[offset(last, at.flow.Column)+1:]
	e.lines = slices.Replace(e.lines, at.line-1, at.flow.Line, joined)
	for _, c := range slices.Backward(all) {
		inside := c.line >= at.line && (c.line > at.line || c.column > at.column) && c.line < at.flow.Line
		if inside {
			e.insert(key, indentOf(e.line(key))+"#"+c.text)
		}
	}
}

// block replaces a list whose conditions stand in lines of their own.
func (e *editor) block(at *node, h *Rehearsal, want []Condition) {
	indent := indentOf(e.line(at.items[0].line))
	last := at.items[len(at.items)-1].lastLine()
	left := slices.Clone(want)
	keep := make([]bool, len(at.items))
	for i := range at.items {
		if j := slices.IndexFunc(left, h.Conditions[i].same); j >= 0 {
			keep[i] = true
			left = slices.Delete(left, j, j+1)
		}
	}
	for _, c := range slices.Backward(left) {
		e.insert(last+1, indent+"- "+c.String())
	}
	for i, item := range slices.Backward(at.items) {
		if !keep[i] {
			e.lines = slices.Delete(e.lines, item.line-1, item.lastLine())
		}
	}
	if len(want) == 0 {
		key := h.key("conditions")
		l := e.line(key.line)
		colon := offset(l, key.column) + len("conditions")
		colon += strings.Index(l[colon:], ":") + 1
		e.lines[key.line-1] = l[:colon] + " []" + l[colon:]
	}
}

// lastLine is the last line of a value.
func (n *node) lastLine() int {
	last := n.line
	if n.flow != nil {
		last = max(last, n.flow.Line)
	}
	for _, i := range n.items {
		last = max(last, i.lastLine())
	}
	for _, p := range n.pairs {
		last = max(last, p.value.lastLine())
	}
	return last
}

// offset is where a column, in characters from 1, starts in bytes.
func offset(line string, column int) int {
	for at := range line {
		if column--; column == 0 {
			return at
		}
	}
	return len(line)
}

func indentOf(line string) string {
	return line[:len(line)-len(strings.TrimLeft(line, " "))]
}

func flowConditions(l []Condition) string {
	out := make([]string, len(l))
	for i, c := range l {
		out[i] = c.String()
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// comment is what stands behind a #.
type comment struct {
	line, column int
	text         string
}

// comments are those of a file that Parse has read.
func comments(b []byte) []comment {
	var all []comment
	for _, t := range lexer.Tokenize(strings.ReplaceAll(string(b), "\r\n", "\n")) {
		if t.Type == token.CommentType {
			all = append(all, comment{t.Position.Line, t.Position.Column, t.Value})
		}
	}
	return all
}
