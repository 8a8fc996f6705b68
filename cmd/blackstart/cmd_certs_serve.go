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

func certsServe() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "give certificates to hosts of the recovery network",
		Description: `Asks the open session for each. A host comes with a one-time token (certs token, certs enroll), and
renews with the certificate it has. --acme is for clients that speak nothing else: they prove that
they answer on port 80 of the names they want, which are looked up nowhere but in --resolve; the
session's policy says whose names they are.

   blackstart certs serve --listen 10.0.0.2:8446 --service certs
   blackstart certs serve --listen 10.0.0.2:8446 --service certs --acme --policy issuing --resolve web.example.org=10.0.0.9
   certbot certonly --server https://10.0.0.2:8446/acme/directory ...`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Required: true, Usage: "`IP:PORT`"},
			&cli.StringFlag{Name: "service", Value: "certs", Usage: "`NAME` of this service in the policy, for its own certificate"},
			&cli.BoolFlag{Name: "acme", Usage: "speak ACME as well"},
			&cli.StringFlag{Name: "policy", Usage: "`FILE` of the session's policy, for --acme"},
			&cli.StringSliceFlag{Name: "resolve", Usage: "`NAME=IP` for --acme"},
			&cli.IntFlag{Name: "challenge-port", Value: 80, Usage: "`PORT` that an ACME client answers on"},
			sessionFlag(),
		},
		Action: func(c *cli.Context) error {
			s, at, err := session(c)
			if err != nil {
				return err
			}
			o := recovery.ServeCertsOptions{
				Session: at, Service: c.String("service"), ACME: c.Bool("acme"), Policy: c.String("policy"), Port: c.Int("challenge-port"),
				Names: map[string]netip.Addr{},
				Ready: func(a netip.AddrPort) error {
					_, err := fmt.Fprintln(c.App.Writer, a)
					return err
				},
			}
			if o.Listen, err = netip.ParseAddrPort(c.String("listen")); err != nil {
				return usage("--listen %s: want IP:PORT", c.String("listen"))
			}
			for _, v := range c.StringSlice("resolve") {
				name, addr, _ := strings.Cut(v, "=")
				ip, err := netip.ParseAddr(addr)
				if err != nil {
					return usage("--resolve %s: want NAME=IP", v)
				}
				o.Names[name] = ip
			}
			if o.ACME && o.Policy == "" {
				return usage("--acme takes the --policy of the session: an ACME client names no service")
			}
			return s.ServeCerts(c.Context, o)
		},
	}
}

func certsToken() *cli.Command {
	return &cli.Command{
		Name: "token", Usage: "make a one-time token for certs enroll",
		Description: `The token is good for these names, once, and holds the root's fingerprint: whoever has it needs
nothing else. It is printed on standard output, and kept nowhere.

   blackstart certs token --service etcd --dns etcd.example.org --ip 10.0.0.7 --within 1h >token`,
		Flags: append(requestFlags(),
			&cli.DurationFlag{Name: "within", Value: time.Hour, Usage: "`TIME` in which it has to be used"},
			sessionFlag()),
		Action: func(c *cli.Context) error {
			s, at, err := session(c)
			if err != nil {
				return err
			}
			r, err := request(c)
			if err != nil {
				return err
			}
			token, err := s.NewToken(c.Context, at, r, c.Duration("within"))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, token)
			return err
		},
	}
}

func certsEnroll() *cli.Command {
	return &cli.Command{
		Name: "enroll", Usage: "get this host its certificate, with a token or the one it has", ArgsUsage: "IP:PORT",
		Description: `The key is made here and never leaves. Without --token, the identity that lies in the directory is
renewed: the same names for a new key.

   blackstart certs enroll 10.0.0.2:8446 --token FILE -o /run/etcd/identity
   blackstart certs enroll 10.0.0.2:8446 -o /run/etcd/identity`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "token", Usage: "`FILE` with the token, - for standard input"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` of the identity"},
			keyFlag("the key to make"),
			&cli.IntFlag{Name: "uid", Usage: "`N` of the user that reads the key", Value: os.Getuid()},
			&cli.IntFlag{Name: "gid", Usage: "`N` of its group", Value: os.Getgid()},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			at, err := netip.ParseAddrPort(c.Args().First())
			if err != nil || c.NArg() != 1 {
				return usage("%s takes one IP:PORT", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			token := ""
			if file := c.String("token"); file != "" {
				if token, err = readToken(file); err != nil {
					return err
				}
			}
			id := certs.Identity{Dir: c.String("o"), UID: c.Int("uid"), GID: c.Int("gid")}
			out, err := s.Enroll(c.Context, at, token, certs.KeyType(c.String("key")), id)
			if err != nil {
				return err
			}
			return writeIssued(c, out, id.Dir)
		},
	}
}

// readToken reads a token from a file, never from the command line, which everybody can see.
func readToken(file string) (string, error) {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", usage("reading --token: %w", err)
		}
		defer func() { _ = f.Close() }() // only read from
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 4096))
	return strings.TrimSpace(string(b)), err
}
