package main

import (
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery"
)

func certsShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "say what certificates are, what will break, and when", ArgsUsage: "FILE|DIR|IP[:PORT]",
		Description: `FILE is PEM, DER, a Java key store, a PKCS #12 trust store, or keys and certificates of SSH; DIR a
ceremony or a kit; IP[:PORT] a TLS server. Exit status 1: something is broken now.

   blackstart certs show /etc/ssl/certs/ca-certificates.crt --brief
   blackstart certs show 10.0.0.7:2379 --sni etcd.example.org`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "sni", Usage: "`NAME` that the server is asked for"},
			&cli.BoolFlag{Name: "brief", Usage: "only what has findings"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			what, err := one(c, "file, directory or IP:PORT")
			if err != nil {
				return err
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			all, err := s.ShowCerts(c.Context, what, c.String("sni"))
			if err != nil {
				return err
			}
			if err := result(c, all, func(w io.Writer) error { return showItems(w, all, c.Bool("brief")) }); err != nil {
				return err
			}
			for _, i := range all {
				for _, f := range i.Findings {
					if f.Broken {
						return cli.Exit("", exitFailed)
					}
				}
			}
			return nil
		},
	}
}

func showItems(w io.Writer, all []certs.Item, brief bool) error {
	for _, i := range all {
		if brief && len(i.Findings) == 0 {
			continue
		}
		kind := i.Kind
		if i.CA {
			kind += ", authority"
		}
		fmt.Fprintf(w, "%s: %s\n", kind, printable(i.Subject))
		for _, row := range [][2]string{{"issuer", i.Issuer}, {"names", strings.Join(i.Names, " ")}, {"key", i.Key}, {"sha256", i.Fingerprint}} {
			if row[1] != "" {
				fmt.Fprintf(w, "  %-7s %s\n", row[0], printable(row[1]))
			}
		}
		if !i.NotAfter.IsZero() {
			fmt.Fprintf(w, "  valid   %s to %s\n", i.NotBefore.Format(time.RFC3339), i.NotAfter.Format(time.RFC3339))
		}
		for _, f := range i.Findings {
			word, at := "will be", ""
			if f.Broken {
				word = "BROKEN"
			} else if f.At.IsZero() {
				word = "mind"
			}
			if !f.At.IsZero() {
				at = " at " + f.At.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "  %s: %s%s\n", word, printable(f.Text), at)
		}
	}
	return nil
}

func certsCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "say who would accept an emergency certificate today", ArgsUsage: "CEREMONY|FILE",
		Description: `Looks for the root in the bundles of authorities of this host, or below each --root: a container's
root filesystem, the mount point of a disk. "unknown" is said where there is no bundle: programs
may bring their own. Exit status 1: somebody would not accept it, or it ends --within that time.
With --services, the services of the kit are looked into, each as it would be started.

   blackstart certs check ceremony
   blackstart certs check ceremony --services
   blackstart certs check ceremony --root /mnt/rootfs --within 2160h`,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "root", Usage: "`DIR` of a root filesystem", DefaultText: "/, without --services"},
			&cli.BoolFlag{Name: "services", Usage: "the services of the kit"},
			&cli.DurationFlag{Name: "within", Value: 30 * 24 * time.Hour, Usage: "`TIME` in which nothing may end"},
			outputFlag(),
		}, fromFlags()...),
		Action: func(c *cli.Context) error {
			s, ca, err := authority(c)
			if err != nil {
				return err
			}
			roots := c.StringSlice("root")
			if len(roots) == 0 && !c.Bool("services") {
				roots = []string{"/"}
			}
			said := struct {
				Accepting []recovery.Accepting `json:"accepting"`
				Ending    []certs.Item         `json:"ending"`
			}{Ending: []certs.Item{}}
			if said.Accepting, err = s.CheckRoots(roots, ca); err != nil {
				return err
			}
			if c.Bool("services") {
				if s, err = supplied(c, s); err != nil {
					return err
				}
				services, err := s.CheckServices(c.Context, ca)
				if err != nil {
					return err
				}
				said.Accepting = append(said.Accepting, services...)
			}
			items, err := s.ShowCerts(c.Context, c.Args().First(), "")
			if err != nil {
				return err
			}
			for _, i := range items {
				if !i.NotAfter.IsZero() && i.NotAfter.Before(s.Now().Add(c.Duration("within"))) {
					said.Ending = append(said.Ending, i)
				}
			}
			fine := len(said.Ending) == 0
			err = result(c, said, func(w io.Writer) error {
				rows := [][]string{{"WHERE", "ACCEPTS", "WHY"}}
				for _, a := range said.Accepting {
					rows = append(rows, []string{printable(a.What), string(a.Verdict), printable(a.Why)})
				}
				if err := table(w, rows); err != nil {
					return err
				}
				for _, i := range said.Ending {
					fmt.Fprintf(w, "%s ends %s\n", printable(i.Subject), i.NotAfter.Format(time.RFC3339))
				}
				return nil
			})
			for _, a := range said.Accepting {
				fine = fine && a.Verdict != certs.No
			}
			if err == nil && !fine {
				return cli.Exit("", exitFailed)
			}
			return err
		},
	}
}

// authority is the certificate that a command is about.
func authority(c *cli.Context) (s recovery.Site, _ *x509.Certificate, err error) {
	what, err := one(c, "ceremony or certificate")
	if err != nil {
		return s, nil, err
	}
	if s, err = bareSite(c); err != nil {
		return s, nil, err
	}
	ca, err := recovery.ReadAuthority(what)
	return s, ca, err
}
