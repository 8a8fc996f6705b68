package main

import (
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdLogs() *cli.Command {
	return &cli.Command{
		Name: "logs", Usage: "print what a detached container wrote", ArgsUsage: "NAME",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the container ends"},
			&cli.StringFlag{Name: "since", Usage: "from `TIME` on, to the second: 10m, or 2006-01-02T15:04:05Z"},
			&cli.IntFlag{Name: "tail", Value: -1, Usage: "the last `N` lines", DefaultText: "all"},
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
			o := container.LogOptions{Follow: c.Bool("follow"), Tail: c.Int("tail")}
			if o.Since, err = moment(c.String("since"), time.Now()); err != nil {
				return err
			}
			ct, err := s.Host.Load(name)
			if err != nil {
				return err
			}
			return ct.Log(c.Context, c.App.Writer, o)
		},
	}
}

// moment reads a duration before now, or a point in time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usage("--since %q is neither a duration such as 10m nor a time such as 2006-01-02T15:04:05Z", text)
	}
	return t, nil
}
