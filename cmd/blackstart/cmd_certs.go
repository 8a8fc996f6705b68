package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery"
)

func cmdCerts() *cli.Command {
	return &cli.Command{
		Name: "certs", Usage: "certificates when the issuer is down",
		Description: `In peacetime an authority is made that can certify little, and its key is split between people:

   blackstart certs init --name Example --dns example.org --ip 10.0.0.0/8 \
       --person anna=anna.pub --person bo=bo.pub --person cy=cy.pub --threshold 2 -o ceremony
   blackstart certs trust add ceremony

In an outage two of them open it for two hours, and services get certificates:

   blackstart certs open ceremony --identity anna.key --identity bo.key --for 2h
   blackstart certs issue --service etcd --dns etcd.example.org --ip 10.0.0.7 -o identity

The .age files of a ceremony are what age(1) reads. Keys on PKCS#11 tokens are not supported.`,
		Subcommands: []*cli.Command{
			certsInit(), certsOpen(), certsIssue(), certsSSH(), certsStatus(), certsClose(), certsServe(), certsToken(), certsEnroll(), certsShare(), certsRevoke(),
			certsShow(), certsCheck(), certsTrust(),
		},
		HideHelpCommand: true,
	}
}

func unguardedFlag() cli.Flag {
	return &cli.BoolFlag{Name: "unguarded", Usage: "go on where keys cannot be kept out of swap and core dumps"}
}

func keyFlag(of string) cli.Flag {
	return &cli.StringFlag{Name: "key", Value: string(certs.P256), Usage: "`KIND` of " + of + ": p256 or ed25519"}
}

func certsInit() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make the emergency authority, before the outage",
		Description: `On a machine without a network. The root signs an intermediate that may certify the names below and
no others, and no further authorities; authorities for SSH come with it. What a service must never
be given does not belong into the names: clients check them, whatever the keys are used for.

The keys are sealed, to one of:
   --person NAME=KEY ... --threshold K    shares, of which any K open it; each sealed to its person
   --recipient KEY ...                    each alone opens it
   neither                                a passphrase, asked on the terminal

KEY is a file, such as id_ed25519.pub or one with age1..., or the recipient itself. The directory is
made, and holds no secret in the clear: copy it to every host, or into the kit.

   blackstart certs init --name Example --dns example.org --ip 10.0.0.0/8 --uri example.org \
       --person anna=anna.pub --person bo=bo.pub --threshold 2 -o ceremony

The next intermediate, before this one is over, comes from the same root, which hosts trust already:

   blackstart certs init --root ceremony --identity anna.key --identity bo.key --name Example ... -o ceremony-2`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "name", Required: true, Usage: "`NAME` of the organisation"},
			&cli.StringSliceFlag{Name: "dns", Usage: "`DOMAIN`, with all below it"},
			&cli.StringSliceFlag{Name: "ip", Usage: "`IP/BITS` of a network"},
			&cli.StringSliceFlag{Name: "uri", Usage: "`HOST` of URIs, such as a SPIFFE trust domain; .HOST for all below"},
			&cli.StringSliceFlag{Name: "person", Usage: "`NAME=KEY` of somebody with a share"},
			&cli.IntFlag{Name: "threshold", Usage: "`K` shares open it"},
			&cli.StringSliceFlag{Name: "recipient", Usage: "`KEY` of somebody who opens it alone"},
			keyFlag("the authority's keys"),
			&cli.DurationFlag{Name: "life", Usage: "`TIME` that the intermediate lives", DefaultText: "2 years"},
			&cli.DurationFlag{Name: "root-life", Usage: "`TIME` that the root lives", DefaultText: "10 years"},
			&cli.StringFlag{Name: "root", Usage: "`CEREMONY` whose root signs this one as well"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` to make"},
			unguardedFlag(), outputFlag(),
		}, keyFlags()...),
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			o := recovery.InitOptions{Dir: c.String("o"), Root: c.String("root"), Keys: keys(c), Unguarded: c.Bool("unguarded")}
			o.Name, o.Key, o.Life, o.RootLife = c.String("name"), certs.KeyType(c.String("key")), c.Duration("life"), c.Duration("root-life")
			if o.Scope, err = scope(c); err != nil {
				return err
			}
			if o.Custody, err = custody(c); err != nil {
				return err
			}
			if o.Root == "" {
				o.RootCustody = o.Custody
			}
			made, err := s.InitCerts(o)
			if err != nil {
				return err
			}
			k, people := made.Holders()
			said := struct {
				Name      string         `json:"name"`
				Root      string         `json:"root"` // SHA-256 in hexadecimal
				Until     time.Time      `json:"until"`
				Threshold int            `json:"threshold,omitempty"`
				People    []certs.Holder `json:"people,omitempty"`
			}{made.Name, certs.Fingerprint(made.Root), made.Intermediate.NotAfter, k, people}
			return result(c, said, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s\nroot sha256 %s\nissues until %s\n", made.Name, said.Root, said.Until.Format(time.RFC3339))
				if k > 0 {
					_, err = fmt.Fprintf(w, "opened by any %d of %d people\n", k, len(people))
				}
				s.Log.Info("plant it now, for hosts that do not trust it will not later: blackstart certs trust add " + c.String("o"))
				return err
			})
		},
	}
}

func scope(c *cli.Context) (s certs.Scope, err error) {
	s.DNS, s.URI = c.StringSlice("dns"), c.StringSlice("uri")
	for _, n := range c.StringSlice("ip") {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return s, usage("--ip %s: want IP/BITS", n)
		}
		s.IP = append(s.IP, p)
	}
	return s, nil
}

// custody reads who keeps the keys.
func custody(c *cli.Context) (k certs.Custody, err error) {
	k.Threshold = c.Int("threshold")
	people, alone := c.StringSlice("person"), c.StringSlice("recipient")
	if len(people) > 0 && (len(alone) > 0 || k.Threshold == 0) {
		return k, usage("%s takes --person with --threshold, and no --recipient then", c.Command.FullName())
	}
	for _, v := range people {
		name, key, ok := strings.Cut(v, "=")
		if !ok {
			return k, usage("--person %s: want NAME=KEY", v)
		}
		p := certs.Person{Name: name}
		if p.Recipients, err = recipients(key); err != nil {
			return k, err
		}
		k.People = append(k.People, p)
	}
	for _, v := range alone {
		all, err := recipients(v)
		if err != nil {
			return k, err
		}
		k.Recipients = append(k.Recipients, all...)
	}
	if len(people)+len(alone) > 0 {
		return k, nil
	}
	if k.Passphrase, err = password("Passphrase: "); err != nil {
		return k, err
	}
	again, err := password("Again: ")
	if err == nil && string(again) != string(k.Passphrase) {
		err = usage("the passphrases differ")
	}
	return k, err
}

// recipients are those of a file, one a line, or the one that stands there.
func recipients(key string) ([]string, error) {
	if strings.HasPrefix(key, "age1") || strings.HasPrefix(key, "ssh-") {
		return []string{key}, nil
	}
	b, err := os.ReadFile(key)
	if err != nil {
		return nil, usage("reading a recipient: %w", err)
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	if len(all) == 0 {
		return nil, usage("%s holds no recipient", key)
	}
	return all, nil
}
