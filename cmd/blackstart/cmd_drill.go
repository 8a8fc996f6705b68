package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery/drill"
	"github.com/blackstart-project/blackstart/runbooks"
)

func cmdDrill() *cli.Command {
	return &cli.Command{
		Name: "drill", Usage: "practise a recovery: in a vacuum, by hand, timed and recorded",
		Description: `The operator sits in a shell where the service is dead and nothing answers but the rehearsal's
conditions, as in the outage. From outside it is watched whether the service is healthy again.

   blackstart drill start etcd.yaml --as alice       the shell; hint and steps are commands in it
   blackstart drill steps --watch                    the runbook beside it, in a second terminal
   blackstart drill score                            how it went, against earlier ones
   blackstart drill history
   blackstart drill due --every 90d runbooks/*.yaml  what and who has not practised, from cron`,
		Subcommands:     []*cli.Command{drillStart(), drillSteps(), drillScore(), drillHistory(), drillDue()},
		HideHelpCommand: true,
	}
}

func storeFlag() cli.Flag {
	return &cli.StringFlag{Name: "store", Usage: "`DIR` of the drills, which may be shared, in a git repository for instance", DefaultText: "DATA/drills"}
}

func drillStore(c *cli.Context) (drill.Store, error) {
	s, err := bareSite(c)
	if err != nil {
		return drill.Store{}, err
	}
	if dir := c.String("store"); dir != "" {
		dir, err = filepath.Abs(dir)
		return drill.Store{Dir: dir}, err
	}
	return drill.Store{Dir: filepath.Join(s.Host.Data, "drills")}, nil
}

func drillStart() *cli.Command {
	return &cli.Command{
		Name: "start", Usage: "begin a drill: a shell in the vacuum", ArgsUsage: "FILE",
		Description: `The clock runs from the first prompt until the service is healthy, and stays so for as long as the
rehearsal asks; the drill ends when the shell does. Exit status 3: it is not back.

In the shell, hint tells the next step and is counted, steps tells them all, on HOST gives a shell
on another host of the runbook until it is left. The runbook's variables are set. It is bash without anybody's
own settings, and tells which lines are typed into it, when, and how they end; what is typed into
another program is only in the recording. Where there is no bash it is sh, which tells nothing.

Without a terminal each line of standard input is typed when the shell asks for one:
a command must not read it.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "rehearsal", Usage: "`TITLE`, where the file has several"},
			&cli.StringFlag{Name: "as", Usage: "`NAME` of the operator", DefaultText: "the user's"},
			&cli.StringFlag{Name: "team", Usage: "`NAME` of the team", DefaultText: "the runbook's owner"},
			&cli.StringFlag{Name: "catalogue", Usage: "`FILE`, a kit.yaml, whose capabilities conditions may name", DefaultText: "the kit's"},
			&cli.StringSliceFlag{Name: "show", Usage: "`PATH` of this host that runbooks need to see, read-only, where a vacuum has nothing (/tmp, /run)"},
			storeFlag(),
		}, fromFlags()...),
		Action: func(c *cli.Context) error {
			files, one, err := oneRehearsal(c)
			if err != nil {
				return err
			}
			o, err := drillOptions(c)
			if err != nil {
				return err
			}
			file, err := filepath.Abs(one.file.Name)
			if err != nil {
				return err
			}
			o.Show = append(o.Show, file) // for runbook run
			store, err := drillStore(c)
			if err != nil {
				return err
			}
			seat, leave := takeSeat(c.Context)
			defer leave()
			p := drill.Practice{As: c.String("as"), Team: c.String("team"), Store: store, Seat: seat.Seat}
			if p.As == "" {
				p.As = userName()
			}
			o.Site.Log.Info("laying out the dead service")
			p.Begun = func(d drill.Drill) {
				o.Site.Log.Info("drill " + d.ID + " begins; in a second terminal: blackstart drill steps --watch")
				o.Site.Log.Info(fmt.Sprintf("%s is to be back within %s; hint, steps and exit are commands", d.Service, d.Within))
				seat.raw()
			}
			d, err := drill.Start(c.Context, o, p, one.file, one.h, files...)
			leave()
			if d.End != nil {
				if rerr := keepReport(store, d.ID); rerr != nil {
					o.Site.Log.Warn("there is no report", "error", rerr)
				}
				o.Site.Log.Info(fmt.Sprintf("%s: %s after %s of %s; blackstart drill score %[5]s", d.ID, d.Outcome(), drill.Seconds(d.End.Took), d.Within, d.ID))
			}
			return err
		},
	}
}

// oneRehearsal is the rehearsal that a command is about, and the files that may hold
// its runbook.
func oneRehearsal(c *cli.Context) ([]*runbooks.File, rehearsal, error) {
	path, err := one(c, "file")
	if err != nil {
		return nil, rehearsal{}, err
	}
	files, err := readRunbooks([]string{path})
	if err != nil {
		return nil, rehearsal{}, err
	}
	var found []rehearsal
	var titles []string
	for _, h := range files[0].Rehearsals {
		titles = append(titles, h.Title)
		if t := c.String("rehearsal"); t == "" || h.Title == t {
			found = append(found, rehearsal{files[0], h})
		}
	}
	if len(found) != 1 {
		return nil, rehearsal{}, usage("%s has the rehearsals %q: name one with --rehearsal", path, titles)
	}
	if found[0].h.Runbook != "" {
		more, err := readRunbooks([]string{files[0].Wants(found[0].h)})
		if err != nil {
			return nil, rehearsal{}, err
		}
		files = append(files, more...)
	}
	return files, found[0], runbooks.Check(runbooks.Known{}, files...)
}

func userName() string {
	for _, v := range []string{"SUDO_USER", "LOGNAME", "USER"} {
		if name := os.Getenv(v); name != "" {
			return name
		}
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// takeSeat is the operator's terminal, if there is one. leave gives it back as it
// was.
func takeSeat(ctx context.Context) (s seat, leave func()) {
	in := int(os.Stdin.Fd())
	s = seat{Seat: drill.Seat{In: os.Stdin, Out: os.Stdout, Rows: 24, Cols: 80}, raw: func() {}}
	if !term.IsTerminal(in) {
		return s, func() {}
	}
	if cols, rows, err := term.GetSize(in); err == nil {
		s.Rows, s.Cols = uint16(rows), uint16(cols)
	}
	sizes := make(chan [2]uint16, 1)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	ctx, stop := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-resized:
			}
			cols, rows, err := term.GetSize(in)
			if err != nil {
				continue
			}
			select {
			case sizes <- [2]uint16{uint16(rows), uint16(cols)}:
			case <-ctx.Done():
				return
			}
		}
	}()
	s.Terminal, s.Resized = true, sizes
	var old *term.State
	s.raw = func() { old, _ = term.MakeRaw(in) } // else it stays as it is
	return s, func() {
		stop()
		signal.Stop(resized)
		if old != nil {
			_ = term.Restore(in, old) // the terminal may be gone
			old = nil
		}
	}
}

// seat is a drill's seat, whose terminal passes on every key after raw.
type seat struct {
	drill.Seat
	raw func()
}

func drillHistory() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "list the drills",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "team", Usage: "only those of team `NAME`"},
			&cli.StringFlag{Name: "as", Usage: "only those of operator `NAME`"},
			&cli.StringFlag{Name: "runbook", Usage: "only those of the runbooks in `FILE`"},
			storeFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			var files []*runbooks.File
			if path := c.String("runbook"); path != "" {
				var err error
				if files, err = readRunbooks([]string{path}); err != nil {
					return err
				}
			}
			all, err := listDrills(c)
			if err != nil {
				return err
			}
			type row struct {
				drill.Drill
				Outcome drill.Outcome `json:"outcome"`
				Steps   int           `json:"steps"`
			}
			rows := []row{}
			for _, d := range all {
				if t := c.String("team"); t != "" && d.Team != t {
					continue
				}
				if a := c.String("as"); a != "" && d.As != a {
					continue
				}
				if len(files) > 0 && !slices.ContainsFunc(files[0].Runbooks, func(rb *runbooks.Runbook) bool { return rb.Title == d.Runbook && rb.Service == d.Service }) {
					continue
				}
				rows = append(rows, row{d, d.Outcome(), len(d.Steps)})
			}
			return result(c, rows, func(w io.Writer) error {
				out := [][]string{{"DRILL", "RUNBOOK", "AS", "TEAM", "OUTCOME", "TOOK", "TARGET"}}
				for _, r := range rows {
					took := "-"
					if r.End != nil {
						took = drill.Seconds(r.End.Took).String()
					}
					out = append(out, []string{r.ID, printable(r.Runbook), printable(r.As), printable(orDash(r.Team)), string(r.Outcome), took, r.Within.String()})
				}
				return table(w, out)
			})
		},
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// listDrills reads the store, and says what in it cannot be read.
func listDrills(c *cli.Context) ([]drill.Drill, error) {
	store, err := drillStore(c)
	if err != nil {
		return nil, err
	}
	all, damaged, err := store.List()
	for _, d := range damaged {
		logger(c).Warn("passed over", "error", d)
	}
	return all, err
}

func drillDue() *cli.Command {
	return &cli.Command{
		Name: "due", Usage: "say which runbooks, teams and people have not practised", ArgsUsage: "[FILE...]",
		Description: `What counts is a drill that ended with the service back. With FILEs only their runbooks count, and
those that nobody ever practised are listed. Exit status 3: something is overdue.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "every", Value: "90d", Usage: "`TIME` within which each must have practised"},
			storeFlag(), outputFlag(),
		},
		Action: func(c *cli.Context) error {
			every, err := days(c, "every")
			if err != nil {
				return err
			}
			files, err := readRunbooks(c.Args().Slice())
			if err != nil {
				return err
			}
			all, err := listDrills(c)
			if err != nil {
				return err
			}
			due, overdue := drill.DueIn(all, files, every, time.Now())
			return errors.Join(result(c, due, func(w io.Writer) error {
				rows := [][]string{{"", "KIND", "NAME", "LAST", "BY"}}
				for _, d := range due {
					state, last := "ok", "never"
					if !d.Last.IsZero() {
						last = d.Last.Format("2006-01-02")
					}
					switch {
					case d.Overdue:
						state = "OVERDUE"
					case d.Changed:
						state = "ok, but it has changed since"
					}
					rows = append(rows, []string{state, d.Kind, printable(d.Name), last, printable(orDash(d.By))})
				}
				return table(w, rows)
			}), overdue)
		},
	}
}

// days is a flag that may be in days, such as 90d.
func days(c *cli.Context, flag string) (time.Duration, error) {
	var d runbooks.Duration
	if err := d.UnmarshalText([]byte(c.String(flag))); err != nil {
		return 0, usage("--%s: %w", flag, err)
	}
	return time.Duration(d), nil
}

// drillArg is the drill that a command is about.
func drillArg(c *cli.Context) (drill.Store, string, error) {
	if c.NArg() > 1 {
		return drill.Store{}, "", usage("%s takes one drill", c.Command.FullName())
	}
	store, err := drillStore(c)
	if err != nil {
		return store, "", err
	}
	id, err := store.Find(strings.TrimSuffix(c.Args().First(), "/"))
	return store, id, err
}
