package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

func cmdAudit() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "the record of what was done on this host",
		Description: `DATA/journal.jsonl is one JSON object a line, each with the SHA-256 of the line before: what is changed,
taken out or put in shows. That lines are cut off at the end shows by a checkpoint that lies elsewhere.
Whoever is root can write another journal; the copies and checkpoints that they cannot reach remain.

   blackstart audit show --since 12
   blackstart audit checkpoint >point; ssh-keygen -Y sign -n blackstart-audit -f KEY point
   blackstart audit verify --checkpoint point
   blackstart audit copy /mnt/usb/journal.jsonl`,
		Subcommands:     []*cli.Command{auditShow(), auditVerify(), auditCheckpoint(), auditCopy(), auditSend(), auditPush(), auditReceive()},
		HideHelpCommand: true,
	}
}

func auditShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print the record",
		Description: `The chain is checked while it is read: what stands before a damaged line is printed.

   blackstart audit show --follow
   blackstart audit show --kind certs-issue --output json | jq .data.names`,
		Flags: []cli.Flag{
			&cli.Uint64Flag{Name: "since", Usage: "only entries after number `N`"},
			&cli.StringSliceFlag{Name: "kind", Usage: "only entries of this `KIND`, or KIND*"},
			&cli.BoolFlag{Name: "follow", Usage: "go on with those that come"},
			&cli.StringFlag{Name: "output", Value: "text", Usage: "`FORMAT`: text, or json for one object a line"},
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			format := c.String("output")
			if format != "text" && format != "json" {
				return usage("--output %q is not text or json", format)
			}
			lines := json.NewEncoder(c.App.Writer)
			return s.Audit(c.Context, c.Uint64("since"), c.Bool("follow"), func(e journal.Entry) error {
				switch {
				case !ofKind(e.Kind, c.StringSlice("kind")):
					return nil
				case format == "json":
					return lines.Encode(e)
				}
				return writeEntry(c.App.Writer, e)
			})
		},
	}
}

func ofKind(kind string, wanted []string) bool {
	for _, w := range wanted {
		before, star := strings.CutSuffix(w, "*")
		if kind == w || star && strings.HasPrefix(kind, before) {
			return true
		}
	}
	return len(wanted) == 0
}

func writeEntry(w io.Writer, e journal.Entry) error {
	by := fmt.Sprintf("uid %d", e.Who.UID)
	if e.Who.SudoUser != "" {
		by = e.Who.SudoUser + " as " + by
	}
	if from, _, ok := strings.Cut(e.Who.SSH, " "); ok {
		by += " from " + from
	}
	_, err := fmt.Fprintf(w, "%d %s %s, %s: %s\n", e.Seq, e.Time.Format(time.RFC3339), printable(e.Kind), printable(by), printable(string(e.Data)))
	return err
}

// headView says where a journal ends.
type headView struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time,omitzero"`
	Hash string    `json:"hash"`
	Size int64     `json:"size"`
	Torn int64     `json:"torn"`
}

func writeHead(c *cli.Context, h journal.Head) error {
	return result(c, headView(h), func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%d entries, the last of %s\nsha256 %s\n", h.Seq, h.Time.Format(time.RFC3339), h.Hash)
		if h.Torn > 0 {
			logger(c).Warn(fmt.Sprintf("%d bytes of a last line were never finished; the next entry cuts them off", h.Torn))
		}
		return err
	})
}

func auditVerify() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "find any change of the record", ArgsUsage: "[FILE]",
		Description: `Of this host's journal, or of a copy. Exit status 5: it was changed, cut or reordered.`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "checkpoint", Usage: "`FILE` that audit checkpoint wrote: the record must go through it"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usage("%s takes one file", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			head, err := s.VerifyAudit(c.Args().First(), c.StringSlice("checkpoint"))
			if err != nil {
				return err
			}
			return writeHead(c, head)
		},
	}
}

func auditCheckpoint() *cli.Command {
	return &cli.Command{
		Name: "checkpoint", Usage: "print where the record is now, to be signed and kept elsewhere",
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			p, err := s.Checkpoint()
			if err != nil {
				return err
			}
			_, err = c.App.Writer.Write(p.Text())
			return err
		},
	}
}

func auditCopy() *cli.Command {
	return &cli.Command{
		Name: "copy", Usage: "bring a second file up to the record", ArgsUsage: "FILE",
		Description: `What the copy lacks is appended. One that says something else is left as it is, and exit status 5
says so: one of the two was changed.`,
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			to, err := one(c, "file")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			head, err := s.CopyAudit(to)
			if err != nil {
				return err
			}
			return writeHead(c, head)
		},
	}
}

func auditSend() *cli.Command {
	return &cli.Command{
		Name: "send", Usage: "send the record to syslog", ArgsUsage: "IP:PORT|PATH",
		Description: `PATH is a socket such as /dev/log. The number of the last entry that was sent is printed: the next
time, it is --since.

   blackstart audit send 10.0.0.5:514 --tcp --since 12`,
		Flags: []cli.Flag{
			&cli.Uint64Flag{Name: "since", Usage: "only entries after number `N`"},
			&cli.BoolFlag{Name: "tcp", Usage: "over TCP instead of UDP"},
		},
		Action: func(c *cli.Context) error {
			to, err := one(c, "IP:PORT or socket")
			if err != nil {
				return err
			}
			network := "unixgram"
			if !strings.HasPrefix(to, "/") {
				if _, err := netip.ParseAddrPort(to); err != nil {
					return usage("%q is not IP:PORT, and no path", to)
				}
				if network = "udp"; c.Bool("tcp") {
					network = "tcp"
				}
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			upTo, err := s.SendAudit(c.Uint64("since"), network, to)
			fmt.Fprintln(c.App.Writer, upTo)
			return err
		},
	}
}
