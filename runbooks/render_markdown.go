package runbooks

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// markdown writes the document in CommonMark.
func (v view) markdown(w io.Writer) error {
	var out bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	p("# %s\n", escaped(v.Title))
	p("Service **%s**%s%s\n", escaped(v.Service), labelled(", owner ", escaped(v.Owner)), labelled(", about ", v.Expected))
	for _, proof := range v.Proofs {
		p("> **%s**\n", escaped(proof.signed()))
	}
	if v.Summary != "" {
		p("%s\n", escaped(v.Summary))
	}
	if len(v.Contacts) > 0 {
		p("## Call\n")
		for _, c := range v.Contacts {
			p("- %s", escaped(c.line()))
		}
		p("")
	}
	if len(v.Before) > 0 {
		p("## Set first\n")
		for _, x := range v.Vars {
			p("- %s", escaped(x.line()))
		}
		p("\n%s", fenced(strings.Join(v.Before, "\n"), ""))
	}
	p("## Steps\n")
	for _, s := range v.Steps {
		p("### %d. %s\n", s.Number, escaped(s.Name))
		if s.Takes != "" {
			p("About %s.\n", s.Takes)
		}
		if s.Says != "" {
			p("%s\n", escaped(s.Says))
		}
		if s.Quote != "" {
			p("> %s\n", strings.ReplaceAll(escaped(s.Quote), "\n", "\n> "))
		}
		if s.Command != "" {
			p("%s", fenced(s.Command, ""))
		}
		for _, f := range s.Facts {
			if f.Code {
				p("- %s:\n\n%s", f.Name, fenced(f.Text, "  "))
				continue
			}
			p("- %s: %s", f.Name, escaped(f.Text))
		}
		if len(s.Facts) > 0 {
			p("")
		}
	}
	for _, h := range v.Rehearsals {
		p("## Rehearsed: %s\n", escaped(h.Title))
		p("- On %s, within %s", h.Hardware, h.Within)
		p("- May reach: %s", escaped(orNothing(h.Conditions)))
		for _, c := range h.Healthy {
			p("- Healthy when %s", escaped(c))
		}
		p("")
	}
	p("---\n\n%s", escaped(strings.TrimSpace(v.File+" "+v.Digest)))
	_, err := w.Write(out.Bytes())
	return err
}

// fenced is a block of code; its fence is longer than any in the code.
func fenced(s, indent string) string {
	fence := "```"
	for strings.Contains(s, fence) {
		fence += "`"
	}
	block := fence + "sh\n" + s + "\n" + fence + "\n"
	return indent + strings.TrimRight(strings.ReplaceAll(block, "\n", "\n"+indent), " ")
}

// escaped is text that Markdown gives back as it is.
func escaped(s string) string {
	var out strings.Builder
	for l := range strings.SplitSeq(s, "\n") {
		if out.Len() > 0 {
			out.WriteByte('\n')
		}
		l = strings.TrimSpace(l)
		digits := len(l) - len(strings.TrimLeft(l, "0123456789"))
		for i, c := range l {
			start := i == 0 && strings.ContainsRune("-+=", c)
			number := i == digits && i > 0 && (c == '.' || c == ')')
			if start || number || strings.ContainsRune("\\`*_[]<>|~&#", c) {
				out.WriteByte('\\')
			}
			out.WriteRune(c)
		}
	}
	return out.String()
}
