package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

func accessLog() *cli.Command {
	return &cli.Command{
		Name: "log", Usage: "the record of what was done on this host", ArgsUsage: "[FILE]",
		Description: `Every command that changes something has two lines: who, from where, what and why, and whether it was
allowed; then what became of it. Certificates, approvals and overrides have lines of their own.

DATA/journal.jsonl, or a copy of it, is one JSON object a line, each with the SHA-256 of the line before: what
is changed, taken out or put in shows. That lines are cut off at the end shows by a checkpoint that lies
elsewhere. Whoever is root can write another record; the copies and checkpoints that they cannot reach remain.
The chain is checked while it is read: what stands before a damaged line is printed. Exit status 5: it was
changed, cut or reordered.

   blackstart access log --follow
   blackstart access log --kind command-denied --output json | jq .data.command
   blackstart access log checkpoint >point; ssh-keygen -Y sign -n blackstart-audit -f KEY point
   blackstart access log --verify --checkpoint point --signers signers
   blackstart access log keep file:/mnt/usb/journal.jsonl`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "verify", Usage: "check all of it, and say only where it ends"},
			&cli.StringSliceFlag{Name: "checkpoint", Usage: "`FILE` that access log checkpoint wrote: the record must go through it"},
			&cli.StringFlag{Name: "signers", Usage: "`FILE` in the form of allowed_signers: one of them must have signed each checkpoint, in FILE.sig"},
			&cli.Uint64Flag{Name: "since", Usage: "only entries after number `N`"},
			&cli.StringSliceFlag{Name: "kind", Usage: "only entries of this `KIND`, or KIND*"},
			&cli.BoolFlag{Name: "follow", Usage: "go on with those that come"},
			&cli.StringFlag{Name: "output", Value: "text", Usage: "`FORMAT`: text, or json for one object a line"},
		},
		Subcommands:     []*cli.Command{logCheckpoint(), logKeep(), logForget(), logCopies(), logCopy(), logSend(), logPush(), logReceive()},
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if c.NArg() > 1 {
				return usage("%s takes one file", c.Command.FullName())
			}
			if !c.Bool("verify") && (c.IsSet("checkpoint") || c.IsSet("signers")) {
				return usage("--checkpoint and --signers go with --verify")
			}
			if c.Bool("verify") && (c.IsSet("since") || c.IsSet("kind") || c.Bool("follow")) {
				return usage("--verify looks at all of it: leave --since, --kind and --follow out")
			}
			format := c.String("output")
			if format != "text" && format != "json" {
				return usage("--output %q is not text or json", format)
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if c.Bool("verify") {
				head, err := s.VerifyAudit(c.Args().First(), c.StringSlice("checkpoint"), c.String("signers"))
				if err != nil {
					return err
				}
				return writeHead(c, head)
			}
			lines := json.NewEncoder(c.App.Writer)
			return s.Audit(c.Context, c.Args().First(), c.Uint64("since"), c.Bool("follow"), func(e journal.Entry) error {
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
