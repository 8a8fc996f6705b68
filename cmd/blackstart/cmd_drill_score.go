package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery/drill"
)

func drillSteps() *cli.Command {
	return &cli.Command{
		Name: "steps", Usage: "show the runbook of a drill, and which steps are seen done", ArgsUsage: "[DRILL]",
		Description: `For a second terminal, beside the drill. DRILL is as history lists it, or a service's name; without
it, the one that runs. A step is seen done when commands like its own have succeeded, or when its
check or its probe says so; questions and notes leave no trace.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "watch", Usage: "go on until the drill ends"},
			storeFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			store, id, err := drillArg(c)
			if err != nil {
				return err
			}
			clear := c.Bool("watch") && term.IsTerminal(int(os.Stdout.Fd()))
			shown := ""
			for {
				d, events, err := store.Read(id)
				if err != nil {
					return err
				}
				if c.String("output") == "json" {
					return result(c, drill.NewStanding(d, events, time.Now()), nil)
				}
				var page strings.Builder
				writeStanding(&page, drill.NewStanding(d, events, time.Now()))
				switch text := page.String(); {
				case clear:
					// Home, each line to its end, and what is left below.
					text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[J"
					if shown == "" {
						text = "\x1b[2J" + text
					}
					_, err = io.WriteString(c.App.Writer, text)
					shown = text
				case withoutHead(text) != shown:
					_, err = io.WriteString(c.App.Writer, text)
					shown = withoutHead(text)
				}
				if err != nil || !c.Bool("watch") || !d.Running {
					return err
				}
				select {
				case <-c.Context.Done():
					return nil // it was looked at for long enough
				case <-time.After(500 * time.Millisecond):
				}
			}
		},
	}
}

// withoutHead is a page without the line that changes by itself.
func withoutHead(page string) string {
	_, rest, _ := strings.Cut(page, "\n")
	return rest
}

func writeStanding(w io.Writer, s drill.Standing) {
	fmt.Fprintf(w, "%s  %s of %s  %s\n", printable(s.Runbook), drill.Seconds(s.Elapsed), s.Within, s.Outcome)
	health := "HEALTHY"
	if !s.Healthy {
		health = "DOWN " + printable(s.Why)
	}
	fmt.Fprintln(w, health)
	for _, st := range s.Steps {
		box := "[ ]"
		switch {
		case st.Done:
			box = "[x]"
		case st.Next:
			box = "[>]"
		}
		lines := strings.Split(st.Print(), "\n")
		fmt.Fprintf(w, "\n%s %s\n", box, printable(lines[0]))
		for _, l := range lines[1:] {
			fmt.Fprintln(w, printable(l))
		}
	}
}

func drillScore() *cli.Command {
	return &cli.Command{
		Name: "score", Usage: "say how a drill went", ArgsUsage: "[DRILL]",
		Description: `DRILL is as history lists it, or a service's name for its latest; without it, the latest of all.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "html", Usage: "write a report to `FILE`, with a plot of what happened when, and the recording"},
			storeFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			store, id, err := drillArg(c)
			if err != nil {
				return err
			}
			d, events, err := store.Read(id)
			if err != nil {
				return err
			}
			all, err := listDrills(c)
			if err != nil {
				return err
			}
			if file := c.String("html"); file != "" {
				var page strings.Builder
				if err := store.Report(&page, id, all); err != nil {
					return err
				}
				if err := os.WriteFile(file, []byte(page.String()), 0o644); err != nil {
					return usage("writing --html: %w", err)
				}
			}
			s := drill.NewScore(d, events, all)
			return result(c, s, func(w io.Writer) error { return writeScore(w, s) })
		},
	}
}

// keepReport writes a drill's report beside it.
func keepReport(store drill.Store, id string) error {
	all, _, err := store.List()
	if err != nil {
		return err
	}
	var page strings.Builder
	if err := store.Report(&page, id, all); err != nil {
		return err
	}
	return os.WriteFile(store.Path(id, "report.html"), []byte(page.String()), 0o644)
}

func writeScore(w io.Writer, s drill.Score) error {
	who := printable(s.As)
	if s.Team != "" {
		who += ", " + printable(s.Team)
	}
	fmt.Fprintf(w, "%s: %s\n%s, by %s, %s\n\n", s.Drill, s.Outcome, printable(s.Runbook), who, s.Began.Format("2006-01-02 15:04 UTC"))
	rows := [][]string{{"took", drill.Seconds(s.Took).String() + " of " + drill.Seconds(s.Within).String() + map[bool]string{true: ", late"}[s.Late]}}
	if s.Earlier > 0 {
		rows = append(rows, []string{"earlier", fmt.Sprintf("%d: best %s, median %s", s.Earlier, drill.Seconds(s.Best), drill.Seconds(s.Median))})
	}
	rows = append(rows,
		[]string{"steps", fmt.Sprintf("%d done in order, %d out of order, %d skipped, %d not seen", s.Count(drill.InOrder), s.Count(drill.OutOfOrder), s.Count(drill.Skipped), s.Count(drill.NotSeen))},
		[]string{"commands", fmt.Sprintf("%d, of which %d failed and %d are outside the runbook", s.Commands, len(s.Failed), len(s.Outside))},
		[]string{"hints", fmt.Sprint(len(s.Hints))},
		[]string{"dark", fmt.Sprintf("%d things tried that are not there", len(s.Dark))})
	if err := table(w, rows); err != nil {
		return err
	}
	if s.Blind {
		fmt.Fprintln(w, "There was no bash: what was typed is only in the recording.")
	}
	if s.Why != "" {
		fmt.Fprintf(w, "\n%s\n", printable(s.Why))
	}
	if s.Lost {
		fmt.Fprintln(w, "\nIt was back, and at the end it was not healthy any more.")
	}
	if s.Unproven != "" {
		fmt.Fprintf(w, "\nNot all that was tried was seen: %s\n", printable(s.Unproven))
	}
	fmt.Fprintln(w)
	rows = nil
	for _, st := range s.Steps {
		at := "-"
		if st.By != "" {
			at = drill.Seconds(st.At).String()
		}
		rows = append(rows, []string{"  " + at, string(st.State), fmt.Sprintf("%d. %s", st.Number, printable(st.ID))})
	}
	for _, c := range s.Outside {
		rows = append(rows, []string{"  " + drill.Seconds(c.At).String(), "outside", shortLine(c.Text)})
	}
	for _, c := range s.Failed {
		rows = append(rows, []string{"  " + drill.Seconds(c.At).String(), fmt.Sprintf("status %d", c.Status), shortLine(c.Text)})
	}
	for _, h := range s.Hints {
		rows = append(rows, []string{"  " + drill.Seconds(h.At).String(), "hint", printable(h.Step)})
	}
	for _, d := range s.Dark {
		rows = append(rows, []string{"  " + drill.Seconds(d.At).String(), "dark", printable(d.Program + " tried " + d.Proto + " " + d.To)})
	}
	return table(w, rows)
}

// shortLine is a command in one line of a table.
func shortLine(s string) string {
	first, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if r := []rune(first); len(r) > 100 {
		first, more = string(r[:100]), true
	}
	if more {
		first += " …"
	}
	return printable(first)
}
