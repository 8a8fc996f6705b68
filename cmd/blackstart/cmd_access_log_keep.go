package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

func logKeep() *cli.Command {
	return &cli.Command{
		Name: "keep", Usage: "keep a copy of the record from now on", ArgsUsage: "PLACE",
		Description: `PLACE is one of
   file:/PATH                               a second file, best on another disk
   syslog:/PATH                             a socket such as /dev/log
   syslog:IP:PORT, syslog+tcp:IP:PORT       a syslog elsewhere
   peer:IP:PORT                             a host where blackstart access log receive listens

The copy is made now, or nothing is kept. Then every command that changes something brings it up to the
record when it begins and when it ends. One that does not answer is waited for two seconds, then said to be
behind; what it lacks follows as soon as it answers.

   blackstart access log keep file:/mnt/usb/journal.jsonl
   blackstart access log keep peer:10.0.0.2:8447 --identity id --origin 10.0.0.7`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "identity", Usage: "`DIR` that certs issue or certs enroll wrote, for a peer"},
			&cli.StringFlag{Name: "origin", Usage: "`NAME` or address in its certificate", DefaultText: "this host's name"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			to, err := one(c, "place")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			state, err := s.KeepCopy(c.Context, recovery.Copy{To: to, Identity: c.String("identity"), Origin: c.String("origin")})
			if err != nil {
				return err
			}
			return result(c, state, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s has %d entries, and gets those that come\n", state.To, state.Entries)
				return err
			})
		},
	}
}

func logForget() *cli.Command {
	return &cli.Command{
		Name: "forget", Usage: "keep a copy of the record no more", ArgsUsage: "PLACE",
		Description: `The copy stays as it is. That it is kept no more is in the record, and in the copy.`,
		Action: func(c *cli.Context) error {
			to, err := one(c, "place")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			return s.ForgetCopy(c.Context, to)
		},
	}
}

func logCopies() *cli.Command {
	return &cli.Command{
		Name: "copies", Usage: "say which copies of the record are kept, and how far they are",
		Description: `Exit status 5: one says something else than the record.`,
		Flags:       []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			copies, err := s.Copies()
			if err != nil {
				return err
			}
			err = result(c, copies, func(w io.Writer) error {
				rows := [][]string{{"PLACE", "ENTRIES", "REACHED", "PROBLEM"}}
				for _, k := range copies {
					rows = append(rows, []string{printable(k.To), strconv.FormatUint(k.Entries, 10), k.Reached.Format(time.RFC3339), printable(k.Problem)})
				}
				return table(w, rows)
			})
			for _, k := range copies {
				if k.Differs {
					err = errors.Join(err, fmt.Errorf("%w: %s", journal.ErrTampered, k.To))
				}
			}
			return err
		},
	}
}
