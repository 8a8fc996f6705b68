package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/access"
)

func accessRequest() *cli.Command {
	return &cli.Command{
		Name: "request", Usage: "ask for what needs approval: break the glass",
		Description: `Writes a request, and prints its path. Those who approve read it on their own machines, and sign:

   blackstart access request --reason "etcd lost its quorum" --verb run --service etcd --for 30m
   ssh-keygen -Y sign -n blackstart-access -f ~/.ssh/id_ed25519 request.json      on their machines
   blackstart access approve request.json request.json.sig`,
		Flags: accessFlags(
			&cli.StringFlag{Name: "reason", Required: true, Usage: "`TEXT` for those who approve, and for the record"},
			&cli.StringSliceFlag{Name: "verb", Required: true, Usage: "`COMMAND` that is asked for"},
			&cli.StringSliceFlag{Name: "service", Required: true, Usage: "`NAME` of the service"},
			&cli.DurationFlag{Name: "for", Value: time.Hour, Usage: "`TIME` from now; the policy may allow less"},
		),
		Action: func(c *cli.Context) error {
			s, a, err := openAccess(c)
			if err != nil {
				return err
			}
			who, err := a.Subject()
			if err != nil {
				return err
			}
			r, path, err := a.Request(who, c.StringSlice("verb"), c.StringSlice("service"), c.String("reason"), c.Duration("for"))
			if err != nil {
				return err
			}
			said := struct {
				ID   string `json:"id"`
				Path string `json:"path"`
			}{r.ID, path}
			return result(c, said, func(w io.Writer) error {
				for _, v := range r.Verbs {
					for _, svc := range r.Services {
						d := a.Decide(who, v, svc).Decision
						s.Log.Info(fmt.Sprintf("%s %s: %s", v, svc, d))
					}
				}
				s.Log.Info("to be signed with: ssh-keygen -Y sign -n " + access.Namespace + " -f KEY request.json; then: blackstart access approve")
				_, err := fmt.Fprintln(w, path)
				return err
			})
		},
	}
}

func writeGrant(w io.Writer, v recovery.GrantView) error {
	state := printable(v.Why)
	if v.Open {
		state = "open until " + v.Until.UTC().Format(time.RFC3339)
	}
	_, err := fmt.Fprintf(w, "%s %s: %s on %s: %s\n", v.ID, printable(v.Who.User), strings.Join(v.Verbs, ","), strings.Join(v.Services, ","), state)
	return err
}

func accessApprove() *cli.Command {
	return &cli.Command{
		Name: "approve", Usage: "bring signatures to a request", ArgsUsage: "REQUEST SIGNATURE...",
		Description: `On the host that the request names. A signature that counts for nothing is refused, with exit
status 4: of somebody else, of other bytes, of whoever asks.`,
		Flags: accessFlags(),
		Action: func(c *cli.Context) error {
			if c.NArg() < 2 {
				return usage("%s takes a request and signatures of it", c.Command.FullName())
			}
			_, a, err := openAccess(c)
			if err != nil {
				return err
			}
			v, err := a.Approve(c.Args().First(), c.Args().Tail())
			if err != nil {
				return err
			}
			return result(c, v, func(w io.Writer) error { return writeGrant(w, v) })
		},
	}
}

func accessGrants() *cli.Command {
	return &cli.Command{
		Name: "grants", Usage: "list the requests of this host, and how far they are",
		Flags: accessFlags(&cli.BoolFlag{Name: "open", Usage: "only those that are open now"}),
		Action: func(c *cli.Context) error {
			_, a, err := openAccess(c)
			if err != nil {
				return err
			}
			all := []recovery.GrantView{}
			for _, g := range a.Grants {
				if v := a.View(g); v.Open || !c.Bool("open") {
					all = append(all, v)
				}
			}
			return result(c, all, func(w io.Writer) error {
				for _, v := range all {
					if err := writeGrant(w, v); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
