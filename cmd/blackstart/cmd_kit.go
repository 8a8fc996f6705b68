package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

func cmdKit() *cli.Command {
	return &cli.Command{
		Name: "kit", Usage: "everything a recovery needs, captured before the outage, signed, on every host",
		Description: `A kit is an OCI image layout: a directory that skopeo, a registry or a USB stick can
carry. Build and sign it in peacetime, put it on every host as /var/lib/blackstart/kit, and
the keys you trust into /var/lib/blackstart/trust:

   blackstart kit build -f kit.yaml -o kit
   blackstart kit sign kit --key ~/.ssh/id_ed25519
   blackstart kit verify kit --trust allowed_signers --threshold 2
   blackstart kit audit; blackstart kit repair
   blackstart run --image kit:etcd --detach`,
		Subcommands:     []*cli.Command{kitBuild(), kitSign(), kitVerify(), kitShow(), kitDiff(), kitAudit(), kitRepair(), kitPush(), kitPull(), kitCollect()},
		HideHelpCommand: true,
	}
}

// kitFlags say which kit is used and what is asked of it.
func kitFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "kit-name", Usage: "`NAME` of the kit, where the layout holds several"},
		&cli.StringFlag{Name: "trust", Usage: "`FILE` with the keys that may sign: minisign's, and lines of ssh-keygen's allowed_signers", DefaultText: "DATA/trust"},
		&cli.IntFlag{Name: "threshold", Value: 1, Usage: "`K` different trusted keys must have signed"},
		&cli.BoolFlag{Name: "accept-stale", Usage: "use a kit that is past its fresh_until; this goes into the journal"},
		&cli.BoolFlag{Name: "accept-rollback", Usage: "use a kit older than one seen here; this goes into the journal"},
	}
}

func kitOptions(c *cli.Context, dir string) recovery.KitOptions {
	return recovery.KitOptions{
		Dir: dir, Name: c.String("kit-name"), Trust: c.String("trust"), Threshold: c.Int("threshold"),
		AcceptStale: c.Bool("accept-stale"), AcceptRollback: c.Bool("accept-rollback"),
	}
}

// kitArg is the kit's directory, which may be left out.
func kitArg(c *cli.Context) (string, error) {
	if c.NArg() > 1 {
		return "", usage("%s takes one kit", c.Command.FullName())
	}
	return c.Args().First(), nil
}

func kitBuild() *cli.Command {
	return &cli.Command{
		Name: "build", Usage: "capture what a kit.yaml names",
		Description: `A kit.yaml, with paths relative to it:

   name: site-a
   fresh_for: 30d
   artifacts:
     - {name: etcdctl, file: bin/etcdctl}
     - {name: etcd, image: "oci:images/etcd:v3.4"}      or docker-archive:FILE, containerd://NAMESPACE/REF
   services:
     - {name: etcd, owner: storage-oncall, image: etcd, spec: services/etcd.yaml}
   sources:
     - {name: seed, url: "https://10.0.0.9:8443/", trust: seed-key}
   trust:
     - {name: seed-key, spki: "sha256:..."}              or ca: FILE.pem
   names:
     - {name: registry.example, addresses: [10.0.0.7]}
   runbooks: [runbooks/etcd.yaml]
   policy: [policy/access]
   contacts:
     - {name: storage-oncall, uri: "sip:storage-oncall@10.0.0.9"}
   include: [collected/kit.yaml]                         artifacts and services that kit collect gathered

What the directory holds already is not captured again. Until the new kit is whole, the old
one stays. The same input, --epoch and --signed-at give the same bytes.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "f", Value: "kit.yaml", Usage: "`FILE` to build from"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` of the kit"},
			&cli.Uint64Flag{Name: "epoch", Usage: "`N` of this kit", DefaultText: "one more than the kit that is there"},
			&cli.TimestampFlag{Name: "signed-at", Layout: time.RFC3339, Usage: "`TIME` written into the kit", DefaultText: "now"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			var at time.Time
			if t := c.Timestamp("signed-at"); t != nil {
				at = *t
			}
			built, err := s.BuildKit(c.Context, c.String("f"), c.String("o"), c.Uint64("epoch"), at)
			if err != nil {
				return err
			}
			d := built.Document
			said := struct {
				Name    string `json:"name"`
				Epoch   uint64 `json:"epoch"`
				Digest  string `json:"digest"`
				Frames  int    `json:"frames"`
				Written int    `json:"written"`
			}{d.Name, d.Epoch, built.Digest.String(), built.Frames, built.Written}
			return result(c, said, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s, epoch %d, %s\n%d artifacts, %d services; %d frames, %d of them new\n",
					d.Name, d.Epoch, built.Digest, len(d.Artifacts), len(d.Services), built.Frames, built.Written)
				if built.Signed == 0 {
					s.Log.Info("the kit is not signed: blackstart kit sign " + c.String("o") + " --key FILE")
				}
				return err
			})
		},
	}
}

func kitSign() *cli.Command {
	return &cli.Command{
		Name: "sign", Usage: "add a signature to a kit", ArgsUsage: "[DIR]",
		Description: `FILE is a minisign secret key, an SSH private key, or the .pub of a key that the SSH
agent or a FIDO device holds. Each who signs adds one; stock minisign -V and
ssh-keygen -Y verify -n blackstart-kit accept them as well.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Required: true, Usage: "`FILE` of the key"},
			&cli.StringFlag{Name: "kit-name", Usage: "`NAME` of the kit, where the layout holds several"},
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			dir, err := kitArg(c)
			if err != nil {
				return err
			}
			signed, err := s.SignKit(c.Context, recovery.KitOptions{Dir: dir, Name: c.String("kit-name")},
				kit.KeyFile{Path: c.String("key"), Agent: os.Getenv("SSH_AUTH_SOCK"), Password: password})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s, signatures: %d\n", signed.Digest(), len(signed.Signatures))
			return err
		},
	}
}

// password asks on the terminal.
func password(prompt string) ([]byte, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, usage("the key has a password, and standard input is no terminal to ask for it on")
	}
	fmt.Fprint(os.Stderr, prompt)
	defer fmt.Fprintln(os.Stderr)
	return term.ReadPassword(int(os.Stdin.Fd()))
}

func kitVerify() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "say whether a kit may be used, and whether it is whole", ArgsUsage: "[DIR]",
		Description: `Signatures over the exact bytes, the epoch against the highest seen on this host, its
age, and every frame against its digest. Exit status 5: signatures or digests are wrong;
6: stale or rolled back.`,
		Flags: append(kitFlags(), outputFlag()),
		Action: func(c *cli.Context) error {
			s, err := site(c)
			if err != nil {
				return err
			}
			dir, err := kitArg(c)
			if err != nil {
				return err
			}
			v, err := s.VerifyKit(c.Context, kitOptions(c, dir))
			if err != nil {
				return err
			}
			return result(c, v, func(w io.Writer) error { return writeVerified(w, v) })
		},
	}
}

func writeVerified(w io.Writer, v recovery.Verified) error {
	by := make([]string, len(v.Signers))
	for i, who := range v.Signers {
		by[i] = printable(who.Name) + " (" + who.ID + ")"
	}
	_, err := fmt.Fprintf(w, "%s, epoch %d, %s\nmanifest %s\nsigned by %s\nwhole: %d frames\n", v.Name, v.Epoch, v.Digest, v.Manifest, strings.Join(by, ", "), v.Frames)
	return err
}

func kitShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print what a kit holds, whoever signed it", ArgsUsage: "[DIR]",
		Flags: []cli.Flag{&cli.StringFlag{Name: "kit-name", Usage: "`NAME` of the kit, where the layout holds several"}, outputFlag()},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			dir, err := kitArg(c)
			if err != nil {
				return err
			}
			k, err := s.OpenKit(recovery.KitOptions{Dir: dir, Name: c.String("kit-name"), Unverified: true})
			if err != nil {
				return err
			}
			defer func() { _ = k.Close() }() // only read from
			return result(c, k.Document, func(w io.Writer) error { return showKit(w, k.Document, len(k.Signed.Signatures)) })
		},
	}
}

func showKit(w io.Writer, d *kit.Document, signatures int) error {
	fresh := "never stale"
	if !d.FreshUntil.IsZero() {
		fresh = "fresh until " + d.FreshUntil.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s, epoch %d, made %s, %s, %d signatures (kit verify checks them)\n", d.Name, d.Epoch, d.SignedAt.Format(time.RFC3339), fresh, signatures)
	rows := [][]string{{"\nARTIFACT", "KIND", "SIZE", "CAPTURED", "DIGEST"}}
	for _, a := range d.Artifacts {
		rows = append(rows, []string{a.Name, string(a.Kind), size(uint64(a.Size)), ago(a.CapturedAt), a.Digest.Encoded()[:12]})
	}
	if len(d.Artifacts) > 0 {
		if err := table(w, rows); err != nil {
			return err
		}
	}
	rows = [][]string{{"\nSERVICE", "IMAGE", "OWNER", "MANAGED BY"}}
	for _, v := range d.Services {
		rows = append(rows, []string{v.Name, v.Image, printable(v.Owner), printable(v.ManagedBy)})
	}
	if len(d.Services) > 0 {
		if err := table(w, rows); err != nil {
			return err
		}
	}
	rows = [][]string{{"\nSOURCE", "URL"}}
	for _, v := range d.Sources {
		rows = append(rows, []string{v.Name, printable(v.URL)})
	}
	if len(d.Sources) > 0 {
		if err := table(w, rows); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		what string
		n    int
	}{{"capabilities", len(d.Capabilities)}, {"names", len(d.Names)}, {"trust anchors", len(d.Trust)}, {"policies", len(d.Policy)}, {"runbooks", len(d.Runbooks)}, {"revoked", len(d.Revoked)}} {
		if part.n > 0 {
			fmt.Fprintf(w, "\n%s: %d", part.what, part.n)
		}
	}
	for _, v := range d.Contacts {
		fmt.Fprintf(w, "\ncontact %s: %s", v.Name, printable(v.URI))
	}
	_, err := fmt.Fprintln(w)
	return err
}

func kitDiff() *cli.Command {
	return &cli.Command{
		Name: "diff", Usage: "say what differs between two kits", ArgsUsage: "OLD NEW",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usage("%s takes two kits", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			changes, err := s.DiffKits(c.Args().Get(0), c.Args().Get(1))
			if err != nil {
				return err
			}
			return result(c, changes, func(w io.Writer) error {
				for _, ch := range changes {
					line := ch.Kind + " " + ch.Section + " " + printable(ch.Name)
					switch {
					case ch.From != "" && ch.To != "":
						line += ": " + printable(ch.From) + " -> " + printable(ch.To)
					case ch.From+ch.To != "":
						line += ": " + printable(ch.From+ch.To)
					}
					if _, err := fmt.Fprintln(w, line); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}
