package main

import (
	"io"
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
		Name: "render", Usage: "write a runbook as a document", ArgsUsage: "FILE...",
		Description: `One runbook goes to standard output. With --to, each runbook of all files becomes a file there.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT`: text, markdown or html (one file that needs nothing else)"},
			&cli.StringFlag{Name: "runbook", Usage: "`TITLE`, where the file has several"},
			&cli.StringFlag{Name: "to", Usage: "`DIR` to write files to"},
			&cli.StringSliceFlag{Name: "proof", Usage: "`FILE` that rehearse wrote"},
			&cli.StringFlag{Name: "proof-signers", Usage: "`FILE` of ssh-keygen's allowed_signers: proofs that none of them signed are marked"},
			&cli.IntFlag{Name: "proof-days", Value: 90, Usage: "`N` days after which a proof is stale"},
		},
		Action: func(c *cli.Context) error {
			to, format := c.String("to"), runbooks.Format(c.String("format"))
			if c.NArg() == 0 || (to == "" && c.NArg() > 1) {
				return usage("%s takes one file, or several with --to", c.Command.FullName())
			}
			if !slices.Contains(runbooks.Formats(), format) {
				return usage("--format %q is none of %v", c.String("format"), runbooks.Formats())
			}
			if to != "" && c.IsSet("runbook") {
				return usage("--to writes every runbook: leave --runbook out")
			}
			files, err := readRunbooks(c.Args().Slice())
			if err != nil {
				return err
			}
			if to == "" {
				rb, err := oneRunbook(files[0], c.String("runbook"))
				if err != nil {
					return err
				}
				return render(c, c.App.Writer, files[0], rb)
			}
			ending := map[runbooks.Format]string{runbooks.HTML: ".html", runbooks.Markdown: ".md", runbooks.Text: ".txt"}[format]
			for _, f := range files {
				for _, rb := range f.Runbooks {
					var page strings.Builder
					if err := render(c, &page, f, rb); err != nil {
						return err
					}
					if err := writeInto(to, fileName(rb.Title)+ending, []byte(page.String())); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
}

// render writes one runbook as the flags say.
func render(c *cli.Context, w io.Writer, f *runbooks.File, rb *runbooks.Runbook) error {
	page := runbooks.Page{Runbook: rb, File: f.Name, Digest: f.Digest}
	for _, h := range f.Rehearsals {
		if of, err := f.Runbook(h); err == nil && of == rb {
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
	return runbooks.Render(w, runbooks.Format(c.String("format")), page)
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
