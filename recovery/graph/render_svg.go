package graph

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Sizes of the drawing, in pixels.
const (
	boxWidth, boxHeight = 150, 30
	gapX, gapY          = 18, 46
	perLine             = 10
	margin              = 20
	titleWidth          = 70
)

// svg draws the tiers as rows, the nearest to the hardware at the bottom.
func (p *picture) svg(w *bufio.Writer) {
	at := make([][2]int, p.x.n())
	y, widest := margin, 0
	type band struct{ top, height int }
	bands := make([]band, len(p.rows))
	for i, r := range p.rows {
		top := y
		widest = max(widest, min(len(r.services), perLine))
		for j, s := range r.services {
			at[s] = [2]int{margin + titleWidth + j%perLine*(boxWidth+gapX), y + gapY/2 + j/perLine*(boxHeight+gapY)}
		}
		y += ((len(r.services)+perLine-1)/perLine)*(boxHeight+gapY) + 8
		bands[i] = band{top, y - top - 8}
	}
	width := 2*margin + titleWidth + max(widest, 2)*(boxWidth+gapX)
	_, _ = fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, DejaVu Sans, sans-serif" font-size="12">`+"\n", width, y+margin, width, y+margin)
	_, _ = w.WriteString(`<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#8a93a0"/></marker>` +
		`<marker id="r" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" fill="#a4161a"/></marker></defs>` + "\n")
	_, _ = w.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i, r := range p.rows {
		_, _ = fmt.Fprintf(w, `<rect x="6" y="%d" width="%d" height="%d" rx="6" fill="#f3f5f8"/><text x="14" y="%d" fill="#5b6470">%s</text>`+"\n", bands[i].top, width-12, bands[i].height, bands[i].top+18, r.title())
	}
	lines := p.lines()
	for _, red := range []bool{false, true} { // loops on top
		for _, l := range lines {
			if l.red == red {
				drawLine(w, l, at)
			}
		}
	}
	for i := range p.g.Services {
		s := &p.g.Services[i]
		stroke, fill := "#5b6470", "#fff"
		switch {
		case p.looped[s.Name]:
			stroke, fill = "#a4161a", "#fbe3e4"
		case p.t.wave[i] == 0:
			stroke = "#a4161a"
		}
		title := s.Name
		if s.Owner != "" {
			title += ", owner " + s.Owner
		}
		if why := p.unproven[s.Name]; why != "" {
			title += ": " + why
		}
		_, _ = fmt.Fprintf(w, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="%s" stroke="%s" stroke-width="1.5"/><text x="%d" y="%d" text-anchor="middle" fill="#16191d">%s</text></g>`+"\n",
			escape(title), at[i][0], at[i][1], boxWidth, boxHeight, fill, stroke, at[i][0]+boxWidth/2, at[i][1]+boxHeight/2+4, escape(cut(s.Name, 20)))
	}
	_, _ = w.WriteString("</svg>\n")
}

// drawLine curves from a box to the one it waits for.
func drawLine(w *bufio.Writer, l line, at [][2]int) {
	color, mark, width, dash := "#c3cad3", "a", 1.0, ""
	if l.red {
		color, mark, width = "#a4161a", "r", 2.5
	}
	if len(l.need.AnyOf) > 1 || l.need.Soft {
		dash = ` stroke-dasharray="4 3"`
	}
	a, b := at[l.from], at[l.to]
	x1, y1, x2, y2 := a[0]+boxWidth/2, a[1]+boxHeight, b[0]+boxWidth/2, b[1]
	bend := 28
	switch {
	case l.from == l.to:
		_, _ = fmt.Fprintf(w, `<path d="M%d %dc22 -6 22 20 0 %d" fill="none" stroke="%s" stroke-width="%g" marker-end="url(#%s)"/>`+"\n", a[0]+boxWidth, a[1]+8, boxHeight-16, color, width, mark)
		return
	case b[1] == a[1]: // in one line: above it
		y1, y2, bend = a[1], b[1], -24
		_, _ = fmt.Fprintf(w, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="%s" stroke-width="%g"%s marker-end="url(#%s)"/>`+"\n", x1, y1, x1, y1+bend, x2, y2+bend, x2, y2, color, width, dash, mark)
		return
	case b[1] < a[1]: // upwards
		y1, y2, bend = a[1], b[1]+boxHeight, -28
		x1, x2 = x1+12, x2+12
	}
	_, _ = fmt.Fprintf(w, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="%s" stroke-width="%g"%s marker-end="url(#%s)"/>`+"\n", x1, y1, x1, y1+bend, x2, y2-bend, x2, y2, color, width, dash, mark)
}

// escape makes a text fit for XML.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(printable(s))) // a Builder takes everything
	return b.String()
}

// cut shortens a text in the middle, to at most n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	return string(r[:n/2]) + "…" + string(r[len(r)-n/2+1:])
}
