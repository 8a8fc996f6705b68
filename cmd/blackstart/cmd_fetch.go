package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery"
)

func cmdFetch() *cli.Command {
	return &cli.Command{
		Name: "fetch", Usage: "get bytes whose digest is known, from whatever still answers",
		Description: `No name is ever looked up, and no source is trusted: several are asked at once, and only
bytes with the right digest count. What was got is kept, so that a fetch that was cut short
goes on where it stopped, and can be served to other hosts.

   blackstart fetch get etcdctl -o /usr/local/bin/etcdctl
   blackstart fetch get sha256:0a1b... --source https://10.0.0.9/blobs/ --ca site-ca.pem -o FILE
   blackstart fetch serve`,
		Subcommands:     []*cli.Command{fetchGet(), fetchServe(), fetchList()},
		HideHelpCommand: true,
	}
}

func fetchGet() *cli.Command {
	return &cli.Command{
		Name: "get", Usage: "get an artifact of the kit, or bytes by their digest", ArgsUsage: "NAME|sha256:HEX",
		Description: `-o FILE appears whole or not at all. -o oci:DIR[:TAG] and -o docker-archive:FILE write an image,
--unpack prepares it for run --image kit:NAME. Sources:

   file:DIR, file:FILE              an OCI layout such as a kit's, or the content itself
   http://IP/..., https://IP/...    the same on a web server, or another host's fetch serve
   oci://IP:PORT/REPO               a registry (oci+http:// without TLS)
   s3://IP:PORT/BUCKET[/PREFIX]     a bucket (s3+http:// without TLS)
   ssh://USER@IP/DIR                a directory on a host that has nothing but a shell`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "o", Usage: "`FILE` to write, - for standard output, oci:DIR[:TAG] or docker-archive:FILE"},
			&cli.BoolFlag{Name: "unpack", Usage: "unpack an image for run --image kit:NAME"},
			outputFlag(),
		}, fromFlags()...),
		Action: func(c *cli.Context) error {
			to := c.String("o")
			if c.NArg() != 1 || (to == "") != c.Bool("unpack") {
				return usage("%s takes one NAME or digest, and either -o or --unpack", c.Command.FullName())
			}
			if to == "-" && c.String("output") == "json" {
				return usage("-o - and --output json both go to standard output")
			}
			if c.Bool("unpack") {
				to = recovery.Layers
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			got, err := s.Fetch(c.Context, c.Args().First(), to, c.App.Writer)
			if err != nil {
				tellSources(s, got.Report)
				return err
			}
			if to == "-" {
				tellSources(s, got.Report)
				return nil
			}
			return result(c, got, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s, %s, %s in %.1f s\n", got.To, got.Digest, size(uint64(got.Size)), got.Seconds)
				tellSources(s, got.Report)
				return err
			})
		},
	}
}

// tellSources says what came from where.
func tellSources(s recovery.Site, f fetch.Report) {
	if f.Reused > 0 {
		s.Log.Info("from this host: " + size(uint64(f.Reused)))
	}
	for _, src := range f.Sources {
		line := "from " + src.URL + ": " + size(uint64(src.Bytes))
		if src.State != "used" {
			line += ", " + src.State
		}
		if src.Wasted > 0 {
			line += ", of no use " + size(uint64(src.Wasted))
		}
		if src.Error != "" {
			line += ": " + src.Error
		}
		s.Log.Info(line)
	}
}

func fetchServe() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "hand what this host has to others, read-only, by digest", ArgsUsage: "[DIR...]",
		Description: `Serves the kit's blobs, what fetch has got, and the layouts DIR, to whoever knows a digest. What
arrives meanwhile is served as well: a host can serve while it fetches. The line it prints is
what others pass as --source; the pin in it is the only proof of who answers, so read it
out to them.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "0.0.0.0:7443", Usage: "`IP:PORT`"},
			&cli.StringFlag{Name: "rate", Usage: "limit for all readers together, in bytes per second: `10MiB`"},
			&cli.IntFlag{Name: "connections", Value: 64, Usage: "`N` requests at once; others are told to come back"},
			&cli.StringFlag{Name: "kit", Usage: "`DIR` of the kit", DefaultText: "DATA/kit"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			o := recovery.ServeOptions{Listen: c.String("listen"), Kit: c.String("kit"), Dirs: c.Args().Slice(), Connections: c.Int("connections")}
			if r := c.String("rate"); r != "" {
				n, err := container.ParseSize(r)
				if err != nil || n < 1 {
					return usage("--rate %s: want bytes per second, such as 10MiB", r)
				}
				o.BytesPerSecond = n
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			return s.Serve(c.Context, o, func(v recovery.Serving) error {
				return result(c, v, func(w io.Writer) error {
					for _, u := range v.URLs {
						if _, err := fmt.Fprintln(w, u); err != nil {
							return err
						}
					}
					return nil
				})
			})
		},
	}
}

func fetchList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the kit's artifacts, and how much of each this host has",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "kit", Usage: "`DIR` of the kit", DefaultText: "DATA/kit"}, outputFlag(),
		}, kitFlags()...),
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			s.From.Kit = kitOptions(c, c.String("kit"))
			held, err := s.Holdings(c.Context)
			if err != nil {
				return err
			}
			return result(c, held, func(w io.Writer) error {
				rows := [][]string{{"NAME", "KIND", "DIGEST", "SIZE", "HERE", "CAPTURED"}}
				for _, h := range held {
					here := "yes"
					if h.Missing > 0 {
						here = strconv.Itoa(h.Frames-h.Missing) + " of " + strconv.Itoa(h.Frames) + " frames"
					}
					rows = append(rows, []string{h.Name, string(h.Kind), h.Digest.Encoded()[:12], size(uint64(h.Size)), here, ago(h.CapturedAt)})
				}
				return table(w, rows)
			})
		},
	}
}
