package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/drill"
	"github.com/blackstart-project/blackstart/recovery/kit"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// rehearsal is one to be run, and where it comes from.
type rehearsal struct {
	file *runbooks.File
	h    *runbooks.Rehearsal
}

func rehearseFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringFlag{Name: "catalogue", Usage: "`FILE`, a kit.yaml, whose capabilities conditions may name", DefaultText: "the kit's"},
		&cli.StringSliceFlag{Name: "show", Usage: "`PATH` of this host that runbooks need to see, read-only, where a vacuum has nothing (/tmp, /run)"},
		&cli.IntFlag{Name: "parallel", Value: 1, Usage: "`N` vacuums at once"},
		outputFlag(),
	}, fromFlags()...)
}

func cmdRehearse() *cli.Command {
	return &cli.Command{
		Name: "rehearse", Usage: "prove that a service is recoverable: run its runbook in a vacuum", ArgsUsage: "FILE...",
		Description: `The same runbook, done by the same program, where nothing answers but the rehearsal's conditions.
Exit status 0: every service is recoverable; 3: one is not; 7: of one it cannot be told.

   blackstart rehearse etcd.yaml
   blackstart rehearse runbooks/*.yaml --parallel 4 --junit report.xml --proofs proofs/
   blackstart rehearse runbooks/*.yaml --shard 2/8            one of eight CI jobs`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "junit", Usage: "write the results as JUnit XML to `FILE`"},
			&cli.StringFlag{Name: "html", Usage: "write the document of each runbook that passed into `DIR`, with its proof on it"},
			&cli.StringFlag{Name: "proofs", Usage: "write a proof for each that passed into `DIR`"},
			&cli.StringFlag{Name: "sign-key", Usage: "`FILE` of an SSH key, or its .pub for one that the agent holds: sign each proof, into a .sig beside it"},
			&cli.StringFlag{Name: "record", Usage: "write what each tried to reach into `DIR`"},
			&cli.StringFlag{Name: "shard", Usage: "`I/N`: only the Ith of N parts"},
			&cli.IntFlag{Name: "repeat", Value: 1, Usage: "`K` times each: all must pass"},
			&cli.StringFlag{Name: "commit", Usage: "`NAME` of the version under test, for the proofs"},
		}, rehearseFlags()...),
		Action: func(c *cli.Context) error {
			files, todo, err := rehearsals(c)
			if err != nil {
				return err
			}
			if todo, err = shard(todo, c.String("shard")); err != nil {
				return err
			}
			if c.IsSet("sign-key") && !c.IsSet("proofs") {
				return usage("--sign-key signs proofs: name a directory for them with --proofs")
			}
			o, err := drillOptions(c)
			if err != nil {
				return err
			}
			results := make([]drill.Result, len(todo)*c.Int("repeat"))
			var mu sync.Mutex
			g, ctx := errgroup.WithContext(c.Context)
			g.SetLimit(max(c.Int("parallel"), 1))
			for i := range results {
				one := todo[i%len(todo)]
				g.Go(func() error {
					mine := o
					if dir := c.String("record"); dir != "" {
						f, err := recordFile(dir, one, i)
						if err != nil {
							return err
						}
						defer func() { _ = f.Close() }() // the record says if it could not be written
						mine.Record = f
					}
					r, err := drill.Rehearse(ctx, mine, one.file, one.h, files...)
					results[i] = r
					if err != nil {
						return fmt.Errorf("%s: %s: %w", one.file.Name, one.h.Title, err)
					}
					mu.Lock()
					defer mu.Unlock()
					return tellResult(c.App.ErrWriter, o.Site, r)
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			if err := keepProofs(c, o, files, todo, results); err != nil {
				return err
			}
			if file := c.String("junit"); file != "" {
				f, err := os.Create(file)
				if err != nil {
					return usage("writing --junit: %w", err)
				}
				if err := errors.Join(drill.WriteJUnit(f, results), f.Close()); err != nil {
					return err
				}
			}
			return errors.Join(drill.Judgement(results), result(c, results, func(w io.Writer) error {
				rows := [][]string{{"VERDICT", "REHEARSAL", "TOOK", "REASON"}}
				for _, r := range results {
					reason, _, _ := strings.Cut(r.Reason, "\n")
					rows = append(rows, []string{string(r.Verdict), printable(r.Rehearsal), r.Took.Round(10 * time.Millisecond).String(), printable(reason)})
				}
				return table(w, rows)
			}))
		},
	}
}

// rehearsals reads files, and lists what is rehearsed in them.
func rehearsals(c *cli.Context) ([]*runbooks.File, []rehearsal, error) {
	if !c.Args().Present() {
		return nil, nil, usage("%s takes files", c.Command.FullName())
	}
	files, err := readRunbooks(c.Args().Slice())
	if err != nil {
		return nil, nil, err
	}
	if err := runbooks.Check(runbooks.Known{}, files...); err != nil {
		return nil, nil, err
	}
	var all []rehearsal
	for _, f := range files {
		for _, h := range f.Rehearsals {
			all = append(all, rehearsal{f, h})
		}
	}
	if len(all) == 0 {
		return nil, nil, usage("there is no rehearsal in %s", strings.Join(c.Args().Slice(), ", "))
	}
	return files, all, nil
}

// shard is a part of what is to be done: I/N.
func shard(all []rehearsal, s string) ([]rehearsal, error) {
	if s == "" {
		return all, nil
	}
	is, ns, _ := strings.Cut(s, "/")
	i, err1 := strconv.Atoi(is)
	n, err2 := strconv.Atoi(ns)
	if err1 != nil || err2 != nil || n < 1 || i < 1 || i > n {
		return nil, usage("--shard %s: want I/N, such as 2/8", s)
	}
	var part []rehearsal
	for j, r := range all {
		if j%n == i-1 {
			part = append(part, r)
		}
	}
	if len(part) == 0 {
		return nil, usage("--shard %s of %d rehearsals is empty", s, len(all))
	}
	return part, nil
}

func drillOptions(c *cli.Context) (drill.Options, error) {
	var o drill.Options
	s, err := bareSite(c)
	if err != nil {
		return o, err
	}
	if o.Site, err = supplied(c, s); err != nil {
		return o, err
	}
	if o.Catalogue, err = o.Site.Catalogue(c.String("catalogue")); err != nil {
		return o, err
	}
	o.Show = c.StringSlice("show")
	for i, p := range o.Show {
		if o.Show[i], err = filepath.Abs(p); err != nil {
			return o, err
		}
	}
	o.Self, err = os.Executable()
	return o, err
}

func recordFile(dir string, r rehearsal, i int) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, usage("making --record: %w", err)
	}
	return os.OpenFile(filepath.Join(dir, fileName(r.h.Title)+"-"+strconv.Itoa(i+1)+".jsonl"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
}

// fileName makes a file's name of a title.
func fileName(title string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' {
			return r
		}
		return '-'
	}, title)
}

// tellResult says what became of a rehearsal, and of one that did not pass what was
// printed last and what was tried in vain.
func tellResult(w io.Writer, s recovery.Site, r drill.Result) error {
	s.Log.Info(fmt.Sprintf("%s: %s, %s", r.Verdict, r.Rehearsal, r.Took.Round(10*time.Millisecond)))
	if r.Verdict == drill.Pass {
		return nil
	}
	s.Log.Warn(r.Reason)
	for _, line := range lastSaid(r) {
		if _, err := fmt.Fprintln(w, "  | "+printable(line)); err != nil {
			return err
		}
	}
	blocked := slices.DeleteFunc(slices.Clone(r.Attempts), func(a sandbox.Attempt) bool { return a.Verdict != sandbox.Blocked })
	if len(blocked) > 0 {
		if err := sandbox.Table(w, blocked); err != nil {
			return err
		}
	}
	for _, c := range r.Suggest {
		s.Log.Info("this would have let through what it tried to reach: " + c)
	}
	return nil
}

// lastSaid is the end of what the step that failed printed; of the last one that
// printed anything, where none of the runbook's failed.
func lastSaid(r drill.Result) []string {
	const most = 12 // lines
	said := "\n" + r.Output
	for _, t := range r.Steps {
		_, own, found := strings.Cut(said, "\n== "+t.ID+"\n")
		if t.State == recovery.StepFailed && found {
			own, _, _ = strings.Cut(own, "\n== ")
			said = "\n== " + t.ID + "\n" + own
			break
		}
	}
	said = strings.TrimSpace(said[max(strings.LastIndex(said, "\n== "), 0):])
	if said == "" {
		return nil
	}
	lines := strings.Split(said, "\n")
	if n := len(lines); n > most {
		lines = append(lines[:1], lines[n-most:]...)
	}
	return lines
}

// keepProofs writes what rehearsals that passed each time leave.
func keepProofs(c *cli.Context, o drill.Options, files []*runbooks.File, todo []rehearsal, results []drill.Result) error {
	html, proofs := c.String("html"), c.String("proofs")
	if html == "" && proofs == "" {
		return nil
	}
	binary, err := drill.FileDigest(o.Self)
	if err != nil {
		return err
	}
	kitDigest, err := o.Site.KitDigest()
	if err != nil {
		return err
	}
	for i, one := range todo {
		passed := true
		var runs []drill.Result
		for j := i; j < len(results); j += len(todo) {
			passed = passed && results[j].Verdict == drill.Pass
			runs = append(runs, results[j])
		}
		if !passed {
			continue
		}
		of, rb, err := runbookOf(one, files)
		if err != nil {
			return err
		}
		p := drill.NewProof(runs, one.h, of, o.Catalogue, binary, c.String("commit"))
		p.Kit = kitDigest
		if proofs != "" {
			if err := writeProof(c, proofs, p); err != nil {
				return err
			}
		}
		if html != "" {
			var page strings.Builder
			if err := runbooks.Render(&page, runbooks.HTML, runbooks.Page{Runbook: rb, Rehearsals: []*runbooks.Rehearsal{one.h}, Proofs: []runbooks.Proof{p}, File: of.Name, Digest: of.Digest}); err != nil {
				return err
			}
			if err := writeInto(html, fileName(rb.Title)+".html", []byte(page.String())); err != nil {
				return err
			}
		}
	}
	return nil
}

// runbookOf is a rehearsal's runbook, and the file that it is in.
func runbookOf(one rehearsal, files []*runbooks.File) (*runbooks.File, *runbooks.Runbook, error) {
	rb, err := one.file.Runbook(one.h, files...)
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		if slices.Contains(f.Runbooks, rb) {
			return f, rb, nil
		}
	}
	return one.file, rb, nil
}

// writeProof writes a proof into a directory, where graph check finds it, and its
// signature beside it if there is a key.
func writeProof(c *cli.Context, dir string, p runbooks.Proof) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	name := fileName(p.Rehearsal) + ".json"
	if err := writeInto(dir, name, b); err != nil {
		return err
	}
	key := c.String("sign-key")
	if key == "" {
		return nil
	}
	sig, err := recovery.SignProof(c.Context, b, kit.KeyFile{Path: key, Agent: os.Getenv("SSH_AUTH_SOCK"), Password: password})
	if err != nil {
		return err
	}
	return writeInto(dir, name+".sig", sig)
}

func writeInto(dir, name string, b []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return usage("making %s: %w", dir, err)
	}
	return os.WriteFile(filepath.Join(dir, name), b, 0o644)
}

func cmdPare() *cli.Command {
	return &cli.Command{
		Name: "pare", Usage: "find the least that a recovery needs", ArgsUsage: "FILE",
		Description: `The rehearsal runs with all its conditions, then with each of them left out, then with only those
that it failed without; where that is not enough, what stands in for what is found. A condition
is needed only where an attempt to reach it was seen.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "rehearsal", Usage: "`TITLE`, where the file has several"},
			&cli.BoolFlag{Name: "write", Usage: "put the minimum into the file; comments stay"},
			&cli.StringFlag{Name: "proofs", Usage: "with --write: write a proof into `DIR` that each condition is needed"},
		}, rehearseFlags()...),
		Action: func(c *cli.Context) error {
			files, all, err := rehearsals(c)
			if err != nil {
				return err
			}
			var found []rehearsal
			for _, r := range all {
				if t := c.String("rehearsal"); t == "" || r.h.Title == t {
					found = append(found, r)
				}
			}
			if len(found) != 1 {
				return usage("%d rehearsals are meant: name one with --rehearsal", len(found))
			}
			if c.IsSet("proofs") && !c.Bool("write") {
				return usage("--proofs wants --write: a proof is of a file that has the conditions it speaks of")
			}
			o, err := drillOptions(c)
			if err != nil {
				return err
			}
			one := found[0]
			p, err := drill.Pare(c.Context, o, c.Int("parallel"), one.file, one.h, files...)
			if err != nil {
				return err
			}
			if c.Bool("write") {
				b, err := one.file.SetConditions(one.h, p.Minimum)
				if err != nil {
					return err
				}
				if err := os.WriteFile(one.file.Name, b, 0o644); err != nil {
					return err
				}
			}
			if dir := c.String("proofs"); dir != "" {
				if err := proveMinimum(c, dir, o, one.h.Title, p); err != nil {
					return err
				}
			}
			return result(c, p, func(w io.Writer) error {
				for _, e := range p.Why {
					switch {
					case e.Needed:
						fmt.Fprintf(w, "needed    %s: without it, %s\n", e.Condition, printable(e.Reason))
						if e.Tried == "" {
							fmt.Fprintln(w, "          no attempt to reach it was seen: look at the steps, not at the network")
						} else {
							fmt.Fprintf(w, "          %s\n", printable(e.Tried))
						}
					case len(e.AnyOf) > 0:
						fmt.Fprintf(w, "any of    %s\n", strings.Join(e.AnyOf, ", "))
					case e.Costs > 0:
						fmt.Fprintf(w, "not needed %s, but it takes %s longer without\n", e.Condition, e.Costs)
					default:
						fmt.Fprintf(w, "not needed %s\n", e.Condition)
					}
				}
				_, err := fmt.Fprintf(w, "conditions: [%s]\n%d runs\n", strings.Join(p.Needs, ", "), p.Runs)
				return err
			})
		},
	}
}

// proveMinimum writes the proof of a file that has the minimum of its conditions by now.
func proveMinimum(c *cli.Context, dir string, o drill.Options, title string, p drill.Pared) error {
	files, all, err := rehearsals(c)
	if err != nil {
		return err
	}
	binary, err := drill.FileDigest(o.Self)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(r rehearsal) bool { return r.h.Title == title })
	of, _, err := runbookOf(all[i], files)
	if err != nil {
		return err
	}
	proof := drill.NewProof([]drill.Result{p.Run}, all[i].h, of, o.Catalogue, binary, "")
	proof.Minimal = p.Evident()
	return writeProof(c, dir, proof)
}
