package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/names"
)

func cmdDNS() *cli.Command {
	return &cli.Command{
		Name: "dns", Usage: "names that answer when nothing else does",
		Description: `Before an outage, names are frozen; in one, they are served from that, and this host is pointed at it:

   blackstart dns freeze --names names.txt --resolver 10.0.0.53 --resolver 10.1.0.53 -o frozen.zone
   blackstart dns serve --zone frozen.zone
   blackstart dns serve --kit /srv/kit --mode lkg --upstream 10.0.0.53 --listen 127.0.0.1:53
   blackstart dns takeover 127.0.0.1, and at the end dns release`,
		Subcommands:     []*cli.Command{dnsFreeze(), dnsServe(), dnsTakeover(), dnsRelease(), dnsVIP(), dnsQuery()},
		HideHelpCommand: true,
	}
}

// server reads IP or IP:PORT.
func server(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(a, 53), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, usage("%q is not IP or IP:PORT", s)
	}
	return a, nil
}

func servers(list []string) ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, s := range list {
		a, err := server(s)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func dnsFreeze() *cli.Command {
	return &cli.Command{
		Name: "freeze", Usage: "write what resolvers say now into a zone file",
		Description: `Every name is asked for with all types, at each resolver, and what it leads to as well. Where the
resolvers differ, that is said. The result is a zone file for dns serve, a kit, or any name server.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "names", Usage: "`FILE` with a name on each line, - for standard input"},
			&cli.StringSliceFlag{Name: "resolver", Usage: "`IP[:PORT]` to ask"},
			&cli.StringFlag{Name: "zone", Usage: "get the whole zone `NAME`, with --axfr"},
			&cli.StringFlag{Name: "axfr", Usage: "`IP[:PORT]` of a server of the zone"},
			&cli.StringFlag{Name: "tsig", Usage: "`FILE` of the key, as tsig-keygen writes it"},
			&cli.StringFlag{Name: "o", Required: true, Usage: "`FILE` to write"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			o, err := freezeOptions(c)
			if err != nil {
				return err
			}
			f, err := s.Freeze(c.Context, o, c.String("o"))
			if err != nil {
				return err
			}
			return result(c, f, func(w io.Writer) error {
				for _, d := range f.Disagreements {
					s.Log.Warn("the resolvers differ: " + d)
				}
				for _, e := range f.Failures {
					s.Log.Warn(e)
				}
				for _, a := range f.Absent {
					s.Log.Warn("nobody knows " + a)
				}
				_, err := fmt.Fprintf(w, "%s: %d names\n", c.String("o"), f.Names)
				return err
			})
		},
	}
}

func freezeOptions(c *cli.Context) (o recovery.FreezeOptions, err error) {
	if o.Resolvers, err = servers(c.StringSlice("resolver")); err != nil {
		return o, err
	}
	if o.Zone = c.String("zone"); o.Zone != "" {
		if o.Server, err = server(c.String("axfr")); err != nil {
			return o, err
		}
		if file := c.String("tsig"); file != "" {
			f, err := os.Open(file)
			if err != nil {
				return o, usage("reading --tsig: %w", err)
			}
			key, err := names.ParseKey(f)
			if err = errors.Join(err, f.Close()); err != nil {
				return o, err
			}
			o.Key = &key
		}
		return o, nil
	}
	if len(o.Resolvers) == 0 || !c.IsSet("names") {
		return o, usage("%s takes --names and --resolver, or --zone and --axfr", c.Command.FullName())
	}
	in := os.Stdin
	if file := c.String("names"); file != "-" {
		if in, err = os.Open(file); err != nil {
			return o, usage("reading --names: %w", err)
		}
		defer func() { err = errors.Join(err, in.Close()) }()
	}
	o.Names, err = names.ParseNames(in)
	return o, err
}

func dnsServe() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "answer names from frozen data",
		Description: `--mode auth answers from the data alone. lkg (last known good) asks upstream first, and answers from
the data when that is silent, broken, or denies a name that the data knows. pin answers what the
data knows from it, and asks upstream for the rest. Overrides go before all.
A file that changes is read again, as on SIGHUP; one that cannot be read leaves the old data in place.`,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "listen", Usage: "`IP:PORT` for UDP and TCP", DefaultText: "127.0.0.1:53"},
			&cli.StringSliceFlag{Name: "zone", Usage: "zone `FILE`, or NAME=FILE where it has no SOA record"},
			&cli.StringSliceFlag{Name: "hosts", Usage: "hosts `FILE`"},
			&cli.StringFlag{Name: "kit", Usage: "the names of the kit in `DIR`"},
			&cli.StringFlag{Name: "mode", Value: "auth", Usage: "`MODE`: auth, lkg or pin"},
			&cli.StringSliceFlag{Name: "upstream", Usage: "`IP[:PORT]` of a resolver"},
			&cli.StringSliceFlag{Name: "override", Usage: "`NAME=IP[,IP]`"},
			&cli.StringSliceFlag{Name: "allow", Usage: "`CIDR` of clients that upstream is asked for", DefaultText: "loopback and private addresses"},
			&cli.IntFlag{Name: "rate", Usage: "`N` answers a second for each client network", DefaultText: "1000, no limit on loopback"},
			&cli.StringFlag{Name: "metrics", Usage: "`IP:PORT` for Prometheus"},
			&cli.StringFlag{Name: "missing", Usage: "write the names that could not be answered to `FILE`, for the next freeze"},
			&cli.IntFlag{Name: "log-every", Usage: "log every `N`th answer"},
		}, kitFlags()...),
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			s.From.Kit = kitOptions(c, c.String("kit"))
			o, err := dnsOptions(c, s)
			if err != nil {
				return err
			}
			o.Again = make(chan os.Signal, 1)
			signal.Notify(o.Again, unix.SIGHUP)
			return s.ServeDNS(c.Context, o)
		},
	}
}

func dnsOptions(c *cli.Context, s recovery.Site) (o recovery.DNSOptions, err error) {
	o.Data = recovery.NamesData{Zones: c.StringSlice("zone"), Hosts: c.StringSlice("hosts"), Kit: c.IsSet("kit"), Overrides: map[string][]netip.Addr{}}
	o.Metrics, o.Missing = c.String("metrics"), c.String("missing")
	for _, v := range c.StringSlice("override") {
		name, addrs, _ := strings.Cut(v, "=")
		for _, a := range strings.Split(addrs, ",") {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return o, usage("--override %s: want NAME=IP[,IP]", v)
			}
			o.Data.Overrides[name] = append(o.Data.Overrides[name], addr)
		}
	}
	if !o.Data.Kit && len(o.Data.Zones)+len(o.Data.Hosts) == 0 {
		return o, usage("%s takes --zone, --hosts or --kit", c.Command.FullName())
	}
	if o.Server.Mode, err = names.ParseMode(c.String("mode")); err != nil {
		return o, usage("--mode: %w", err)
	}
	if o.Server.Upstreams, err = servers(c.StringSlice("upstream")); err != nil {
		return o, err
	}
	if (o.Server.Mode == names.Auth) != (len(o.Server.Upstreams) == 0) {
		return o, usage("--mode lkg and pin take an --upstream, and auth has none")
	}
	listen := c.StringSlice("listen")
	if len(listen) == 0 {
		listen = []string{"127.0.0.1:53"}
	}
	for _, l := range listen {
		a, err := netip.ParseAddrPort(l)
		if err != nil {
			return o, usage("--listen %s: want IP:PORT", l)
		}
		o.Server.Listen = append(o.Server.Listen, a)
	}
	for _, p := range c.StringSlice("allow") {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return o, usage("--allow %s: want IP/BITS", p)
		}
		o.Server.Allow = append(o.Server.Allow, prefix)
	}
	o.Server.Rate = c.Int("rate")
	if n := c.Int("log-every"); n > 0 {
		o.Server.SampleEvery = uint64(n)
		o.Server.Sample = func(a names.Sample) {
			s.Log.Info(fmt.Sprintf("%s asked for %s %s: %s, from %s", a.Client, a.Name, a.Type, a.Rcode, a.From))
		}
	}
	o.Ready = func(at []netip.AddrPort, set *names.Set) error {
		for _, a := range at {
			if _, err := fmt.Fprintln(c.App.Writer, a); err != nil {
				return err
			}
		}
		s.Log.Info(fmt.Sprintf("%d names, %d records", set.Names(), set.Records()))
		return nil
	}
	return o, nil
}

func dnsTakeover() *cli.Command {
	return &cli.Command{
		Name: "takeover", Usage: "point this host at a name server", ArgsUsage: "IP...",
		Description: `resolv.conf, and where they run systemd-resolved and NetworkManager, ask IP from now on. How it was
is kept, also across a crash or a restart, and dns release puts it back.`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` of the host's files"}, outputFlag()},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage("%s takes addresses", c.Command.FullName())
			}
			var to []netip.Addr
			for _, a := range c.Args().Slice() {
				addr, err := netip.ParseAddr(a)
				if err != nil {
					return usage("%q is no address", a)
				}
				to = append(to, addr)
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			taken, err := s.TakeResolver(c.Context, c.String("root"), to)
			if err != nil {
				return err
			}
			return result(c, taken, func(w io.Writer) error {
				for _, ch := range taken.Changes {
					if _, err := fmt.Fprintf(w, "%s, which was: %s\n", ch.Path, ch.Was); err != nil {
						return err
					}
				}
				s.Log.Info("to put it back: blackstart dns release")
				return nil
			})
		},
	}
}

func dnsRelease() *cli.Command {
	return &cli.Command{
		Name: "release", Usage: "put back what dns takeover changed",
		Flags: []cli.Flag{&cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` of the host's files"}},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			return s.ReleaseResolver(c.Context, c.String("root"))
		},
	}
}

func dnsVIP() *cli.Command {
	return &cli.Command{
		Name: "vip", Usage: "give this host a well-known address, for as long as this runs", ArgsUsage: "IP",
		Flags: []cli.Flag{&cli.StringFlag{Name: "dev", Required: true, Usage: "network interface `IF`"}},
		Action: func(c *cli.Context) error {
			a, err := netip.ParseAddr(c.Args().First())
			if err != nil || c.NArg() != 1 {
				return usage("%s takes one address", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			v, err := names.RaiseVIP(c.Context, a, c.String("dev"))
			if err != nil {
				return err
			}
			s.Log.Info(fmt.Sprintf("%s is on %s until this ends", a, c.String("dev")))
			return v.Hold(c.Context, func(err error) {
				if err != nil {
					s.Log.Warn("the address is gone, and could not be set again", "error", err)
				} else {
					s.Log.Info("the address is there again")
				}
			})
		},
	}
}

func dnsQuery() *cli.Command {
	return &cli.Command{
		Name: "query", Usage: "ask a name server, and say why it answers as it does", ArgsUsage: "NAME [TYPE] @IP[:PORT]",
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			var at netip.AddrPort
			var words []string
			for _, a := range c.Args().Slice() {
				if ip, ok := strings.CutPrefix(a, "@"); ok {
					var err error
					if at, err = server(ip); err != nil {
						return err
					}
					continue
				}
				words = append(words, a)
			}
			if !at.IsValid() || len(words) < 1 || len(words) > 2 {
				return usage("%s takes NAME [TYPE] @IP[:PORT]", c.Command.FullName())
			}
			words = append(words, "A")
			answer, err := names.Ask(c.Context, words[0], words[1], at)
			if err != nil {
				return err
			}
			err = result(c, answer, func(w io.Writer) error {
				for _, r := range answer.Answer {
					fmt.Fprintln(w, printable(r))
				}
				for _, why := range answer.Why {
					fmt.Fprintln(w, "; "+printable(why))
				}
				return nil
			})
			if err == nil && !answer.Found() {
				return cli.Exit("", exitFailed)
			}
			return err
		},
	}
}
