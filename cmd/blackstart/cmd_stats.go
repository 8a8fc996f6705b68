package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdStats() *cli.Command {
	return &cli.Command{
		Name: "stats", Usage: "say what running containers use", ArgsUsage: "[NAME...]",
		Flags: []cli.Flag{outputFlag(), &cli.DurationFlag{Name: "sample", Value: 500 * time.Millisecond, Usage: "`TIME` over which processor use is measured"}},
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			which, errs := s.Host.List()
			if c.Args().Present() {
				which, errs = nil, nil
				for _, name := range c.Args().Slice() {
					ct, err := s.Host.Load(name)
					if err != nil {
						errs = append(errs, err)
						continue
					}
					which = append(which, ct)
				}
			}
			out := []container.Stats{}
			for _, ct := range which {
				st, err := ct.Stats(c.Context, c.Duration("sample"))
				if errors.Is(err, container.ErrNotRunning) && !c.Args().Present() {
					continue
				}
				if err != nil {
					errs = append(errs, err)
					continue
				}
				out = append(out, st)
			}
			err = result(c, out, func(w io.Writer) error {
				rows := [][]string{{"NAME", "CPUS", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "READ", "WRITTEN"}}
				for _, st := range out {
					limit := "-"
					if st.MemoryLimit > 0 {
						limit = size(st.MemoryLimit)
					}
					rows = append(rows, []string{
						st.Name, fmt.Sprintf("%.2f", st.CPU), st.CPUTotal.Round(time.Millisecond).String(), size(st.Memory), limit,
						fmt.Sprint(st.PIDs), size(st.ReadBytes), size(st.WriteBytes),
					})
				}
				return table(w, rows)
			})
			return errors.Join(append(errs, err)...)
		},
	}
}
