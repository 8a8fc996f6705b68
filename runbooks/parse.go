package runbooks

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// File is what a file of runbooks and rehearsals says, each in the order of the file.
type File struct {
	Name       string // as it was given
	Digest     string // "sha256:" and the hexadecimal digest of the file's bytes
	Runbooks   []*Runbook
	Rehearsals []*Rehearsal

	source []byte
}

// Read reads a file. Its name in errors, and what rehearsals find it by, is the path given.
func Read(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading runbook: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("reading runbook: %w: %s is not a regular file", ErrInvalid, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading runbook: %w", err)
	}
	return Parse(path, b)
}

// Parse reads a file's bytes. name stands for it in errors. What one file alone can tell is checked: the form of
// every value, the steps' needs, the variables. See Check for the rest.
//
// Errors: Errors, of at most 50.
func Parse(name string, b []byte) (*File, error) {
	f, r := parse(name, b)
	if err := r.err(); err != nil {
		return nil, err
	}
	return f, nil
}

func parse(name string, b []byte) (*File, *report) {
	f := &File{Name: name, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(b)), source: bytes.Clone(b)}
	r := newReport(name, b)
	docs := tree([]byte(strings.Join(r.lines, "\n")), r)
	if len(docs) == 0 && len(r.errs) == 0 {
		r.pos(1, 1, "no runbook and no rehearsal in it")
	}
	d := decoder{r}
	for _, n := range docs {
		switch {
		case n.shape != mapping:
			r.at(n, "want a mapping that starts with runbook or rehearsal, got %s", n.shape)
		case n.get("rehearsal") != n:
			v := &Rehearsal{}
			d.decode(n, reflect.ValueOf(v).Elem(), "")
			f.Rehearsals = append(f.Rehearsals, v)
		case n.get("runbook") != n:
			v := &Runbook{}
			d.decode(n, reflect.ValueOf(v).Elem(), "")
			f.Runbooks = append(f.Runbooks, v)
		default:
			r.at(n, "neither runbook nor rehearsal is there: one of them says what the document is")
		}
	}
	if len(r.errs) == 0 {
		c := checker{report: r, file: f}
		c.check()
	}
	return f, r
}

// Runbook finds the runbook that a rehearsal of this file is about, among this file and others.
//
// Errors: ErrInvalid where it is not there, or where the file it names has several.
func (f *File) Runbook(h *Rehearsal, others ...*File) (*Runbook, error) {
	from := f
	if h.Runbook != "" {
		want := f.Wants(h)
		i := slices.IndexFunc(append([]*File{f}, others...), func(o *File) bool { return clean(o.Name) == want })
		if i < 0 {
			return nil, f.error(h.get("runbook"), "runbook %s is not there: looked for %s", h.Runbook, want)
		}
		from = append([]*File{f}, others...)[i]
	}
	if len(from.Runbooks) != 1 {
		return nil, f.error(h.get("runbook"), "%d runbooks in %s, want one", len(from.Runbooks), from.Name)
	}
	return from.Runbooks[0], nil
}

// Wants is the path of the file with a rehearsal's runbook.
func (f *File) Wants(h *Rehearsal) string {
	if h.Runbook == "" {
		return clean(f.Name)
	}
	return clean(path.Join(path.Dir(filepath.ToSlash(f.Name)), h.Runbook))
}

func clean(name string) string { return path.Clean(filepath.ToSlash(name)) }

// error is one error at a node of this file.
func (f *File) error(n *node, format string, args ...any) error {
	r := newReport(f.Name, f.source)
	r.at(n, format, args...)
	return r.err()
}

// AsErrors is the list of what is wrong, if err is of this package.
func AsErrors(err error) (Errors, bool) {
	var all Errors
	if errors.As(err, &all) {
		return all, true
	}
	var one *Error
	if errors.As(err, &one) {
		return Errors{one}, true
	}
	return nil, false
}
