package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery"
)

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Value: "text", Usage: "`FORMAT` of the result: text or json"}
}

// result prints v as JSON if asked for, else as text does.
func result(c *cli.Context, v any, text func(w io.Writer) error) error {
	switch c.String("output") {
	case "json":
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "text":
		return text(c.App.Writer)
	}
	return usage("--output %q is not text or json", c.String("output"))
}

// table prints rows under a heading, in columns.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// printable keeps a name from another tool's database from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}

func size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t).Round(time.Second)
	switch {
	case d < 2*time.Minute:
		return d.String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// handler writes diagnostics the way a person reads them: one line each, with
// nothing in front of a plain remark.
type handler struct {
	w     io.Writer
	mu    *sync.Mutex
	attrs []slog.Attr
}

func newHandler(w io.Writer) *handler { return &handler{w: w, mu: &sync.Mutex{}} }

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("blackstart: ")
	if r.Level >= slog.LevelWarn {
		b.WriteString(map[slog.Level]string{slog.LevelWarn: "warning: "}[r.Level])
	}
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		fmt.Fprintf(&b, ", %s %v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := fmt.Fprintln(h.w, printable(strings.ReplaceAll(b.String(), "\n", "; ")))
	return err
}

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return &handler{w: h.w, mu: h.mu, attrs: append(h.attrs[:len(h.attrs):len(h.attrs)], a...)}
}

func (h *handler) WithGroup(string) slog.Handler { return h }

// quietLibraries makes libcontainer's own warnings look like ours.
func quietLibraries() {
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetFormatter(plain{})
}

type plain struct{}

func (plain) Format(e *logrus.Entry) ([]byte, error) {
	return []byte("blackstart: " + e.Level.String() + ": " + printable(e.Message) + "\n"), nil
}

// progress shows how far long work is: on a terminal one line that is rewritten,
// elsewhere a line every ten seconds.
type progress struct {
	f       *os.File
	tty     bool
	began   time.Time
	last    time.Time
	what    string
	written bool
}

func newProgress(f *os.File) *progress {
	return &progress{f: f, tty: term.IsTerminal(int(f.Fd())), last: time.Now()}
}

func (p *progress) tell(e recovery.Event) {
	now := time.Now()
	if e.What != p.what {
		p.what, p.began = e.What, now
	}
	done := e.Total > 0 && e.Done >= e.Total
	every := 10 * time.Second
	if p.tty {
		every = 200 * time.Millisecond
	}
	if now.Sub(p.last) < every && (!done || !p.written) {
		return
	}
	p.last = now
	line := fmt.Sprintf("%s: %s", printable(e.What), size(uint64(max(e.Done, 0))))
	if e.Total > 0 {
		line += " of " + size(uint64(e.Total))
		if spent := now.Sub(p.began); e.Done > 0 && !done && spent > time.Second {
			rate := float64(e.Done) / spent.Seconds()
			if e.Rate > 0 {
				rate = e.Rate
			}
			line += fmt.Sprintf(", %s/s, %s left", size(uint64(rate)), time.Duration(float64(e.Total-e.Done)/rate*float64(time.Second)).Round(time.Second))
		}
	}
	if e.From != "" {
		line += ", from " + printable(e.From)
	}
	if !p.tty {
		fmt.Fprintf(p.f, "blackstart: %s\n", line)
		p.written = !done
		return
	}
	fmt.Fprintf(p.f, "\r\x1b[K%s", line)
	p.written = !done
	if done {
		fmt.Fprintln(p.f)
	}
}
