package main

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

func identityFlag() cli.Flag {
	return &cli.StringFlag{Name: "identity", Required: true, Usage: "`DIR` that certs issue or certs enroll wrote"}
}

func auditReceive() *cli.Command {
	return &cli.Command{
		Name: "receive", Usage: "keep the records of peers",
		Description: `Over mutual TLS: a peer shows a certificate of the same authority, and speaks for the names and
addresses in it. What is here is only ever added to.

   blackstart audit receive --listen 10.0.0.2:8447 --identity id -o records
   blackstart audit verify records/10.0.0.7.journal`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Required: true, Usage: "`IP:PORT`"},
			identityFlag(),
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` of the records"},
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			o := recovery.ReceiveOptions{Identity: c.String("identity"), Dir: c.String("o"), Ready: func(a netip.AddrPort) error {
				_, err := fmt.Fprintln(c.App.Writer, a)
				return err
			}}
			if o.Listen, err = netip.ParseAddrPort(c.String("listen")); err != nil {
				return usage("--listen %s: want IP:PORT", c.String("listen"))
			}
			return s.ReceiveAudits(c.Context, o)
		},
	}
}

func auditPush() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "bring a peer's copy up to the record", ArgsUsage: "IP:PORT",
		Description: `Exit status 5: the peer holds something else, so one of the two was changed.

   blackstart audit push 10.0.0.2:8447 --identity id --origin 10.0.0.7`,
		Flags: []cli.Flag{
			identityFlag(),
			&cli.StringFlag{Name: "origin", Usage: "`NAME` or address in the certificate", DefaultText: "this host's name"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			peer, err := netip.ParseAddrPort(c.Args().First())
			if err != nil || c.NArg() != 1 {
				return usage("%s takes one IP:PORT", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			head, err := s.PushAudit(c.Context, peer, c.String("identity"), c.String("origin"))
			if err != nil {
				return err
			}
			return result(c, peerView{head.Seq, head.Hash}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s holds %d entries\nsha256 %s\n", peer, head.Seq, head.Hash)
				return err
			})
		},
	}
}

// peerView says what a peer holds.
type peerView struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}
