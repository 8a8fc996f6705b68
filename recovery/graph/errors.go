package graph

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid is wrapped by every error about what the input says.
var ErrInvalid = errors.New("invalid recovery graph")

// maxErrors bounds how much is said about one file.
const maxErrors = 50

// Error is one thing that is wrong, and where. Lines and columns count from 1, columns in characters; 0 is unknown.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Message string `json:"message"`
}

// Error is FILE:LINE:COLUMN: MESSAGE. Nothing in it can move a terminal's cursor.
func (e *Error) Error() string {
	at := printable(e.File)
	if e.Line > 0 {
		at += fmt.Sprintf(":%d:%d", e.Line, max(e.Column, 1))
	}
	return at + ": " + printable(e.Message)
}

// Unwrap makes every Error an ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// Errors is everything that is wrong, in the order of the files and their lines.
type Errors []*Error

// Error is each error, a line between them.
func (e Errors) Error() string {
	all := make([]string, len(e))
	for i, one := range e {
		all[i] = one.Error()
	}
	return strings.Join(all, "\n")
}

// Unwrap gives errors.Is and errors.As each error.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

// report collects what is wrong with one file.
type report struct {
	file    string
	anchors bool // what YAML can share between places is taken
	errs    Errors
}

// at notes an error at a node.
func (r *report) at(n *node, format string, args ...any) {
	r.pos(int(n.line), int(n.column), format, args...)
}

func (r *report) pos(line, column int, format string, args ...any) {
	if len(r.errs) < maxErrors {
		r.errs = append(r.errs, &Error{File: r.file, Line: max(line, 1), Column: max(column, 1), Message: fmt.Sprintf(format, args...)})
	}
}

// err is nil, or the errors in the order of the lines.
func (r *report) err() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return r.errs
}

// hidden says whether a character could deceive somebody who reads a name: one that moves the cursor, that is not
// seen, or that turns the direction of writing.
func hidden(c rune) bool {
	return unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029'
}

// printable makes any bytes fit for one line of a terminal.
func printable(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return strings.Map(func(c rune) rune {
				if c == utf8.RuneError || hidden(c) {
					return '\uFFFD'
				}
				return c
			}, s)
		}
	}
	return s
}

// badName says why a text cannot be the name of a service or capability; "" if it can.
func badName(s string) string {
	switch {
	case s == "":
		return "a name is empty"
	case len(s) > maxName:
		return fmt.Sprintf("a name is longer than %d bytes", maxName)
	case !utf8.ValidString(s):
		return "a name is not UTF-8"
	case strings.ContainsFunc(s, hidden):
		return fmt.Sprintf("hidden character in the name %q", s)
	case strings.TrimSpace(s) != s:
		return fmt.Sprintf("blanks around the name %q", s)
	}
	return ""
}
