package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
)

func cmdInspect() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "say all that is known of a container, or of one that was handed over", ArgsUsage: "NAME",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			name, err := one(c, "container")
			if err != nil {
				return err
			}
			ct, err := s.Host.Load(name)
			if errors.Is(err, container.ErrNotFound) {
				if old := s.Host.Tombstones(name); len(old) > 0 {
					return result(c, old, func(w io.Writer) error {
						for _, t := range old {
							fmt.Fprintf(w, "%s is gone: %s, %s ago\n", t.Name, t.Why, ago(t.Buried))
						}
						return nil
					})
				}
			}
			if err != nil {
				return err
			}
			v := inspection{Status: ct.Status(), Spec: ct.Spec(), Layers: ct.LowerDirs(), Rootfs: ct.Rootfs(), Log: ct.LogPath(), Bundle: ct.StatePath()}
			v.Config, _ = ct.OCI() // not there before the start
			return result(c, v, v.text)
		},
	}
}

type inspection struct {
	Status container.Status `json:"status"`
	Spec   container.Spec   `json:"spec"`
	Layers []string         `json:"layers"`
	Rootfs string           `json:"rootfs"`
	Log    string           `json:"log"`
	Bundle string           `json:"bundle"` // runc --root with its parent finds the container here
	Config *specs.Spec      `json:"config"`
}

func (v inspection) text(w io.Writer) error {
	st := v.Status
	rows := [][]string{
		{"name", st.Name},
		{"state", describe(st)},
		{"image", st.Image},
		{"command", strings.Join(st.Command, " ")},
		{"rootfs", v.Rootfs},
		{"log", v.Log},
		{"bundle", v.Bundle},
	}
	if st.HealthLast != "" {
		rows = append(rows, []string{"last check", st.HealthLast})
	}
	for _, m := range v.Spec.Mounts {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		rows = append(rows, []string{"mount", m.Source + " on " + m.Target + " " + mode})
	}
	for _, l := range v.Layers {
		rows = append(rows, []string{"layer", l})
	}
	for _, r := range rows {
		r[1] = printable(r[1])
	}
	return table(w, rows)
}
