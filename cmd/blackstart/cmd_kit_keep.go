package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

// kitSite is a site with the kit that the only argument names, and its sources.
func kitSite(c *cli.Context) (recovery.Site, error) {
	s, err := bareSite(c)
	if err != nil {
		return s, err
	}
	dir, err := kitArg(c)
	if err != nil {
		return s, err
	}
	s.From, err = from(c, dir)
	return s, err
}

func kitAudit() *cli.Command {
	return &cli.Command{
		Name: "audit", Usage: "say what of a kit is where, and what is missing", ArgsUsage: "[DIR]",
		Description: `Every frame is looked for on this host, where every byte is read, and in every source of the
kit and of --source. Exit status 1 where this host lacks any, or fewer than --copies places
have all of an artifact; 6 where an artifact was captured longer than --max-age ago. For cron:

   blackstart kit audit --copies 3 --max-age 168h --output json`,
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "deep", Usage: "read every byte of every source, rather than what it says of sizes"},
			&cli.IntFlag{Name: "copies", Usage: "`N` places, this host included, must have all of each artifact", Value: 1},
			&cli.DurationFlag{Name: "max-age", Usage: "`TIME` since an artifact was captured", DefaultText: "any"},
			outputFlag(),
		}, append(kitFlags(), sourceFlags()...)...),
		Action: func(c *cli.Context) error {
			s, err := kitSite(c)
			if err != nil {
				return err
			}
			a, err := s.AuditKit(c.Context, recovery.AuditOptions{Deep: c.Bool("deep"), Copies: c.Int("copies"), MaxAge: c.Duration("max-age")})
			if a.Places == nil {
				return err
			}
			if werr := result(c, a, func(w io.Writer) error { return writeAudit(w, a) }); werr != nil {
				return werr
			}
			return err
		},
	}
}

func writeAudit(w io.Writer, a recovery.Audit) error {
	rows := [][]string{{"ARTIFACT", "SIZE", "CAPTURED", "FRAMES", "COPIES"}}
	for i := range a.Places {
		name := "HERE"
		if i > 0 {
			name = "[" + strconv.Itoa(i) + "]"
		}
		rows[0] = append(rows[0], name)
	}
	for _, v := range a.Artifacts {
		row := []string{v.Name, size(uint64(v.Size)), ago(v.CapturedAt), strconv.Itoa(v.Frames), strconv.Itoa(v.Copies)}
		for _, n := range v.Lacking {
			switch {
			case n < 0:
				row = append(row, "?")
			case n == 0:
				row = append(row, "whole")
			case n == v.Frames:
				row = append(row, "none")
			default:
				row = append(row, "-"+strconv.Itoa(n))
			}
		}
		rows = append(rows, row)
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for i, p := range a.Places[1:] {
		fmt.Fprintf(w, "[%d] %s", i+1, printable(p))
		for _, d := range a.Down {
			if d.Place == p {
				fmt.Fprintf(w, ": cannot be asked: %s", printable(d.Error))
			}
		}
		fmt.Fprintln(w)
	}
	for _, d := range a.Orphans {
		fmt.Fprintf(w, "nowhere: %s\n", d)
	}
	_, err := fmt.Fprintf(w, "%s, epoch %d, %s\n", a.Name, a.Epoch, a.Digest)
	return err
}

func kitRepair() *cli.Command {
	return &cli.Command{
		Name: "repair", Usage: "get what this host's kit lacks, and nothing else", ArgsUsage: "[ARTIFACT...]",
		Description: `Each artifact is mended after those it needs. What cannot be had is said, and keeps nothing
else from being mended.`,
		Flags: append([]cli.Flag{outputFlag()}, fromFlags()...),
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			r, err := s.RepairKit(c.Context, c.Args().Slice()...)
			if r.Artifacts == nil {
				return err
			}
			if werr := result(c, r, func(w io.Writer) error { return writeRepair(w, s, r) }); werr != nil {
				return werr
			}
			return err
		},
	}
}

func writeRepair(w io.Writer, s recovery.Site, r recovery.Repair) error {
	if len(r.Artifacts) == 0 {
		_, err := fmt.Fprintln(w, "nothing was missing")
		return err
	}
	for _, a := range r.Artifacts {
		line := fmt.Sprintf("%s: %d frames were missing", a.Name, a.Missing)
		if a.Left > 0 {
			line += fmt.Sprintf(", %d still are", a.Left)
		} else {
			line += ", all are here now"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	tellSources(s, r.Report)
	return nil
}

func kitPush() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "copy a kit to a registry or a bucket", ArgsUsage: "URL [DIR]",
		Description: `URL is oci://IP:PORT/REPO or s3://IP:PORT/BUCKET/PREFIX; the kit's name becomes the tag. What is
there is not sent again. Others get it with kit pull, and fetch from the URL as a source.`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "kit-name", Usage: "`NAME` of the kit, where the layout holds several"}, outputFlag(),
		}, reachFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return usage("%s takes a URL, and the kit's directory", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if s.From, err = from(c, c.Args().Get(1)); err != nil {
				return err
			}
			to, err := trusted(c, c.Args().First())
			if err != nil {
				return err
			}
			p, err := s.PushKit(c.Context, s.From.Kit, to)
			if err != nil {
				return err
			}
			return result(c, p, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s in %s, manifest %s\n%d blobs, %d of them sent, %s\n", p.Name, p.To, p.Manifest, p.Blobs, p.Sent, size(uint64(p.Bytes)))
				return err
			})
		},
	}
}

func kitPull() *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "get a kit from a registry, a bucket or another host", ArgsUsage: "URL",
		Description: `The kit is checked before its content is got, takes the place of the one there when it is whole,
and may come from several places: URL only has to have its document.

   blackstart kit pull oci://10.0.0.7:5000/kits --kit-name site-a
   blackstart kit pull https://10.0.0.9:7443#pin=sha256:... --manifest sha256:...`,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "manifest", Usage: "`sha256:HEX` of the kit's manifest, for URLs that know no names; kit verify and kit push print it"},
			outputFlag(),
		}, fromFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usage("%s takes one URL", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			src, err := trusted(c, c.Args().First())
			if err != nil {
				return err
			}
			o := recovery.PullOptions{Kit: s.From.Kit, From: src}
			if m := c.String("manifest"); m != "" {
				if o.Manifest, err = digest.Parse(m); err != nil {
					return usage("--manifest %s: want sha256:HEX", m)
				}
			}
			p, err := s.PullKit(c.Context, o)
			if p.Artifacts == nil {
				return err
			}
			if werr := result(c, p, func(w io.Writer) error {
				if err := writeRepair(w, s, p.Repair); err != nil {
					return err
				}
				return writeVerified(w, p.Verified)
			}); werr != nil {
				return werr
			}
			return err
		},
	}
}

func kitCollect() *cli.Command {
	return &cli.Command{
		Name: "collect", Usage: "gather the containers of this host as a source for a kit", ArgsUsage: "[NAME...]",
		Description: `Writes the specifications and images of the containers that run on this host, or of those named,
into a directory with a kit.yaml that kit build takes, or another kit.yaml includes. For cron,
so that what a kit captured stays current:

   blackstart kit collect -o collected && blackstart kit build -f kit.yaml -o kit

The specifications hold the containers' environment, with whatever secrets are in it.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "o", Required: true, Usage: "`DIR` to write"},
			&cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` of the stores, as for salvage"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			s.Root = c.String("root")
			got, err := s.Collect(c.Context, recovery.CollectOptions{Dir: c.String("o"), Names: c.Args().Slice()})
			if got.Services == nil {
				return err
			}
			if werr := result(c, got, func(w io.Writer) error {
				rows := [][]string{{"SERVICE", "STORE", "IMAGE"}}
				for _, v := range got.Services {
					rows = append(rows, []string{v.Name, v.Store, v.Image})
				}
				for _, p := range got.Problems {
					s.Log.Warn(p)
				}
				return table(w, rows)
			}); werr != nil {
				return werr
			}
			return err
		},
	}
}
