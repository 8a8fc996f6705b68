package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
)

func cmdSalvage() *cli.Command {
	return &cli.Command{
		Name: "salvage", Usage: "read what a dead orchestrator left on this host, and run it",
		Description: `Reads the stores of containerd (k3s and rke2 too), Docker, Podman, CRI-O and the
kubelet's static pods without their daemons and without writing to them.`,
		Subcommands:     []*cli.Command{salvageList(), salvageShow(), salvageExport(), salvageRun()},
		HideHelpCommand: true,
	}
}

func rootFlag() cli.Flag {
	return &cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` where the dead host's disk is mounted, or one store's directory"}
}

func salvageSite(c *cli.Context) (recovery.Site, error) {
	s, err := site(c)
	if err == nil {
		s.Root, err = filepath.Abs(c.String("root"))
	}
	return s, err
}

func salvageList() *cli.Command {
	return &cli.Command{
		Name: "list", Usage: "list the containers and images that can be read",
		Flags: []cli.Flag{rootFlag(), outputFlag(), &cli.BoolFlag{Name: "all", Usage: "pods' sandboxes too"}},
		Action: func(c *cli.Context) error {
			s, err := salvageSite(c)
			if err != nil {
				return err
			}
			all, err := s.SalvageList(c.Context)
			if err != nil && len(all.Problems) == 0 {
				return err
			}
			return errors.Join(err, result(c, all, func(w io.Writer) error {
				rows := [][]string{{"NAME", "STORE", "ID", "IMAGE", "CREATED"}}
				hidden := 0
				for _, ct := range all.Containers {
					if ct.Sandbox && !c.Bool("all") {
						hidden++
						continue
					}
					where := string(ct.Store)
					if ct.Namespace != "" {
						where += "/" + ct.Namespace
					}
					id := ct.ID
					if len(id) > 12 && strings.Trim(id, "0123456789abcdef") == "" {
						id = id[:12]
					}
					rows = append(rows, []string{printable(ct.Name), printable(where), printable(id), printable(ct.Image), ago(ct.Created)})
				}
				if err := table(w, rows); err != nil {
					return err
				}
				rows = [][]string{{"\nIMAGE", "STORE", "DIGEST"}}
				for _, im := range all.Images {
					where := string(im.Store)
					if im.Namespace != "" {
						where += "/" + im.Namespace
					}
					digest := im.Target.Digest.Encoded()
					rows = append(rows, []string{printable(im.Name), printable(where), digest[:min(12, len(digest))]})
				}
				if len(all.Images) > 0 {
					if err := table(w, rows); err != nil {
						return err
					}
				}
				if hidden > 0 {
					s.Log.Info(fmt.Sprintf("%d pod sandboxes are not shown: --all", hidden))
				}
				for _, p := range all.Problems {
					s.Log.Warn("passed over: " + p)
				}
				return nil
			}))
		},
	}
}

func salvageFlags() []cli.Flag {
	return append([]cli.Flag{
		rootFlag(),
		&cli.StringFlag{Name: "image", Usage: "run from `REF`, such as kit:NAME, rather than from the dead image"},
		&cli.BoolFlag{Name: "clean", Usage: "leave out what the container wrote outside its volumes"},
		&cli.BoolFlag{Name: "no-verify", Usage: "use the dead snapshots in place, without unpacking or verifying the image: fast, and blind to damage"},
	}, fromFlags()...)
}

func salvaged(c *cli.Context) (recovery.Site, recovery.Salvaged, error) {
	s, err := salvageSite(c)
	if err != nil {
		return s, recovery.Salvaged{}, err
	}
	if !c.Args().Present() {
		return s, recovery.Salvaged{}, usage("%s takes one container", c.Command.FullName())
	}
	if s, err = supplied(c, s); err != nil {
		return s, recovery.Salvaged{}, err
	}
	v, err := s.Salvage(c.Context, c.Args().First(), recovery.SalvageOptions{
		Name: c.String("name"), Net: c.String("net"), Clean: c.Bool("clean"), NoVerify: c.Bool("no-verify"), Image: c.String("image"),
	})
	return s, v, err
}

func salvageShow() *cli.Command {
	return &cli.Command{
		Name: "show", Usage: "print the recovery spec of a container, and what was changed for this host", ArgsUsage: "NAME",
		Description: `The specification on standard output can be edited and started with run --spec. What was
changed and why, and the difference to the original configuration, go to standard error.`,
		Flags: append(salvageFlags(), outputFlag(),
			&cli.StringFlag{Name: "name", Usage: "`NAME` of the recovery container"},
			&cli.StringFlag{Name: "net", Usage: "host, none or keep"},
			&cli.BoolFlag{Name: "no-diff", Usage: "leave the difference out"}),
		Action: func(c *cli.Context) error {
			s, v, err := salvaged(c)
			if err != nil {
				return err
			}
			return result(c, v, func(w io.Writer) error {
				b, err := v.Spec.Marshal()
				if err != nil {
					return err
				}
				if _, err := w.Write(b); err != nil {
					return err
				}
				explain(s, v)
				if c.Bool("no-diff") {
					return nil
				}
				diff, err := v.Diff()
				if err == nil {
					fmt.Fprint(c.App.ErrWriter, "\n", diff)
				}
				return err
			})
		},
	}
}

// explain says what is different from how the orchestrator ran the container.
func explain(s recovery.Site, v recovery.Salvaged) {
	for _, ch := range v.Changes {
		line := fmt.Sprintf("%s: %s", ch.Path, ch.Why)
		if ch.Loud {
			s.Log.Warn(line)
		} else {
			s.Log.Info(line)
		}
	}
	for _, n := range v.Notes {
		s.Log.Info(n)
	}
	for _, l := range v.Unverified {
		s.Log.Warn("nothing vouches for the files of this layer: after a power loss some may be empty", "layer", l)
	}
}

func salvageExport() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write the image of a container, or an image, to a file that other tools read", ArgsUsage: "NAME",
		Description: `   blackstart salvage export etcd --to oci:/media/usb/etcd
   blackstart salvage export registry.k8s.io/etcd:3.5 --to docker-archive:/media/usb/etcd.tar`,
		Flags: []cli.Flag{rootFlag(), &cli.StringFlag{Name: "to", Required: true, Usage: "oci:`DIR[:TAG]` or docker-archive:FILE"}},
		Action: func(c *cli.Context) error {
			s, err := salvageSite(c)
			if err != nil {
				return err
			}
			name, err := one(c, "container or image")
			if err != nil {
				return err
			}
			if err := s.Export(c.Context, name, c.String("to")); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, c.String("to"))
			return err
		},
	}
}

func salvageRun() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "start a dead container as a recovery container, on its own data", ArgsUsage: "NAME [-- CMD [ARG...]]",
		Description: `Detached unless --foreground is given. The flags change what the orchestrator had recorded:

   blackstart salvage run kube-scheduler --drop-arg --leader-elect --arg --leader-elect=false
   blackstart salvage run etcd --env ETCD_UNSUPPORTED_ARCH=amd64 --arg --force-new-cluster`,
		Flags: append(append(salvageFlags(), specFlags()...), &cli.BoolFlag{Name: "foreground", Usage: "stay in front of it"}),
		Action: elsewhere(nested(func(c *cli.Context) error {
			s, v, err := salvaged(c)
			if err != nil {
				return err
			}
			explain(s, v)
			if c.Bool("foreground") {
				v.Spec.Restart, v.Spec.Health = "", nil // nobody is there to act on them
			}
			cmd := c.Args().Tail()
			if len(cmd) > 0 && cmd[0] == "--" {
				cmd = cmd[1:]
			}
			return start(c, s, v.Spec, cmd, !c.Bool("foreground"))
		})),
	}
}
