package main

import (
	"net/netip"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery"
)

const fromCategory = "Kit and sources"

// fromFlags say which kit is used, and where what this host lacks comes from.
func fromFlags() []cli.Flag {
	flags := append([]cli.Flag{&cli.StringFlag{Name: "kit", Usage: "`DIR` of the kit", DefaultText: "DATA/kit"}}, kitFlags()...)
	flags = append(flags, sourceFlags()...)
	for _, f := range flags {
		switch f := f.(type) {
		case *cli.StringFlag:
			f.Category = fromCategory
		case *cli.StringSliceFlag:
			f.Category = fromCategory
		case *cli.BoolFlag:
			f.Category = fromCategory
		case *cli.IntFlag:
			f.Category = fromCategory
		case *cli.DurationFlag:
			f.Category = fromCategory
		}
	}
	return flags
}

// sourceFlags name sources besides those of the kit, and how they are reached.
func sourceFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "source", Usage: "`URL` to fetch from, before the kit's: file:, http(s):, oci:, s3:, ssh:; with #pin=sha256:HEX its key"},
		&cli.DurationFlag{Name: "wait", Usage: "go on for `TIME` while no source has what is missing: others may be fetching it"},
	}, reachFlags()...)
}

// reachFlags say how what a URL names is reached, and known.
func reachFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ca", Usage: "`FILE` of certificates (PEM) that the servers of URLs without a pin must go back to"},
		&cli.StringSliceFlag{Name: "pin", Usage: "`sha256:HEX` of a key that the servers of URLs without a pin may have"},
		&cli.StringSliceFlag{Name: "resolve", Usage: "`NAME=IP[,IP]`: names are never looked up, so each needs an address here or in the kit"},
		&cli.StringFlag{Name: "login", Usage: "`FILE` in .netrc form: users and passwords, or access keys and secrets"},
		&cli.StringSliceFlag{Name: "ssh-key", Usage: "private key `FILE` for ssh: sources, besides the agent's"},
	}
}

// from reads those flags. Of the kit it needs kitFlags as well.
func from(c *cli.Context, dir string) (recovery.From, error) {
	f := recovery.From{Kit: kitOptions(c, dir), Wait: c.Duration("wait")}
	f.Net.SSHKeys = c.StringSlice("ssh-key")
	for _, u := range c.StringSlice("source") {
		p, err := trusted(c, u)
		if err != nil {
			return f, err
		}
		f.Places = append(f.Places, p)
	}
	f.Net.Names = map[string][]netip.Addr{}
	for _, r := range c.StringSlice("resolve") {
		name, addrs, _ := strings.Cut(r, "=")
		for _, a := range strings.Split(addrs, ",") {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return f, usage("--resolve %s: want NAME=IP[,IP]", r)
			}
			f.Net.Names[name] = append(f.Net.Names[name], addr)
		}
	}
	if file := c.String("login"); file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return f, usage("reading --login: %w", err)
		}
		if f.Net.Login, err = fetch.ParseLogins(string(b)); err != nil {
			return f, usage("%s: %w", file, err)
		}
	}
	return f, nil
}

// trusted is the place of a URL, known by the pin behind it, as fetch serve prints
// it (URL#pin=sha256:HEX), or by --pin and --ca.
func trusted(c *cli.Context, url string) (fetch.Place, error) {
	p := fetch.Place{URL: url}
	if before, fragment, ok := strings.Cut(url, "#"); ok {
		pin, ok := strings.CutPrefix(fragment, "pin=")
		d, err := digest.Parse(pin)
		if !ok || err != nil {
			return p, usage("%s: what follows # is not pin=sha256:HEX", url)
		}
		p.URL, p.Pins = before, []digest.Digest{d}
		return p, nil
	}
	for _, v := range c.StringSlice("pin") {
		d, err := digest.Parse(v)
		if err != nil {
			return p, usage("--pin %s: want sha256:HEX", v)
		}
		p.Pins = append(p.Pins, d)
	}
	if file := c.String("ca"); file != "" {
		var err error
		if p.CA, err = os.ReadFile(file); err != nil {
			return p, usage("reading --ca: %w", err)
		}
	}
	return p, nil
}

// supplied is a site with those flags.
func supplied(c *cli.Context, s recovery.Site) (recovery.Site, error) {
	f, err := from(c, c.String("kit"))
	s.From = f
	return s, err
}
