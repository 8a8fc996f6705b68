package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

func runbookShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "say where a run stands, or list the runs", ArgsUsage: "[RUN]",
		Flags: []cli.Flag{outputFlag(), &cli.BoolFlag{Name: "all", Usage: "list all runs"}},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if c.NArg() == 0 {
				all, err := s.Runs()
				if err != nil {
					return err
				}
				if c.Bool("all") || len(all) == 0 {
					return result(c, all, func(w io.Writer) error {
						rows := [][]string{{"RUN", "RUNBOOK", "BEGAN", "STATE"}}
						for _, r := range all {
							rows = append(rows, []string{r.ID, printable(r.Title), ago(r.Began), stateOf(r)})
						}
						return table(w, rows)
					})
				}
				return showRun(c, all[0])
			}
			r, err := s.ShowRun(c.Args().First())
			if err != nil {
				return err
			}
			return showRun(c, r)
		},
	}
}

func stateOf(r recovery.Run) string {
	switch {
	case r.Process > 0:
		return fmt.Sprintf("running, process %d", r.Process)
	case r.Done():
		return "done"
	}
	return "stopped"
}

func showRun(c *cli.Context, r recovery.Run) error {
	return result(c, r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: %s, %s\n", r.ID, printable(r.Title), stateOf(r))
		rows := [][]string{}
		for _, t := range r.Tasks {
			detail := t.Error
			if detail == "" {
				detail = t.Last
			}
			detail, _, _ = strings.Cut(detail, "\n")
			took := "-"
			if t.Took > 0 {
				took = t.Took.Round(100 * time.Millisecond).String()
			}
			rows = append(rows, []string{"  " + printable(t.ID), string(t.State), took, printable(detail)})
		}
		return table(w, rows)
	})
}
