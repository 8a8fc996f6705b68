package runbooks

import (
	"fmt"
	"io"
)

// Format is a kind of document.
type Format string

// The formats.
const (
	Text     Format = "text"     // for a terminal
	Markdown Format = "markdown" // CommonMark
	HTML     Format = "html"     // one file that needs nothing else, for a browser, a phone or a printer
)

// Formats are all the formats.
func Formats() []Format { return []Format{Text, Markdown, HTML} }

// Page is what a document is made of.
type Page struct {
	Runbook    *Runbook
	Rehearsals []*Rehearsal      // of the runbook
	Proofs     []Proof           // of the rehearsals, the newest first
	Contacts   map[string]string // the URI of each name that the runbook gives no URI for
	File       string            // the runbook's name, for the foot of the page
	Digest     string            // of the runbook's file
}

// Render writes a document. The same page gives the same bytes.
//
// Errors: ErrInvalid for a format that there is not; those of w.
func Render(w io.Writer, f Format, p Page) error {
	v := p.view()
	switch f {
	case Text:
		return v.text(w)
	case Markdown:
		return v.markdown(w)
	case HTML:
		return v.html(w)
	}
	return fmt.Errorf("%w: no format %.40q: want text, markdown or html", ErrInvalid, string(f))
}
