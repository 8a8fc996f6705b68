package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdStop() *cli.Command {
	return &cli.Command{
		Name: "stop", Usage: "end containers: their stop signal, then SIGKILL", ArgsUsage: "NAME...",
		Flags: []cli.Flag{&cli.DurationFlag{Name: "timeout", Value: 10 * time.Second, Usage: "`TIME` before SIGKILL"}},
		Action: func(c *cli.Context) error {
			return each(c, func(ct *container.Container) error { return ct.Stop(c.Context, c.Duration("timeout")) })
		},
	}
}

func cmdRm() *cli.Command {
	return &cli.Command{
		Name: "rm", Usage: "remove ended containers with their logs and writable layers", ArgsUsage: "[NAME...]",
		Description: `The unpacked layers of an image stay, so that the next start is quick. To give the
space back:

   blackstart rm --layers`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill what still runs"},
			&cli.BoolFlag{Name: "layers", Usage: "remove the unpacked layers that no container uses, too"},
		},
		Action: func(c *cli.Context) error {
			layers := c.Bool("layers")
			if c.Args().Present() || !layers {
				err := each(c, func(ct *container.Container) error { return ct.Remove(c.Context, c.Bool("force")) })
				if err != nil || !layers {
					return err
				}
			}
			s, err := site(c)
			if err != nil {
				return err
			}
			removed, err := s.PruneLayers()
			for _, dir := range removed {
				fmt.Fprintln(c.App.Writer, dir)
			}
			return err
		},
	}
}

// each does one thing to every container named, and goes on after a failure.
func each(c *cli.Context, do func(*container.Container) error) error {
	s, err := site(c)
	if err != nil {
		return err
	}
	if !c.Args().Present() {
		return usage("%s takes at least one container", c.Command.FullName())
	}
	var errs []error
	for _, name := range c.Args().Slice() {
		ct, err := s.Host.Load(name)
		if err == nil {
			err = do(ct)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(c.App.Writer, name)
	}
	return errors.Join(errs...)
}
