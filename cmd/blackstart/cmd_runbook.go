package main

import (
	"errors"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/runbooks"
)

func cmdRunbook() *cli.Command {
	return &cli.Command{
		Name: "runbook", Usage: "runbooks that run: check, do, go on with, print",
		Description: `One YAML file is what the operator follows, what is rehearsed, and what is printed:

   blackstart runbook check etcd.yaml
   blackstart runbook run etcd.yaml --dry-run
   blackstart runbook run etcd.yaml --var data=/srv/etcd
   blackstart runbook resume               after a crash, a dropped session or a mended step
   blackstart runbook undo                 take back what the run did, where steps say how
   blackstart runbook show                 where it stands, also from another terminal
   blackstart runbook render etcd.yaml --format html > etcd.html`,
		Subcommands:     []*cli.Command{runbookCheck(), runbookRun(), runbookResume(), runbookUndo(), runbookShow(), runbookRender(), runbookSchema(), runbookShipped(), runbookStep()},
		HideHelpCommand: true,
	}
}

// readRunbooks reads files of runbooks and rehearsals, all of them before it says
// what is wrong.
func readRunbooks(paths []string) ([]*runbooks.File, error) {
	var files []*runbooks.File
	var errs []error
	for _, p := range paths {
		f, err := runbooks.Read(p)
		if errors.Is(err, fs.ErrNotExist) {
			err = usage("%w", err)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, f)
	}
	return files, errors.Join(errs...)
}

func runbookCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "say what is wrong with runbooks and rehearsals, and where", ArgsUsage: "FILE...",
		Description: `With a kit, what they name is looked for in it as well: artifacts, services, capabilities, contacts.`,
		Flags:       append([]cli.Flag{outputFlag()}, append([]cli.Flag{&cli.StringFlag{Name: "kit", Usage: "`DIR` of the kit"}}, kitFlags()...)...),
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage("%s takes files", c.Command.FullName())
			}
			files, err := readRunbooks(c.Args().Slice())
			if err == nil {
				known := runbooks.Known{}
				if c.IsSet("kit") {
					s, err := bareSite(c)
					if err != nil {
						return err
					}
					s.From.Kit = kitOptions(c, c.String("kit"))
					if known, err = s.Known(); err != nil {
						return err
					}
				}
				err = runbooks.Check(known, files...)
			}
			said, ours := runbooks.AsErrors(err)
			if err != nil && !ours {
				return err
			}
			if c.String("output") == "json" {
				if said == nil {
					said = runbooks.Errors{}
				}
				if werr := result(c, said, nil); werr != nil {
					return werr
				}
			}
			return err
		},
	}
}
