package main

import (
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
)

func runbookRender() *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "write a runbook as a document", ArgsUsage: "FILE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT`: text, markdown or html (one file that needs nothing else)"},
			&cli.StringFlag{Name: "runbook", Usage: "`TITLE`, where the file has several"},
			&cli.StringSliceFlag{Name: "proof", Usage: "`FILE` that rehearse wrote"},
			&cli.StringFlag{Name: "proof-signers", Usage: "`FILE` of ssh-keygen's allowed_signers: proofs that none of them signed are marked"},
			&cli.IntFlag{Name: "proof-days", Value: 90, Usage: "`N` days after which a proof is stale"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usage("%s takes one file", c.Command.FullName())
			}
			files, err := readRunbooks(c.Args().Slice())
			if err != nil {
				return err
			}
			rb, err := oneRunbook(files[0], c.String("runbook"))
			if err != nil {
				return err
			}
			format := runbooks.Format(c.String("format"))
			if !slices.Contains(runbooks.Formats(), format) {
				return usage("--format %q is none of %v", c.String("format"), runbooks.Formats())
			}
			page := runbooks.Page{Runbook: rb, File: files[0].Name, Digest: files[0].Digest}
			for _, h := range files[0].Rehearsals {
				if of, err := files[0].Runbook(h); err == nil && of == rb {
					page.Rehearsals = append(page.Rehearsals, h)
				}
			}
			for _, p := range c.StringSlice("proof") {
				proof, err := recovery.ReadProof(p, recovery.ProofOptions{
					Runbook: page.Digest, MaxAge: time.Duration(c.Int("proof-days")) * 24 * time.Hour, Now: time.Now(), Signers: c.String("proof-signers"),
				})
				if err != nil {
					return err
				}
				page.Proofs = append(page.Proofs, proof)
			}
			return runbooks.Render(c.App.Writer, format, page)
		},
	}
}

func runbookSchema() *cli.Command {
	return &cli.Command{
		Name: "schema", Usage: "print the JSON Schema of runbooks and rehearsals, for editors",
		Action: func(c *cli.Context) error {
			_, err := c.App.Writer.Write(runbooks.Schema())
			return err
		},
	}
}

func runbookShipped() *cli.Command {
	return &cli.Command{
		Name: "shipped", Usage: "list the runbooks that come with this program, or print one to begin with", ArgsUsage: "[NAME]",
		Action: func(c *cli.Context) error {
			all := runbooks.Shipped()
			if name := c.Args().First(); name != "" {
				b, err := fs.ReadFile(all, strings.TrimSuffix(name, ".yaml")+".yaml")
				if err != nil {
					return usage("no runbook %q comes with this program: %w", name, err)
				}
				_, err = c.App.Writer.Write(b)
				return err
			}
			files, err := fs.Glob(all, "*.yaml")
			if err != nil {
				return err
			}
			rows := [][]string{{"NAME", "RUNBOOK"}}
			for _, name := range files {
				b, err := fs.ReadFile(all, name)
				if err != nil {
					return err
				}
				f, err := runbooks.Parse(name, b)
				if err != nil {
					return err
				}
				for _, rb := range f.Runbooks {
					rows = append(rows, []string{strings.TrimSuffix(name, ".yaml"), rb.Title})
				}
			}
			return table(c.App.Writer, rows)
		},
	}
}
