package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery"
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
   blackstart runbook show                 where it stands, also from another terminal
   blackstart runbook render etcd.yaml --format html > etcd.html`,
		Subcommands:     []*cli.Command{runbookCheck(), runbookRun(), runbookResume(), runbookShow(), runbookRender(), runbookSchema(), runbookShipped(), runbookProbe()},
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

func inputFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "var", Usage: "`NAME=VALUE` of a variable"},
		&cli.StringSliceFlag{Name: "var-file", Usage: "`NAME=FILE` whose content, without the newline at its end, is the value: for secrets"},
		&cli.BoolFlag{Name: "yes", Usage: "answer every question with yes"},
		&cli.BoolFlag{Name: "take-over", Usage: "stop the run that is under way, and go on"},
		outputFlag(),
	}, fromFlags()...)
}

func inputs(c *cli.Context) (recovery.RunInputs, error) {
	in := recovery.RunInputs{Vars: map[string]string{}, TakeOver: c.Bool("take-over")}
	for _, kv := range c.StringSlice("var") {
		name, value, ok := strings.Cut(kv, "=")
		if !ok {
			return in, usage("--var %s: want NAME=VALUE", kv)
		}
		in.Vars[name] = value
	}
	for _, kv := range c.StringSlice("var-file") {
		name, file, _ := strings.Cut(kv, "=")
		b, err := os.ReadFile(file)
		if err != nil {
			return in, usage("--var-file: %w", err)
		}
		in.Vars[name] = strings.TrimSuffix(string(b), "\n")
	}
	var err error
	if in.Hosts, err = recovery.ParseHosts(c.StringSlice("host")); err != nil {
		return in, err
	}
	in.Select = runbooks.Selection{Only: c.StringSlice("only"), From: c.String("from")}
	if !c.Bool("yes") {
		in.Confirm = ask
	}
	return in, nil
}

// ask puts a question to whoever sits at the terminal.
func ask(ctx context.Context, question string) (bool, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return false, usage("%q needs an answer, and nobody is at a terminal: run it there, or with --yes", question)
	}
	answer := make(chan string, 1)
	fmt.Fprintf(os.Stderr, "\r\x1b[K%s [yes/no] ", printable(question))
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // no answer is no
		answer <- line
	}()
	select {
	case a := <-answer:
		return strings.EqualFold(strings.TrimSpace(a), "yes"), nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

func runbookRun() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "do what a runbook says", ArgsUsage: "FILE",
		Description: `Steps run in parallel where their needs allow it. What happens is on disk before and after each
step; a run that stops, for whatever reason, goes on with runbook resume. Exit status 1: a step failed.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "runbook", Usage: "`TITLE`, where the file has several"},
			&cli.StringSliceFlag{Name: "host", Usage: "`NAME=IP` of a host that steps name"},
			&cli.StringSliceFlag{Name: "only", Usage: "do only `STEP`, its name or number"},
			&cli.StringFlag{Name: "from", Usage: "begin with `STEP`; what comes before is taken as done"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing"},
		}, inputFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usage("%s takes one file", c.Command.FullName())
			}
			path := c.Args().First()
			files, err := readRunbooks([]string{path})
			if err != nil {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rb, err := oneRunbook(files[0], c.String("runbook"))
			if err != nil {
				return err
			}
			in, err := inputs(c)
			if err != nil {
				return err
			}
			if c.Bool("dry-run") {
				return dryRun(c, rb, in)
			}
			s, err := site(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			return follow(c, s, in, func(in recovery.RunInputs) (recovery.Run, error) {
				return s.StartRunbook(c.Context, files[0], raw, rb, in)
			})
		},
	}
}

func oneRunbook(f *runbooks.File, title string) (*runbooks.Runbook, error) {
	var titles []string
	for _, rb := range f.Runbooks {
		if title == "" && len(f.Runbooks) == 1 || rb.Title == title {
			return rb, nil
		}
		titles = append(titles, rb.Title)
	}
	return nil, usage("%s has the runbooks %q: name one with --runbook", f.Name, titles)
}

func dryRun(c *cli.Context, rb *runbooks.Runbook, in recovery.RunInputs) error {
	b, err := rb.Bind(in.Vars, in.Hosts)
	if err != nil {
		return err
	}
	plan, err := b.Plan(in.Select)
	if err != nil {
		return err
	}
	type task struct {
		ID      string   `json:"id"`
		Wave    int      `json:"wave"`
		Kind    string   `json:"kind"`
		Needs   []string `json:"needs"`
		Command string   `json:"command"`
	}
	mask := b.Masker()
	tasks := []task{}
	for _, t := range plan.Tasks {
		does := t.Step.Command()
		if does == "" {
			does = t.Step.Text()
		}
		tasks = append(tasks, task{t.ID, t.Wave, string(t.Step.Kind()), t.Needs, mask.Text(does)})
	}
	return result(c, tasks, func(w io.Writer) error {
		for i, t := range tasks {
			if i == 0 || tasks[i-1].Wave != t.Wave {
				fmt.Fprintf(w, "wave %d\n", t.Wave+1)
			}
			fmt.Fprintf(w, "  %s (%s)\n", printable(t.ID), t.Kind)
			for l := range strings.Lines(strings.TrimRight(t.Command, "\n")) {
				fmt.Fprintf(w, "      %s\n", printable(strings.TrimRight(l, "\n")))
			}
		}
		return nil
	})
}

// follow shows a run while it happens, and what became of it.
func follow(c *cli.Context, s recovery.Site, in recovery.RunInputs, run func(recovery.RunInputs) (recovery.Run, error)) error {
	v := newRunView(os.Stderr)
	in.Tell = v.tell
	if ask := in.Confirm; ask != nil {
		in.Confirm = func(ctx context.Context, q string) (bool, error) {
			defer v.pause()()
			return ask(ctx, q)
		}
	}
	id := ""
	in.Started = func(started string) {
		id = started
		s.Log.Info("run " + id)
	}
	s.Tell = nil // the view has the terminal
	r, err := run(in)
	v.close()
	if r.ID != "" && c.String("output") == "json" {
		if werr := result(c, r, nil); werr != nil {
			return werr
		}
	}
	if err != nil && id != "" {
		tellStopped(s, r, id)
	}
	return err
}

// tellStopped says what an operator needs to know when a run has stopped.
func tellStopped(s recovery.Site, r recovery.Run, id string) {
	for _, t := range r.Tasks {
		switch {
		case t.State == recovery.StepFailed:
			s.Log.Warn(fmt.Sprintf("failed: %s: %s", t.ID, t.Error))
			if t.Last != "" {
				s.Log.Info("its last line: " + t.Last)
			}
		case t.State == recovery.StepBlocked:
			s.Log.Info("not begun: " + t.ID)
		}
	}
	s.Log.Info("all output is in " + r.Dir)
	for _, contact := range r.Contacts {
		s.Log.Info("whom to call: " + contact)
	}
	s.Log.Info("to go on: blackstart runbook resume " + id)
}

func runbookResume() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "go on with a run that stopped", ArgsUsage: "[RUN]",
		Description: `Without RUN, the latest one that is not done. What is done is not repeated; a step with a check is
asked whether that still holds. One that was cut off in the middle is done again. Secrets have
to be given again, with --var or --var-file.`,
		Flags: inputFlags(),
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usage("%s takes one run", c.Command.FullName())
			}
			s, err := site(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			in, err := inputs(c)
			if err != nil {
				return err
			}
			return follow(c, s, in, func(in recovery.RunInputs) (recovery.Run, error) {
				return s.ResumeRun(c.Context, c.Args().First(), in)
			})
		},
	}
}

func runbookShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "say where a run stands, or list the runs", ArgsUsage: "[RUN]",
		Flags: []cli.Flag{outputFlag(), &cli.BoolFlag{Name: "all", Usage: "list all runs"}},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if c.NArg() == 0 {
				all, err := s.Runs()
				if err != nil {
					return err
				}
				if c.Bool("all") || len(all) == 0 {
					return result(c, all, func(w io.Writer) error {
						rows := [][]string{{"RUN", "RUNBOOK", "BEGAN", "STATE"}}
						for _, r := range all {
							rows = append(rows, []string{r.ID, printable(r.Title), ago(r.Began), stateOf(r)})
						}
						return table(w, rows)
					})
				}
				return showRun(c, all[0])
			}
			r, err := s.ShowRun(c.Args().First())
			if err != nil {
				return err
			}
			return showRun(c, r)
		},
	}
}

func stateOf(r recovery.Run) string {
	switch {
	case r.Process > 0:
		return fmt.Sprintf("running, process %d", r.Process)
	case r.Done():
		return "done"
	}
	return "stopped"
}

func showRun(c *cli.Context, r recovery.Run) error {
	return result(c, r, func(w io.Writer) error {
		fmt.Fprintf(w, "%s: %s, %s\n", r.ID, printable(r.Title), stateOf(r))
		rows := [][]string{}
		for _, t := range r.Tasks {
			detail := t.Error
			if detail == "" {
				detail = t.Last
			}
			detail, _, _ = strings.Cut(detail, "\n")
			took := "-"
			if t.Took > 0 {
				took = t.Took.Round(100 * time.Millisecond).String()
			}
			rows = append(rows, []string{"  " + printable(t.ID), string(t.State), took, printable(detail)})
		}
		return table(w, rows)
	})
}

func runbookRender() *cli.Command {
	return &cli.Command{
		Name: "render", Usage: "write a runbook as a document", ArgsUsage: "FILE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT`: text, markdown or html (one file that needs nothing else)"},
			&cli.StringFlag{Name: "runbook", Usage: "`TITLE`, where the file has several"},
			&cli.StringSliceFlag{Name: "proof", Usage: "`FILE` that rehearse wrote"},
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
				b, err := os.ReadFile(p)
				if err != nil {
					return usage("reading --proof: %w", err)
				}
				var proof runbooks.Proof
				if err := json.Unmarshal(b, &proof); err != nil {
					return usage("reading --proof %s: %w", p, err)
				}
				if proof.Runbook != page.Digest {
					proof.Stale = "the runbook has changed since"
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

// runbookProbe looks at a probe from inside a vacuum.
func runbookProbe() *cli.Command {
	return &cli.Command{
		Name: "probe", Hidden: true, ArgsUsage: "JSON",
		Action: func(c *cli.Context) error {
			var p runbooks.Probe
			if err := json.Unmarshal([]byte(c.Args().First()), &p); err != nil {
				return usage("reading a probe: %w", err)
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context, 5*time.Second)
			defer cancel()
			return s.Ground().Probe(ctx, &p, os.Environ())
		},
	}
}
