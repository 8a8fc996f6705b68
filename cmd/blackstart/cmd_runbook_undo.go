package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

func runbookUndo() *cli.Command {
	return &cli.Command{
		Name: "undo", Usage: "take back what a run has done", ArgsUsage: "[RUN]",
		Description: `Without RUN, the latest one that has done something with an undo. The last step that was done is taken
back first. It stops where that fails; what was cut off is taken back again by the next undo, so a
step's undo must stand being repeated. What a check found done already is left alone. runbook resume
does the steps again. Secrets have to be given again, with --var or --var-file.`,
		Flags: append([]cli.Flag{&cli.BoolFlag{Name: "dry-run", Usage: "say what would be taken back, and do nothing"}}, inputFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usage("%s takes one run", c.Command.FullName())
			}
			if c.Bool("dry-run") {
				return undoDryRun(c)
			}
			s, err := site(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			in, err := inputs(c)
			if err != nil {
				return err
			}
			return follow(c, s, in, func(in recovery.RunInputs) (recovery.Run, error) {
				if in.Confirm == nil {
					return s.UndoRun(c.Context, c.Args().First(), in, nil)
				}
				return s.UndoRun(c.Context, c.Args().First(), in, func(all []recovery.Undoing) (bool, error) {
					var names []string
					for _, u := range all {
						names = append(names, u.Task)
					}
					return in.Confirm(c.Context, "Take back "+strings.Join(names, ", ")+"?")
				})
			})
		},
	}
}

func undoDryRun(c *cli.Context) error {
	s, err := bareSite(c)
	if err != nil {
		return err
	}
	all, err := s.Undoable(c.Args().First())
	if err != nil {
		return err
	}
	return result(c, all, func(w io.Writer) error {
		for _, u := range all {
			fmt.Fprintf(w, "%s\n", printable(u.Task))
			for l := range strings.Lines(strings.TrimRight(u.Command, "\n")) {
				fmt.Fprintf(w, "    %s\n", printable(strings.TrimRight(l, "\n")))
			}
		}
		return nil
	})
}
