package runbooks

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// textWidth is the width of a terminal that every host has, in characters.
const textWidth = 80

// text writes the document for a terminal.
func (v view) text(w io.Writer) error {
	var out bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	para := func(indent, s string) {
		for _, l := range wrap(s, textWidth-len(indent)) {
			p("%s", strings.TrimRight(indent+l, " "))
		}
	}
	code := func(indent, s string) {
		for l := range strings.SplitSeq(s, "\n") {
			p("%s", strings.TrimRight(indent+l, " "))
		}
	}
	p("%s\n%s", v.Title, strings.Repeat("=", min(len([]rune(v.Title)), textWidth)))
	p("Service %s%s%s", v.Service, labelled(", owner ", v.Owner), labelled(", about ", v.Expected))
	for _, proof := range v.Proofs {
		para("", proof.signed())
	}
	if v.Summary != "" {
		p("")
		para("", v.Summary)
	}
	if len(v.Contacts) > 0 {
		p("\nCall")
		for _, c := range v.Contacts {
			p("  %s", c.line())
		}
	}
	if len(v.Before) > 0 {
		p("\nSet first")
		for _, x := range v.Vars {
			para("  ", x.line())
		}
		code("    ", strings.Join(v.Before, "\n"))
	}
	for _, s := range v.Steps {
		p("\n[ ] %d. %s%s", s.Number, s.Name, labelled("  about ", s.Takes))
		para("      ", s.Says)
		para("      | ", s.Quote)
		if s.Command != "" {
			code("        ", s.Command)
		}
		for _, f := range s.Facts {
			if f.Code {
				p("      %s:", f.Name)
				code("        ", f.Text)
				continue
			}
			para("      ", f.Name+": "+f.Text)
		}
	}
	for _, h := range v.Rehearsals {
		p("\nRehearsed: %s (%s, within %s)", h.Title, h.Hardware, h.Within)
		para("  ", "May reach: "+orNothing(h.Conditions)+".")
		for _, c := range h.Healthy {
			para("  ", "Healthy when "+c+".")
		}
	}
	p("\n%s", strings.TrimSpace(v.File+" "+v.Digest))
	_, err := w.Write(out.Bytes())
	return err
}

func labelled(label, s string) string {
	if s == "" {
		return ""
	}
	return label + s
}

func orNothing(l []string) string {
	if len(l) == 0 {
		return "nothing"
	}
	return strings.Join(l, ", ")
}

// line is a contact in one line.
func (c contactView) line() string {
	if c.Name == c.URI || c.URI == "" {
		return c.Name
	}
	return c.Name + "  " + c.URI
}

// line is a variable in one line.
func (v varView) line() string {
	return v.Name + labelled(": ", v.About) + labelled(" (", v.Value) + labelled(")", v.Value)[:min(1, len(v.Value))]
}

// sentence is a proof in words.
func (p proofView) sentence() string {
	if p.Unsigned != "" {
		return fmt.Sprintf("NOT SIGNED: a file says that %q passed on %s in %s, and %s.", p.Rehearsal, p.At, p.Took, p.Unsigned)
	}
	if p.Stale != "" {
		return fmt.Sprintf("STALE: passed %q on %s in %s; since then %s.", p.Rehearsal, p.At, p.Took, p.Stale)
	}
	return fmt.Sprintf("PROVEN: passed %q on %s in %s, reaching %s.", p.Rehearsal, p.At, p.Took, p.Conditions)
}

// signed is sentence, and who vouches for it.
func (p proofView) signed() string {
	if p.Signer == "" {
		return p.sentence()
	}
	return p.sentence() + " Signed by " + p.Signer + "."
}

// wrap breaks text into lines of at most width characters where it has blanks. Lines stay lines.
func wrap(s string, width int) []string {
	var out []string
	if s == "" {
		return nil
	}
	for l := range strings.SplitSeq(s, "\n") {
		line := ""
		for _, word := range strings.Fields(l) {
			if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
				out, line = append(out, line), ""
			}
			if line != "" {
				line += " "
			}
			line += word
		}
		out = append(out, line)
	}
	return out
}
