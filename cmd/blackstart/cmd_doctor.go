package main

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdDoctor() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "say what this host can and cannot do for a recovery",
		Description: `Exit status 0 only if blackstart run would work here. Nothing is changed.`,
		Flags:       []cli.Flag{rootFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			s.Root = c.String("root")
			d, err := s.Doctor(c.Context, time.Now())
			if err != nil {
				return err
			}
			err = result(c, d, func(w io.Writer) error {
				for _, f := range d.Features {
					fmt.Fprintf(w, "%-4s %-24s %s\n", sign(f), f.Name, printable(f.Detail))
					if f.Means != "" {
						fmt.Fprintf(w, "     %-24s -> %s\n", "", printable(f.Means))
					}
				}
				for _, st := range d.Stores {
					fmt.Fprintf(w, "ok   %-24s %s: %d containers, %d images to salvage\n", "store "+string(st.Kind), printable(st.Path), st.Containers, st.Images)
				}
				if len(d.Stores) == 0 {
					fmt.Fprintf(w, "     %-24s no dead orchestrator's store found below %s\n", "stores", s.Root)
				}
				for _, p := range d.Problems {
					fmt.Fprintf(w, "warn %-24s %s\n", "store", printable(p))
				}
				if d.Ready {
					fmt.Fprintln(w, "\nready: blackstart run works on this host")
				} else {
					fmt.Fprintln(w, "\nNOT ready: what is marked FAIL must be mended first")
				}
				return nil
			})
			if err == nil && !d.Ready {
				return cli.Exit("", exitFailed)
			}
			return err
		},
	}
}

func sign(f container.Feature) string {
	switch {
	case f.Have == container.Yes && f.Means == "":
		return "ok"
	case f.Have != container.Yes && f.Need == container.Required:
		return "FAIL"
	case f.Need == container.Optional:
		return "-"
	}
	return "warn"
}

// builtAt is the time of the commit this program was built from; zero if the
// build did not stamp it.
func builtAt() time.Time {
	if t, err := time.Parse(time.RFC3339, built); err == nil {
		return t
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value)
			return t
		}
	}
	return time.Time{}
}
