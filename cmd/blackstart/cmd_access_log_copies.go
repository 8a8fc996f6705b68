package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

func logCheckpoint() *cli.Command {
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

func logCopy() *cli.Command {
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

func logSend() *cli.Command {
	return &cli.Command{
		Name: "send", Usage: "send the record to syslog", ArgsUsage: "IP:PORT|PATH",
		Description: `PATH is a socket such as /dev/log. The number of the last entry that was sent is printed: the next
time, it is --since.

   blackstart access log send 10.0.0.5:514 --tcp --since 12`,
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

func identityFlag() cli.Flag {
	return &cli.StringFlag{Name: "identity", Required: true, Usage: "`DIR` that certs issue or certs enroll wrote"}
}

func logReceive() *cli.Command {
	return &cli.Command{
		Name: "receive", Usage: "keep the records of peers",
		Description: `Over mutual TLS: a peer shows a certificate of the same authority, and speaks for the names and
addresses in it. What is here is only ever added to.

   blackstart access log receive --listen 10.0.0.2:8447 --identity id -o records
   blackstart access log --verify records/10.0.0.7.journal`,
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

func logPush() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "bring a peer's copy up to the record", ArgsUsage: "IP:PORT",
		Description: `Exit status 5: the peer holds something else, so one of the two was changed.

   blackstart access log push 10.0.0.2:8447 --identity id --origin 10.0.0.7`,
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
