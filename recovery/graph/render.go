package graph

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Format is how a graph is written.
type Format string

// JSON is the form that Read reads, a service to a line; HTML is one page that loads nothing.
const (
	JSON    Format = "json"
	DOT     Format = "dot"
	Mermaid Format = "mermaid"
	SVG     Format = "svg"
	HTML    Format = "html"
)

// Formats are all there are.
func Formats() []Format { return []Format{HTML, SVG, DOT, Mermaid, JSON} }

// Render writes a graph and, but for JSON, what a check of it finds. The same graph gives the same bytes.
//
// Errors: ErrInvalid for a format that there is not; those of w.
func Render(w io.Writer, f Format, g *Graph, o CheckOptions) error {
	b := bufio.NewWriter(w)
	var err error
	switch f {
	case JSON:
		err = renderJSON(b, g)
	case DOT:
		newPicture(g, o).dot(b)
	case Mermaid:
		newPicture(g, o).mermaid(b)
	case SVG:
		newPicture(g, o).svg(b)
	case HTML:
		err = newPicture(g, o).html(b)
	default:
		return fmt.Errorf("%w: no format %.40q: want one of %v", ErrInvalid, string(f), Formats())
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", f, err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing %s: %w", f, err)
	}
	return nil
}

// renderJSON writes what Read reads back. What proofs and rehearsals add to the edges is declared in it.
func renderJSON(w *bufio.Writer, g *Graph) error {
	type service struct {
		Name      string   `json:"name"`
		Tier      *int     `json:"tier,omitempty"`
		Region    string   `json:"region,omitempty"`
		Owner     string   `json:"owner,omitempty"`
		ManagedBy string   `json:"managed_by,omitempty"`
		Needs     []any    `json:"needs,omitempty"`
		Observed  []any    `json:"observed,omitempty"`
		Provides  []string `json:"provides,omitempty"`
		Runbook   string   `json:"runbook,omitempty"`
		Takes     string   `json:"takes,omitempty"`
	}
	given, err := json.Marshal(g.Given)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "{\"given\": %s,\n\"services\": [", given) // errors stay with w until Flush
	for i := range g.Services {
		s := &g.Services[i]
		v := service{Name: s.Name, Region: s.Region, Owner: s.Owner, ManagedBy: s.Manager(), Provides: s.Provides, Runbook: s.Runbook}
		if s.Tier != NoTier {
			v.Tier = &s.Tier
		}
		if s.Takes > 0 {
			v.Takes = s.Takes.String()
		}
		for _, n := range s.Needs {
			var item any = n.AnyOf[0]
			if len(n.AnyOf) > 1 {
				item = map[string][]string{"any_of": n.AnyOf}
			}
			switch {
			case n.Soft:
				v.Observed = append(v.Observed, item)
			case !n.Managed || n.AnyOf[0] != v.ManagedBy:
				v.Needs = append(v.Needs, item)
			}
		}
		j, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if i > 0 {
			_ = w.WriteByte(',')
		}
		_ = w.WriteByte('\n')
		_, _ = w.Write(j)
	}
	_, _ = w.WriteString("\n]}\n")
	return nil
}

// picture is a graph, what a check finds, and where each service is drawn.
type picture struct {
	g        *Graph
	x        *index
	t        *tide
	report   Report
	unproven map[string]string
	red      map[[2]string]bool // edges of loops
	looped   map[string]bool
	rows     []row
	observed bool
}

// row is the services of a tier, by name.
type row struct {
	tier     int
	services []int32
}

func (r row) title() string {
	if r.tier == NoTier {
		return "no tier"
	}
	return "tier " + strconv.Itoa(r.tier)
}

func newPicture(g *Graph, o CheckOptions) *picture {
	p := &picture{
		g: g, x: newIndex(g, o.Observed), report: Check(g, o), unproven: map[string]string{},
		red: map[[2]string]bool{}, looped: map[string]bool{}, observed: o.Observed,
	}
	p.t = p.x.rise()
	for _, u := range p.report.Unproven {
		p.unproven[u.Service] = u.Why
	}
	for _, l := range p.report.Loops {
		for _, e := range l.Edges {
			p.red[[2]string{e.From, e.To}] = true
			p.looped[e.From] = true
		}
	}
	tiers := map[int][]int32{}
	for i := range g.Services {
		t := g.Services[i].Tier
		tiers[t] = append(tiers[t], int32(i))
	}
	for t, s := range tiers {
		p.rows = append(p.rows, row{t, s})
	}
	// The highest tier is on top, and those that say none above it: what is below carries what is above.
	slices.SortFunc(p.rows, func(a, b row) int {
		if a.tier == NoTier || b.tier == NoTier {
			return a.tier - b.tier
		}
		return b.tier - a.tier
	})
	return p
}

// line is an edge of a picture. Of several alternatives each has one.
type line struct {
	from, to int32
	need     *Need
	red      bool
}

func (p *picture) lines() []line {
	var out []line
	for g := range int32(len(p.x.of)) {
		for _, to := range p.x.group(g) {
			from := p.x.of[g]
			out = append(out, line{from, to, p.x.needOf(g), p.red[[2]string{p.x.name(from), p.x.name(to)}]})
		}
	}
	return out
}

// dot writes the graph for Graphviz.
func (p *picture) dot(w *bufio.Writer) {
	_, _ = w.WriteString("digraph recovery {\n  rankdir=BT; node [shape=box, style=\"rounded\", fontname=\"sans-serif\"]; edge [color=\"#888888\"];\n")
	for _, r := range p.rows {
		_, _ = fmt.Fprintf(w, "  { rank=same;\n")
		for _, s := range r.services {
			attributes := ""
			if p.t.wave[s] == 0 {
				attributes = ` [color="#a4161a", fontcolor="#a4161a", penwidth=2]`
			}
			_, _ = fmt.Fprintf(w, "    %s%s;\n", dotID(p.x.name(s)), attributes)
		}
		_, _ = w.WriteString("  }\n")
	}
	for _, l := range p.lines() {
		var a []string
		if l.need.Managed {
			a = append(a, `label="managed by"`)
		}
		if len(l.need.AnyOf) > 1 || l.need.Soft {
			a = append(a, "style=dashed")
		}
		if l.red {
			a = append(a, `color="#a4161a"`, "penwidth=2")
		}
		_, _ = fmt.Fprintf(w, "  %s -> %s", dotID(p.x.name(l.from)), dotID(p.x.name(l.to)))
		if len(a) > 0 {
			_, _ = fmt.Fprintf(w, " [%s]", strings.Join(a, ", "))
		}
		_, _ = w.WriteString(";\n")
	}
	_, _ = w.WriteString("}\n")
}

// dotID is a quoted ID of the DOT language. A backslash at the end of a text would take its quote away.
func dotID(s string) string {
	return `"` + strings.ReplaceAll(strings.ReplaceAll(printable(s), `\`, `\\`), `"`, `\"`) + `"`
}

// mermaid writes a flowchart.
func (p *picture) mermaid(w *bufio.Writer) {
	_, _ = w.WriteString("flowchart BT\n")
	for i, r := range p.rows {
		_, _ = fmt.Fprintf(w, "  subgraph t%d[\"%s\"]\n", i, r.title())
		for _, s := range r.services {
			_, _ = fmt.Fprintf(w, "    s%d[\"%s\"]\n", s, mermaidText(p.x.name(s)))
		}
		_, _ = w.WriteString("  end\n")
	}
	var red []string
	for i, l := range p.lines() {
		arrow := "-->"
		if len(l.need.AnyOf) > 1 || l.need.Soft {
			arrow = "-.->"
		}
		if l.need.Managed {
			arrow += "|managed by|"
		}
		_, _ = fmt.Fprintf(w, "  s%d %s s%d\n", l.from, arrow, l.to)
		if l.red {
			red = append(red, strconv.Itoa(i))
		}
	}
	if len(red) > 0 {
		_, _ = fmt.Fprintf(w, "  linkStyle %s stroke:#a4161a,stroke-width:3px\n", strings.Join(red, ","))
	}
	var stuck []string
	for _, s := range p.t.stuck() {
		stuck = append(stuck, fmt.Sprintf("s%d", s))
	}
	if len(stuck) > 0 {
		_, _ = fmt.Fprintf(w, "  classDef stuck stroke:#a4161a,color:#a4161a,stroke-width:2px\n  class %s stuck\n", strings.Join(stuck, ","))
	}
}

// mermaidText writes all that is not a letter, digit or plain sign as a character entity.
func mermaidText(s string) string {
	var b strings.Builder
	for _, c := range printable(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./:@ ", c) {
			b.WriteRune(c)
		} else {
			fmt.Fprintf(&b, "#%d;", c)
		}
	}
	return b.String()
}
