package main

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdExec() *cli.Command {
	return &cli.Command{
		Name: "exec", Usage: "run a command inside a running container", ArgsUsage: "NAME CMD [ARG...]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "t", Usage: "give it a terminal"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set the variable `K=V`"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]`, names or numbers"},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "absolute `DIR` to start in"},
		},
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			args := c.Args().Slice()
			if len(args) > 1 && args[1] == "--" {
				args = append(args[:1:1], args[2:]...)
			}
			if len(args) < 2 {
				return usage("exec takes a container and a command")
			}
			ct, err := s.Host.Load(args[0])
			if err != nil {
				return err
			}
			if container.Confined() {
				code, err := ct.Join(c.Context)
				if err != nil {
					return err
				}
				return ended(code)
			}
			// Interrupts are the command's to handle: they are passed on.
			code, err := ct.Exec(context.WithoutCancel(c.Context), container.ExecOptions{
				Args: args[1:], Env: c.StringSlice("env"), User: c.String("user"), Workdir: c.String("workdir"),
				Terminal: c.Bool("t"), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
			})
			if err != nil {
				return err
			}
			return ended(code)
		},
	}
}
