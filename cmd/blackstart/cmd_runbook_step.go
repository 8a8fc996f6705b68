package main

import (
	"log/slog"
	"os"
	"os/signal"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// runbookStep is the other half of a step that is done in another place: a vacuum, or
// another host.
func runbookStep() *cli.Command {
	return &cli.Command{Name: "step", Hidden: true, Usage: "do the one step that standard input describes, on this host", Action: errand}
}

func errand(c *cli.Context) error {
	if c.NArg() > 0 {
		return usage("%s takes no arguments: the step comes from standard input", c.Command.FullName())
	}
	s, err := bareSite(c)
	if err != nil {
		return err
	}
	// Standard error is for the one error alone.
	s.Log, s.Tell = slog.New(newHandler(os.Stdout)), nil
	ctx, stop := signal.NotifyContext(c.Context, unix.SIGHUP)
	defer stop()
	// Whoever reads the output may be gone. What was begun is to be ended then, rather
	// than this program alone.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	code, err := s.RunErrand(ctx, os.Stdin, os.Stdout)
	if err != nil {
		return err
	}
	return ended(code)
}
