package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdPs() *cli.Command {
	return &cli.Command{
		Name: "ps", Usage: "list the containers of this host, ended ones too",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			all, bad := s.Host.List()
			if len(all) == 0 && len(bad) > 0 {
				return errors.Join(bad...)
			}
			for _, err := range bad {
				s.Log.Warn("cannot be read", "error", err)
			}
			out := []container.Status{}
			for _, one := range all {
				out = append(out, one.Status())
			}
			return result(c, out, func(w io.Writer) error {
				rows := [][]string{{"NAME", "STATE", "PID", "SINCE", "RESTARTS", "IMAGE", "COMMAND"}}
				for _, st := range out {
					rows = append(rows, statusRow(st))
				}
				return table(w, rows)
			})
		},
	}
}

func statusRow(st container.Status) []string {
	pid, since := "-", st.Created
	if st.PID > 0 {
		pid, since = strconv.Itoa(st.PID), st.Started
	}
	if st.Exit != nil && st.State == container.StateExited {
		since = st.Exit.Finished
	}
	command := strings.Join(st.Command, " ")
	if len(command) > 60 {
		command = command[:57] + "..."
	}
	return []string{st.Name, describe(st), pid, ago(since), strconv.Itoa(st.Restarts), printable(st.Image), printable(command)}
}

// describe is the state in words.
func describe(st container.Status) string {
	var extra []string
	switch st.State {
	case container.StateExited:
		if st.Exit != nil {
			extra = append(extra, st.Exit.String())
		}
	case container.StateRestarting:
		extra = append(extra, "next start in "+max(0, time.Until(st.NextTry)).Round(time.Second).String())
	case container.StateRunning, container.StatePaused:
		if st.Health != "" {
			extra = append(extra, st.Health)
		}
		if !st.Supervised {
			extra = append(extra, "unsupervised")
		}
	case container.StateCreating:
	}
	if len(extra) == 0 {
		return string(st.State)
	}
	return fmt.Sprintf("%s (%s)", st.State, strings.Join(extra, ", "))
}
