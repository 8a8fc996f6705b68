package graph

import (
	"bufio"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"html/template"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var pageTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("page").Parse(pageHTML)
})

// pageService is a service as the page's script knows it.
type pageService struct {
	Name    string      `json:"name"`
	Region  string      `json:"region,omitempty"`
	Owner   string      `json:"owner,omitempty"`
	Runbook string      `json:"runbook,omitempty"`
	Wave    int32       `json:"wave"`
	Takes   float64     `json:"takes"` // seconds
	Source  Source      `json:"source"`
	Proof   string      `json:"proof"` // what vouches for it, or why nothing does
	Proven  bool        `json:"proven"`
	Loop    bool        `json:"loop,omitempty"`
	Groups  []pageGroup `json:"groups"`
}

// pageGroup is a need: by is the numbers of the services that would meet it; given says that none has to.
type pageGroup struct {
	Text     string  `json:"text"`
	By       []int32 `json:"by"`
	Given    bool    `json:"given,omitempty"`
	Managed  bool    `json:"managed,omitempty"`
	Soft     bool    `json:"soft,omitempty"`
	Evidence string  `json:"evidence"`
}

// pageRow is a tier with its services.
type pageRow struct {
	Title    string
	Services []pageChip
}

type pageChip struct {
	Number              int32
	Name, Owner, Status string
}

func (p *picture) html(w *bufio.Writer) error {
	t, err := pageTemplate()
	if err != nil {
		return err
	}
	css, js := strings.TrimSpace(pageCSS), strings.TrimSpace(pageJS)
	data := struct {
		Policy  string
		CSS     template.CSS
		JS      template.JS
		Report  Report
		Rows    []pageRow
		Loops   []Loop
		More    int
		Unlock  []string
		Data    []pageService
		Missing []string
		Time    pageTime
		Lists   []pageList
	}{
		Policy: "default-src 'none'; style-src " + sourceHash(css) + "; script-src " + sourceHash(js) + "; base-uri 'none'; form-action 'none'",
		CSS:    template.CSS(css), JS: template.JS(js), //nolint:gosec // our own files
		Report: p.report, Data: p.services(), Loops: p.report.Loops[:min(len(p.report.Loops), 20)],
	}
	data.Time, data.Lists = p.time(), p.lists()
	data.More = len(p.report.Loops) - len(data.Loops)
	for _, u := range p.report.Unlock {
		data.Unlock = append(data.Unlock, u.String())
	}
	for _, m := range p.report.Missing {
		data.Missing = append(data.Missing, m.Service+" needs "+m.Need.String()+", which no service provides")
	}
	for _, r := range p.rows {
		row := pageRow{Title: r.title()}
		for _, s := range r.services {
			c := pageChip{Number: s, Name: p.x.name(s), Owner: p.g.Services[s].Owner, Status: "up"}
			switch {
			case p.looped[c.Name]:
				c.Status = "loop"
			case p.t.wave[s] == 0:
				c.Status = "stuck"
			}
			row.Services = append(row.Services, c)
		}
		data.Rows = append(data.Rows, row)
	}
	return t.Execute(w, data)
}

// pageTime is how long it takes to bring back all that comes back; empty where nothing does.
type pageTime struct {
	Likely, Low, High, Critical string
	Guessed                     int
}

func (p *picture) time() pageTime {
	plan, err := Order(p.g, OrderOptions{Observed: p.observed})
	if err != nil || len(plan.Steps) == 0 {
		return pageTime{}
	}
	rough := func(d time.Duration) string {
		if d > 10*time.Minute {
			d = d.Round(time.Minute)
		}
		return round(d)
	}
	t := plan.Time
	return pageTime{rough(t.Likely), rough(t.Low), rough(t.High), shorten(plan.Critical, " → "), plan.Guessed}
}

// pageList is a finding's items, behind its title.
type pageList struct {
	Title string
	Items []string
	More  int // that are left out
}

// lists are the findings that are about single services.
func (p *picture) lists() []pageList {
	problems := pageList{Title: "problems in the files"}
	undeclared := pageList{Title: "undeclared dependencies"}
	unproven := pageList{Title: "services without a proof that holds"}
	for _, u := range p.report.Undeclared {
		undeclared.Items = append(undeclared.Items, u.String())
	}
	for _, u := range p.report.Unproven {
		unproven.Items = append(unproven.Items, u.Service+": "+u.Why)
	}
	for _, v := range p.report.Problems {
		problems.Items = append(problems.Items, v.Message)
	}
	var out []pageList
	for _, l := range []pageList{problems, undeclared, unproven} {
		const most = 40
		if n := len(l.Items); n > 0 {
			l.Title = strconv.Itoa(n) + " " + l.Title
			l.More = max(0, n-most)
			l.Items = l.Items[:n-l.More]
			out = append(out, l)
		}
	}
	return out
}

func (p *picture) services() []pageService {
	sp := newSpans(p.g, 0)
	newest := map[string]*Proof{}
	for i := range p.g.Proofs {
		if v := &p.g.Proofs[i]; newest[v.Service] == nil && v.Rejected == "" {
			newest[v.Service] = v
		}
	}
	out := make([]pageService, 0, p.x.n())
	for i := range p.g.Services {
		s := &p.g.Services[i]
		v := pageService{
			Name: s.Name, Region: s.Region, Owner: s.Owner, Runbook: s.Runbook, Wave: p.t.wave[i], Loop: p.looped[s.Name],
			Takes: sp.estimates[i].Likely.Seconds(), Source: sp.estimates[i].Source, Groups: []pageGroup{},
		}
		v.Proof = p.unproven[s.Name]
		if v.Proven = v.Proof == ""; v.Proven && newest[s.Name] != nil {
			n := newest[s.Name]
			v.Proof = n.Rehearsal + ", " + n.Date.UTC().Format(time.DateOnly) + ", " + n.File
		}
		for j := range s.Needs {
			n := &s.Needs[j]
			by, given := p.x.resolve(nil, n.AnyOf)
			if by == nil || given {
				by = []int32{}
			}
			v.Groups = append(v.Groups, pageGroup{
				Text: n.String(), By: by, Given: given, Managed: n.Managed, Soft: n.Soft, Evidence: Edge{Need: *n}.Evidence(),
			})
		}
		out = append(out, v)
	}
	return out
}

// sourceHash is how a Content-Security-Policy names an inline text (CSP Level 3, 2.3.1).
func sourceHash(s string) string {
	d := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(d[:]) + "'"
}
