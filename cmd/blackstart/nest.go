package main

import (
	"context"
	"os"
	"os/signal"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
)

// nested does what makes containers in a user namespace of its own, where this is
// root that may not mount, as in a vacuum.
func nested(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if container.Nested() {
			if err := container.Settle(); err != nil {
				return err
			}
		}
		if !container.Confined() {
			return action(c)
		}
		code, err := container.Nest(c.Context)
		if err != nil {
			logger(c).Warn(err.Error())
			return action(c) // says what it lacks
		}
		return ended(code)
	}
}

// elsewhere has a command done in the vacuum that --net names, by this program in
// there.
func elsewhere(action cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		target, ok := strings.CutPrefix(c.String("net"), "vacuum:")
		if !ok {
			return action(c)
		}
		if c.Bool("t") {
			return usage("-t does not go with --net vacuum: sandbox shell gives a terminal inside")
		}
		s, err := bareSite(c)
		if err != nil {
			return err
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		args := []string{self}
		for i := 1; i < len(os.Args); i++ {
			switch a := os.Args[i]; {
			case strings.TrimLeft(a, "-") == "net=vacuum:"+target:
			case strings.TrimLeft(a, "-") == "net" && i+1 < len(os.Args) && os.Args[i+1] == "vacuum:"+target:
				i++
			default:
				args = append(args, a)
			}
		}
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
		code, err := s.RunIn(context.WithoutCancel(c.Context), target, args, os.Environ(), [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, signals)
		if err != nil {
			return err
		}
		return ended(code)
	}
}

func ended(code int) error {
	if code != 0 {
		return cli.Exit("", code)
	}
	return nil
}
