package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/certs"
)

func certsTrust() *cli.Command {
	return &cli.Command{
		Name: "trust", Usage: "put the emergency root where this host's programs look, and take it back",
		Description: `The bundles of Debian, Red Hat and Java are found below the root directory. What was there is kept,
and comes back byte for byte:

   blackstart certs trust add ceremony
   blackstart certs trust add ceremony --root /mnt/rootfs
   blackstart certs trust list
   blackstart certs trust remove ID`,
		Subcommands:     []*cli.Command{trustAdd(), trustRemove(), trustList(), trustCheck()},
		HideHelpCommand: true,
	}
}

func belowFlag() cli.Flag {
	return &cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` of a root filesystem"}
}

func writePlanted(w io.Writer, p certs.Planted) error {
	fmt.Fprintln(w, p.ID)
	for _, f := range p.Files {
		switch {
		case f.Problem != "":
			fmt.Fprintf(w, "%s: left alone: %s\n", printable(f.Path), printable(f.Problem))
		case f.Was != "":
			fmt.Fprintf(w, "%s: %s\n", printable(f.Path), f.Was)
		default:
			fmt.Fprintf(w, "%s: added\n", printable(f.Path))
		}
	}
	return nil
}

// problems makes a bundle that was left alone the command's failure.
func problems(p certs.Planted) error {
	for _, f := range p.Files {
		if f.Problem != "" {
			return cli.Exit("", exitFailed)
		}
	}
	return nil
}

func trustAdd() *cli.Command {
	return &cli.Command{
		Name: "add", Usage: "add the root to every bundle", ArgsUsage: "CEREMONY|FILE",
		Description: `Bundles are replaced whole, never half written. Adding again finishes what was interrupted. Programs
that run already have read their bundle: start them again. Exit status 1: a bundle was left alone.`,
		Flags: []cli.Flag{belowFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			s, ca, err := authority(c)
			if err != nil {
				return err
			}
			p, err := s.PlantTrust(c.String("root"), ca)
			if err != nil {
				return err
			}
			if err := result(c, p, func(w io.Writer) error { return writePlanted(w, p) }); err != nil {
				return err
			}
			s.Log.Info("to take it back: blackstart certs trust remove " + p.ID)
			return problems(p)
		},
	}
}

func trustRemove() *cli.Command {
	return &cli.Command{
		Name: "remove", Usage: "take back what certs trust add did", ArgsUsage: "ID",
		Description: `A bundle that nobody has changed since is what it was, with its mode, owner and time; from one that
somebody has changed only the certificate goes.`,
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			id, err := one(c, "ID: certs trust list prints them")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			p, err := s.RemoveTrust(id)
			if err != nil {
				return err
			}
			return result(c, p, func(w io.Writer) error { return writePlanted(w, p) })
		},
	}
}

func trustList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list what certs trust add did and nobody has taken back",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			all, err := s.ListTrust()
			if err != nil {
				return err
			}
			return result(c, all, func(w io.Writer) error {
				rows := [][]string{{"ID", "ROOT", "FILES", "ADDED"}}
				for _, p := range all {
					rows = append(rows, []string{p.ID, printable(p.Root), fmt.Sprint(len(p.Files)), p.At.Format(time.RFC3339)})
				}
				return table(w, rows)
			})
		},
	}
}

func trustCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "say which bundles hold the root", ArgsUsage: "CEREMONY|FILE",
		Description: `Exit status 1: a bundle does not hold it.`,
		Flags:       []cli.Flag{belowFlag(), outputFlag()},
		Action: func(c *cli.Context) error {
			s, ca, err := authority(c)
			if err != nil {
				return err
			}
			all, err := certs.CheckTrust(c.String("root"), ca)
			if err != nil {
				return err
			}
			missing := false
			err = result(c, all, func(w io.Writer) error {
				rows := [][]string{{"BUNDLE", "KIND", "TRUSTS", "PROBLEM"}}
				for _, b := range all {
					trusts := "no"
					if b.Trusts {
						trusts = "yes"
					}
					rows = append(rows, []string{printable(b.Path), string(b.Kind), trusts, printable(b.Problem)})
				}
				return table(w, rows)
			})
			for _, b := range all {
				missing = missing || !b.Trusts
			}
			if err == nil && missing {
				s.Log.Info("to add it: blackstart certs trust add " + c.Args().First())
				return cli.Exit("", exitFailed)
			}
			return err
		},
	}
}
