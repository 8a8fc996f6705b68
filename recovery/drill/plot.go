package drill

import (
	"fmt"
	"math"
	"time"
)

// plot is what happened in a drill on a time axis, in the units of an SVG's view box.
type plot struct {
	Width, Height float64
	Left, Right   float64 // of the axis
	Bottom        float64
	Ticks         []tick
	Bands         []band // of the service's health
	Rows          []row
	Target        *line
	Back          *line
	Beyond        string // says where the target is, if it is not on the axis
}

type tick struct {
	X    float64
	Text string
}

type band struct {
	X, Y, W, H float64
	Class, Tip string
}

type line struct {
	X      float64
	Text   string
	Anchor string
}

// row is a line of the plot: a step, or a kind of events.
type row struct {
	Y     float64 // of its middle
	Label string
	Tip   string
	Class string
	Bars  []band
	Dots  []dot
	Note  string // in place of them
}

type dot struct {
	X          float64
	Class, Tip string
}

const (
	plotWidth = 960
	plotLeft  = 230
	plotRight = 930
	rowHeight = 26
	rowsTop   = 74
	maxLabel  = 30 // characters
	maxDots   = 400
)

// newPlot draws a drill and its score.
func newPlot(d Drill, events []Event, p Progress, s Score) plot {
	end := 0.5
	for _, e := range events {
		end = max(end, e.At)
	}
	if d.End != nil {
		end = max(end, min(d.End.At.Sub(d.Began).Seconds(), 1e7))
	}
	within := time.Duration(d.Within).Seconds()
	g := plot{Width: plotWidth, Left: plotLeft, Right: plotRight}
	span := end
	if within <= 2.5*end {
		span = max(end, within*1.04)
	}
	x := func(at float64) float64 {
		return round(plotLeft + (plotRight-plotLeft)*min(max(at, 0), span)/span)
	}
	g.ticks(span, x)
	g.health(events, end, x)
	y := float64(rowsTop)
	add := func(r row) {
		r.Y = y
		if full := r.Label; len([]rune(full)) > maxLabel {
			r.Label, r.Tip = string([]rune(full)[:maxLabel-1])+"…", full
		}
		for i := range r.Bars {
			r.Bars[i].Y, r.Bars[i].H = y-7, 14
		}
		g.Rows = append(g.Rows, r)
		y += rowHeight
	}
	for i, st := range s.Steps {
		add(stepRow(st, p, i, end, x))
	}
	if len(s.Outside)+len(s.Failed) > 0 {
		r := row{Label: "outside the runbook", Class: "extra"}
		for _, c := range s.Outside[:min(len(s.Outside), maxDots)] {
			r.Dots = append(r.Dots, dot{x(c.At), "outside", at(c.At) + " " + c.Text})
		}
		if len(s.Outside) == 0 {
			r.Note = "nothing"
		}
		add(r)
	}
	if len(s.Failed) > 0 {
		r := row{Label: "failed commands", Class: "extra"}
		for _, c := range s.Failed[:min(len(s.Failed), maxDots)] {
			r.Dots = append(r.Dots, dot{x(c.At), "failed", fmt.Sprintf("%s status %d: %s", at(c.At), c.Status, c.Text)})
		}
		add(r)
	}
	if len(s.Hints) > 0 {
		r := row{Label: "hints asked", Class: "extra"}
		for _, h := range s.Hints[:min(len(s.Hints), maxDots)] {
			r.Dots = append(r.Dots, dot{x(h.At), "hint", at(h.At) + " " + h.Step})
		}
		add(r)
	}
	if len(s.Dark) > 0 {
		r := row{Label: "tried what was dark", Class: "extra"}
		for _, t := range s.Dark[:min(len(s.Dark), maxDots)] {
			r.Dots = append(r.Dots, dot{x(t.At), "dark", at(t.At) + " " + t.Program + " tried " + t.Proto + " " + t.To})
		}
		add(r)
	}
	g.Bottom = y - rowHeight/2 + 4
	g.Height = g.Bottom + 30
	if within <= span {
		g.Target = &line{x(within), "target " + d.Within.String(), anchor(x(within))}
	} else {
		g.Beyond = "target " + d.Within.String() + " →"
	}
	if d.End != nil && d.End.Recovered {
		g.Back = &line{x(d.End.Took), "back " + Seconds(d.End.Took).String(), anchor(x(d.End.Took))}
	}
	return g
}

func stepRow(st StepScore, p Progress, i int, end float64, x func(float64) float64) row {
	r := row{Label: fmt.Sprintf("%d. %s", st.Number, st.ID), Class: class(st.State)}
	began := p.Steps[i].Began
	switch {
	case st.By != "":
		from := st.At
		if began >= 0 {
			from = min(began, st.At)
		}
		w := max(x(st.At)-x(from), 6)
		r.Bars = []band{{X: min(x(from), plotRight-w), W: w, Class: r.Class, Tip: fmt.Sprintf("%s %s, seen by its %s", at(st.At), st.State, st.By)}}
	case began >= 0:
		w := max(x(end)-x(began), 6)
		r.Bars = []band{{X: min(x(began), plotRight-w), W: w, Class: "begun", Tip: at(began) + " begun, and not seen done"}}
	case st.State == NotSeen:
		r.Note = "leaves no trace"
	default:
		r.Note = string(st.State)
	}
	return r
}

func class(s StepState) string {
	switch s {
	case InOrder:
		return "good"
	case OutOfOrder:
		return "odd"
	case Skipped:
		return "skipped"
	case NotSeen:
	}
	return "unseen"
}

// health is the band above: when the service was healthy.
func (g *plot) health(events []Event, end float64, x func(float64) float64) {
	from, class, tip := 0.0, "down", ""
	add := func(to float64) {
		if w := x(to) - x(from); w > 0 {
			g.Bands = append(g.Bands, band{x(from), 38, round(w), 16, class, at(from) + " " + class + " " + tip})
		}
	}
	for _, e := range events {
		next := "down"
		if e.Healthy {
			next = "up"
		}
		if e.Kind != Health || next == class {
			continue
		}
		add(e.At)
		from, class, tip = e.At, next, e.Text
	}
	add(end)
}

// ticks puts between five and ten round times on the axis.
func (g *plot) ticks(span float64, x func(float64) float64) {
	step := 3600 * 24.0
	for _, s := range []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200} {
		if span/s <= 10 {
			step = s
			break
		}
	}
	for n := 0; n <= 40 && float64(n)*step <= span; n++ {
		t := float64(n) * step
		g.Ticks = append(g.Ticks, tick{x(t), Seconds(t).String()})
	}
}

func anchor(x float64) string {
	if x > plotRight-70 {
		return "end"
	}
	if x < plotLeft+70 {
		return "start"
	}
	return "middle"
}

func at(s float64) string { return Seconds(s).String() }

func round(f float64) float64 { return math.Round(f*10) / 10 }
