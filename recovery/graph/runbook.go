package graph

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Bounds of a runbook document, as the runbook language has them.
const (
	maxSteps   = 1000
	maxRunbook = 256 << 10 // bytes
)

// Runbook writes the plan as one runbook (YAML) that calls the services' own, each after those it waits for, by the
// paths that the steps have; one that stopped goes on. Where a service has none, or one that asks questions, it asks the
// operator to bring it back. title is of the document, service what it stands for.
//
// Errors: ErrInvalid for a plan that leaves services stuck, has no steps, or more than a runbook can hold.
func (p Plan) Runbook(title, service string) ([]byte, error) {
	switch {
	case len(p.Stuck) > 0:
		return nil, fmt.Errorf("%w: %d services cannot be brought back: no runbook can do it", ErrInvalid, len(p.Stuck))
	case len(p.Steps) == 0:
		return nil, fmt.Errorf("%w: nothing was lost", ErrInvalid)
	case len(p.Steps) > maxSteps:
		return nil, fmt.Errorf("%w: %d services, and a runbook holds at most %d steps: plan a region or a part", ErrInvalid, len(p.Steps), maxSteps)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made of the recovery graph. Half of the runs are done within %s, nine in ten within %s.\n", round(p.Time.Likely), round(p.Time.High))
	fmt.Fprintf(&b, "runbook: %s\nservice: %s\nsummary: %s\nsteps:\n", bookText(title), bookText(service),
		bookText(fmt.Sprintf("Brings %d services back in %d waves. The end waits for %s.", len(p.Steps), p.Waves, shorten(p.Critical, " > "))))
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "  - name: %s\n    needs: %s\n", bookText(stepName(s.Service)), bookList(s.After))
		who := ""
		if s.Owner != "" {
			who = " of " + s.Owner
		}
		switch {
		case s.Runbook == "":
			fmt.Fprintf(&b, "    confirm: %s\n", bookText(fmt.Sprintf("There is no runbook for %s%s. Is it back?", s.Service, who)))
		case s.Asks:
			fmt.Fprintf(&b, "    confirm: %s\n", bookText(fmt.Sprintf("The runbook of %s%s asks questions. Run it at another terminal: blackstart runbook run %s. Is it done?", s.Service, who, shell(s.Runbook))))
		default:
			fmt.Fprintf(&b, "    run: %s\n", quoted("blackstart runbook run --go-on "+shell(s.Runbook)))
			fmt.Fprintf(&b, "    timeout: %s\n", round(max(time.Hour, 4*s.Takes.High)))
		}
		fmt.Fprintf(&b, "    takes: %s\n", round(s.Takes.Likely))
	}
	if b.Len() > maxRunbook {
		return nil, fmt.Errorf("%w: %d bytes, and a runbook holds at most %d: plan a region or a part", ErrInvalid, b.Len(), maxRunbook)
	}
	return b.Bytes(), nil
}

func stepName(service string) string { return "bring back " + service }

// round drops what nobody needs to know, and writes it as a runbook does.
func round(d time.Duration) string {
	switch {
	case d <= 0:
		return "1s"
	case d > time.Minute:
		d = d.Round(time.Second)
	case d > time.Second:
		d = d.Round(100 * time.Millisecond)
	}
	s := min(d, 365*24*time.Hour).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// quoted writes a text as YAML and JSON have it.
func quoted(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `""` // a string can always be encoded
	}
	return strings.TrimSpace(b.String())
}

// bookText is a text of the runbook language, in which ${ would stand for a variable.
func bookText(s string) string { return quoted(strings.ReplaceAll(s, "${", "$${")) }

func bookList(services []string) string {
	all := make([]string, len(services))
	for i, s := range services {
		all[i] = bookText(stepName(s))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// shell is a path as one word for sh, and not an option.
func shell(s string) string {
	if strings.HasPrefix(s, "-") {
		s = "./" + s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// shorten joins the first and last of many names.
func shorten(names []string, sep string) string {
	const most = 12
	if len(names) > most {
		names = append(append(append([]string{}, names[:most/2]...), fmt.Sprintf("… %d more …", len(names)-most)), names[len(names)-most/2:]...)
	}
	return strings.Join(names, sep)
}
