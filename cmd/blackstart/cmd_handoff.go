package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery"
)

func cmdHandoff() *cli.Command {
	return &cli.Command{
		Name: "handoff", Usage: "give the service back to its orchestrator and remove the recovery container", ArgsUsage: "NAME",
		Description: `Waits until the service's own instance is healthy, stops the recovery container, makes
sure that nothing of it is left, and removes it.

Where both cannot be up at once, because they share a data directory or a port, use
--stop-first: the recovery container is stopped before, and started again if the other
instance is not healthy within the timeout.

   blackstart handoff scheduler --until http://10.0.0.7:5050/health
   blackstart handoff etcd --stop-first --until http://127.0.0.1:2379/health --timeout 1m`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "until", Required: true, Usage: "`CHECK` that the service's own instance answers: http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND (on this host)"},
			&cli.DurationFlag{Name: "timeout", Value: 2 * time.Minute, Usage: "`TIME` for it to become healthy"},
			&cli.DurationFlag{Name: "grace", Value: 10 * time.Second, Usage: "`TIME` for the recovery container to stop before SIGKILL"},
			&cli.BoolFlag{Name: "stop-first", Usage: "stop the recovery container before waiting"},
		},
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			name, err := one(c, "container")
			if err != nil {
				return err
			}
			probe, err := container.ParseProbe(c.String("until"))
			if err != nil {
				return err
			}
			return s.Handoff(c.Context, name, recovery.HandoffOptions{
				Until: probe, Timeout: c.Duration("timeout"), Grace: c.Duration("grace"), StopFirst: c.Bool("stop-first"),
			})
		},
	}
}
