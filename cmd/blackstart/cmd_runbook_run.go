package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
)

func inputFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "var", Usage: "`NAME=VALUE` of a variable"},
		&cli.StringSliceFlag{Name: "var-file", Usage: "`NAME=FILE` whose content, without the newline at its end, is the value: for secrets"},
		&cli.StringSliceFlag{Name: "host", Usage: "`NAME=[USER@]IP[:PORT]` of a host that steps name, with #pin=sha256:HEX its key; root at port 22 else"},
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
	for _, v := range c.StringSlice("pin") {
		d, err := digest.Parse(v)
		if err != nil {
			return in, usage("--pin %s: want sha256:HEX", v)
		}
		in.Pins = append(in.Pins, d)
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
step; a run that stops, for whatever reason, goes on with runbook resume. Exit status 1: a step
failed; 5: a host has another key than the one that it is known by.

Steps with hosts are done over SSH, with the agent's keys, those at home or --ssh-key. A host is known
by #pin= behind its address, by --pin, by the kit's trust of its name, or by known_hosts. This program
is copied there if it is not there, into STATE/bin or DATA/bin. A host that is gone, or refused, fails
its own steps; what had begun on it is ended there.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "runbook", Usage: "`TITLE`, where the file has several"},
			&cli.StringSliceFlag{Name: "only", Usage: "do only `STEP`, its name or number"},
			&cli.StringFlag{Name: "from", Usage: "begin with `STEP`; what comes before is taken as done"},
			&cli.BoolFlag{Name: "dry-run", Usage: "say what would be done, and do nothing"},
			&cli.BoolFlag{Name: "go-on", Usage: "where a run of this very file stopped, go on with it"},
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
			stopped, err := stoppedRun(c, s, files[0].Digest, rb.Title)
			if err != nil {
				return err
			}
			return follow(c, s, in, func(in recovery.RunInputs) (recovery.Run, error) {
				if stopped != "" {
					return s.ResumeRun(c.Context, stopped, in)
				}
				return s.StartRunbook(c.Context, files[0], raw, rb, in)
			})
		},
	}
}

// stoppedRun is the run that --go-on goes on with: the latest of a runbook, if it is not done.
func stoppedRun(c *cli.Context, s recovery.Site, digest, title string) (string, error) {
	if !c.Bool("go-on") {
		return "", nil
	}
	all, err := s.Runs()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(r recovery.Run) bool { return r.Digest == digest && r.Title == title })
	if i < 0 || all[i].Done() {
		return "", nil
	}
	return all[i].ID, nil
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
	b, err := rb.Bind(in.Vars, recovery.Addresses(in.Hosts))
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

// tellStopped says what an operator needs to know when a run has stopped: what failed, and
// what it said, what is safe, whom to call, and how to go on or back.
func tellStopped(s recovery.Site, r recovery.Run, id string) {
	for _, t := range r.Tasks {
		switch {
		case t.State == recovery.StepFailed:
			s.Log.Warn(fmt.Sprintf("failed: %s: %s", t.ID, t.Error))
			if said := lastLines(t.Log, 8); len(said) > 0 {
				s.Log.Info("the end of its output:")
				for _, line := range said {
					s.Log.Info("  | " + line)
				}
			}
		case t.State == recovery.StepBlocked:
			s.Log.Info("not begun, so it has changed nothing: " + t.ID)
		}
	}
	s.Log.Info("all output is in " + r.Dir)
	var known map[string]string // of the kit; a runbook may name those
	if len(r.Contacts) > 0 {
		if k, err := s.Known(); err == nil {
			known = k.Contacts
		}
	}
	for _, contact := range r.Contacts {
		if uri := known[contact]; uri != "" {
			contact += ", " + uri
		}
		s.Log.Info("whom to call: " + contact)
	}
	s.Log.Info("to go on: blackstart runbook resume " + id)
	if len(r.Undo) > 0 {
		var names []string
		for _, u := range r.Undo {
			names = append(names, u.Task)
		}
		s.Log.Info("can be taken back: " + strings.Join(names, ", "))
		s.Log.Info("to take them back: blackstart runbook undo " + id)
	}
}

// lastLines are the last lines of a file, as far as they can be read.
func lastLines(file string, n int) []string {
	const most = 4 << 10 // bytes
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // only read from
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(size-most, 0), most))
	text := strings.TrimSpace(strings.ToValidUTF8(string(b), "\uFFFD"))
	if err != nil || text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(len(lines)-n, 0):]
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
