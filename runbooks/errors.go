package runbooks

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid is wrapped by every error about what a document says.
var ErrInvalid = errors.New("invalid runbook")

// maxErrors bounds how much is said about one file.
const maxErrors = 50

// Error is one thing that is wrong, and where. Lines and columns count from 1, columns in characters.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Source  string `json:"source,omitempty"` // the line; empty where it may hold a secret
}

// Error is FILE:LINE:COLUMN: MESSAGE, and below it the line with a mark under the column. Nothing in it can move a
// terminal's cursor.
func (e *Error) Error() string {
	head := fmt.Sprintf("%s:%d:%d: %s", printable(e.File), e.Line, e.Column, printable(e.Message))
	if e.Source == "" {
		return head
	}
	source, column := []rune(e.Source), max(e.Column-1, 0)
	const width = 100
	if from := column - width/2; len(source) > width && from > 0 {
		source, column = source[min(from, len(source)):], column-from
	}
	if len(source) > width {
		source = source[:width]
	}
	number := fmt.Sprintf("%5d", e.Line)
	return fmt.Sprintf("%s\n%s | %s\n%s | %s^", head, number, printable(string(source)),
		strings.Repeat(" ", len(number)), strings.Repeat(" ", min(column, len(source))))
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
	file  string
	lines []string
	errs  Errors
}

// newReport is for a file's bytes; what ends its lines does not matter.
func newReport(file string, b []byte) *report {
	return &report{file: file, lines: strings.Split(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n")}
}

// at notes an error at a node.
func (r *report) at(n *node, format string, args ...any) {
	r.pos(n.line, n.column, format, args...)
}

func (r *report) pos(line, column int, format string, args ...any) {
	if len(r.errs) >= maxErrors {
		return
	}
	e := &Error{File: r.file, Line: max(line, 1), Column: max(column, 1), Message: fmt.Sprintf(format, args...)}
	if line >= 1 && line <= len(r.lines) {
		e.Source = r.lines[line-1]
	}
	r.errs = append(r.errs, e)
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

// hidden says whether a character could deceive somebody who reads a command: one that moves the cursor, that is not
// seen, or that turns the direction of writing.
func hidden(c rune) bool {
	return c != '\n' && c != '\t' && (unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == '\u2028' || c == '\u2029')
}

// printable makes any bytes fit for one line of a terminal, one character for each, so that columns stay.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t' || c == '\n':
			return ' '
		case c == utf8.RuneError || hidden(c):
			return '\uFFFD'
		}
		return c
	}, s)
}
