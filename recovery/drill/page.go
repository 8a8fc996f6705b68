package drill

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"sync"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("drill").Funcs(template.FuncMap{"at": at, "class": class}).Parse(pageHTML)
})

const (
	maxTranscript  = 256 << 10 // bytes of the page
	maxPageCast    = 4 << 20
	maxPageEntries = 500
)

// Report writes a drill's report: one HTML file with all that it shows, the
// recording included. all are the drills that it is compared with.
func (s Store) Report(w io.Writer, id string, all []Drill) error {
	d, events, err := s.Read(id)
	if err != nil {
		return err
	}
	t, err := pageTemplate()
	if err != nil {
		return err
	}
	p, score := d.Progress(events), NewScore(d, events, all)
	v := struct {
		Score
		Policy            string
		CSS               template.CSS
		Plot              plot
		Target            string
		Typed             []Command
		TypedMore         int
		Transcript        string
		Cast              template.URL
		CastSize          int
		Team              string
		Done, Odd, Missed int
		Digest, File      string
	}{
		Score: score, CSS: template.CSS(pageCSS), Plot: newPlot(d, events, p, score), Target: d.Within.String(), //nolint:gosec // our own file
		Policy: fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'", sum(pageCSS)),
		Team:   d.Team, Done: score.Count(InOrder), Odd: score.Count(OutOfOrder), Missed: score.Count(Skipped), Digest: d.Digest, File: d.File,
	}
	v.Typed = p.Commands[:min(len(p.Commands), maxPageEntries)]
	v.TypedMore = len(p.Commands) - len(v.Typed)
	if len(v.Dark) > maxPageEntries {
		v.Dark = v.Dark[:maxPageEntries]
	}
	raw, err := s.recording(id)
	if err != nil {
		return err
	}
	if v.CastSize = len(raw); v.CastSize > 0 {
		v.Transcript, err = transcript(bytes.NewReader(raw), maxTranscript)
		if err != nil {
			v.Transcript = "The recording cannot be read: " + err.Error()
		}
		if v.CastSize <= maxPageCast {
			v.Cast = template.URL("data:application/x-asciicast;base64," + base64.StdEncoding.EncodeToString(raw)) //nolint:gosec // nothing runs it
		}
	}
	var out bytes.Buffer
	if err := t.Execute(&out, v); err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// recording is a drill's, nothing where there is none.
func (s Store) recording(id string) ([]byte, error) {
	f, err := s.Open(id, "drill.cast")
	if errors.Is(err, ErrNoDrill) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 2*maxCast))
}

// sum is how a Content-Security-Policy names an inline text (CSP Level 3, 2.3.1).
func sum(s string) string {
	d := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(d[:])
}
