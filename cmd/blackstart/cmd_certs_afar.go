package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery"
)

func certsShare() *cli.Command {
	return &cli.Command{
		Name: "share", Usage: "hand your share to a session on another host", ArgsUsage: "SHARE",
		Description: `Whoever is to open the authority makes a key for this one time there, and says its public half to you.
On your own machine, with the share that lies with the ceremony:

   ssh-keygen -t ed25519 -N '' -f /dev/shm/session                                     on that host
   blackstart certs share emergency.share.anna.age --identity anna.key --to session.pub -o anna.age
   blackstart certs open ceremony --identity /dev/shm/session --share anna.age         on that host

Whoever holds that key has your share from then on, as if you had opened it there: read the key back to them.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Required: true, Usage: "`KEY` of the session: a file, or the recipient itself"},
			&cli.StringSliceFlag{Name: "identity", Required: true, Usage: "`FILE` of your age identity or SSH private key"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`FILE` to write"},
			unguardedFlag(),
		},
		Action: func(c *cli.Context) error {
			file, err := one(c, "share")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			to, err := recipients(c.String("to"))
			if err != nil {
				return err
			}
			k := recovery.Keys{Identities: c.StringSlice("identity"), Password: password}
			out, err := s.ResealShare(file, certs.Lock{Recipients: to}, k, c.Bool("unguarded"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(c.String("o"), out, 0o600); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, c.String("o"))
			return err
		},
	}
}

func certsRevoke() *cli.Command {
	return &cli.Command{
		Name: "revoke", Usage: "make the list of certificates that count no more", ArgsUsage: "SERIAL...",
		Description: `The list holds those of the one before as well, and counts for a week. Nobody fetches it by themselves:
give it to the servers that are to heed it (nginx: ssl_crl). Certificates that live for hours need none.

   blackstart certs revoke 4f21c0 --previous crl.pem -o crl.pem`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "previous", Usage: "`FILE` of the list before"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`FILE` to write"},
			sessionFlag(),
		},
		Action: func(c *cli.Context) error {
			_, at, err := session(c)
			if err != nil {
				return err
			}
			var previous []byte
			if file := c.String("previous"); file != "" {
				if previous, err = os.ReadFile(file); err != nil {
					return usage("reading --previous: %w", err)
				}
			}
			crl, err := at.Revoke(c.Context, previous, c.Args().Slice())
			if err != nil {
				return err
			}
			if err := os.WriteFile(c.String("o"), crl, 0o644); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, c.String("o"))
			return err
		},
	}
}
