package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/graph"
)

const (
	mostEdges = 12 // of a loop that are told one by one
	mostLines = 30 // of a kind of finding
)

func writeReport(w io.Writer, r graph.Report) error {
	loops := make([]string, len(r.Loops))
	for i, l := range r.Loops {
		lines := []string{printable(l.Sentence())}
		for _, e := range l.Edges[:min(len(l.Edges), mostEdges)] {
			lines = append(lines, printable(e.String()+": "+e.Evidence()))
		}
		if n := len(l.Edges) - mostEdges; n > 0 {
			lines = append(lines, fmt.Sprintf("and %d more edges: --output json has them", n))
		}
		loops[i] = strings.Join(lines, "\n            ")
	}
	var out []string
	if len(r.Jumpstart) > 0 {
		out = append(out, "recovery containers for "+printable(strings.Join(r.Jumpstart, ", "))+" together break every loop")
	}
	list := func(kind string, lines []string) {
		for _, l := range lines[:min(len(lines), mostLines)] {
			fmt.Fprintf(w, "%-11s %s\n", kind, l)
		}
		if n := len(lines) - mostLines; n > 0 {
			fmt.Fprintf(w, "%-11s and %d more: --output json has them\n", kind, n)
		}
	}
	list("loop", loops)
	list("way out", out)
	list("missing", lines(r.Missing, func(m graph.Missing) string {
		return fmt.Sprintf("%s needs %s, which nobody provides (%s)", m.Service, m.Need, graph.Edge{Need: m.Need}.Evidence())
	}))
	list("inversion", lines(r.Inversions, func(v graph.Inversion) string { return v.String() + " (" + v.Evidence() + ")" }))
	list("undeclared", lines(r.Undeclared, func(v graph.Undeclared) string {
		return v.String() + " (" + graph.Edge{Need: v.Need}.Evidence() + ")"
	}))
	list("unproven", lines(r.Unproven, func(v graph.Unproven) string { return v.Service + ": " + v.Why }))
	list("single", lines(r.Single, func(v graph.Single) string {
		return fmt.Sprintf("without %s, %d others never come back", v.Service, v.Loses)
	}))
	list("would help", lines(r.Unlock, graph.Unlock.String))
	list("problem", lines(r.Problems, func(p graph.Problem) string { return p.Message + " (" + places(p.At, p.Other) + ")" }))
	_, err := fmt.Fprintf(w, "%d services, %d edges, %d waves; %d stuck\n", r.Services, r.Edges, len(r.Waves), len(r.Stuck))
	return err
}

// lines tells findings, a line to each.
func lines[T any](all []T, tell func(T) string) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i] = printable(tell(v))
	}
	return out
}

// places are those of a problem.
func places(at ...graph.Position) string {
	var all []string
	for _, p := range at {
		if p.File != "" {
			all = append(all, fmt.Sprintf("%s:%d", p.File, p.Line))
		}
	}
	return strings.Join(all, ", ")
}

func writePlan(w io.Writer, p graph.Plan) error {
	rows := [][]string{{"WAVE", "SERVICE", "OWNER", "RUNBOOK", "TAKES", "BACK AFTER"}}
	for _, s := range p.Steps {
		name := printable(s.Service)
		if s.Critical {
			name += " *"
		}
		rows = append(rows, []string{fmt.Sprint(s.Wave), name, printable(s.Owner), printable(s.Runbook), about(s.Takes.Likely) + " " + string(s.Takes.Source), about(s.Finish)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, l := range p.Loops {
		fmt.Fprintf(w, "loop: %s\n", printable(l.Sentence()))
	}
	_, err := fmt.Fprintf(w, "likely back after %s (%s to %s); %d times are guessed; * is what the end waits for\n", about(p.Time.Likely), about(p.Time.Low), about(p.Time.High), p.Guessed)
	return err
}

// about drops what nobody needs to know of a time.
func about(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
