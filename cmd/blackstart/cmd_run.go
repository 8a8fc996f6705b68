package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery"
)

func cmdRun() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "start a container from an image, a directory or a specification",
		ArgsUsage: "[-- CMD [ARG...]]",
		Description: `Without --detach the container runs in the foreground: signals are passed on, the
exit status is the command's own, and nothing is left afterwards. With --detach a
supervisor looks after it, and it lives on when your session ends.

CMD is the whole command line; an image's entrypoint is not put before it.

   blackstart run --rootfs /srv/rootfs -t -- /bin/sh
   blackstart run --image oci:/media/usb/etcd:3.4 --name etcd --detach --mount /srv/etcd:/data \
       --health-check http://127.0.0.1:2379/health --restart on-failure -- etcd --data-dir /data
   blackstart run --image kit:etcd --detach --source https://10.0.0.9:7443#pin=sha256:...
   blackstart run --image kit:etcd --detach --cert etcd,dns=etcd.example.org,ip=10.0.0.7
   blackstart salvage show etcd > etcd.yaml; $EDITOR etcd.yaml; blackstart run --spec etcd.yaml --detach`,
		Flags: slices.Concat(specFlags(), fromFlags(), []cli.Flag{
			&cli.StringFlag{Name: "rootfs", Usage: "use this `DIR` as root filesystem, as it is"},
			&cli.StringFlag{Name: "image", Usage: "`REF`: oci:DIR[:TAG], docker-archive:FILE, kit:NAME, sha256:HEX (from --source) or containerd://NAMESPACE/REF"},
			&cli.StringFlag{Name: "spec", Usage: "start from `FILE`: an OCI config.json, a recovery spec of salvage show, or kit:NAME, a service of the kit"},
			&cli.StringFlag{Name: "root", Value: "/", Usage: "`DIR` of the dead host's disk or store, for images like containerd://NAMESPACE/REF"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "run in the background, supervised"},
		}),
		Action: elsewhere(nested(func(c *cli.Context) error {
			s, err := salvageSite(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			var spec container.Spec
			if service, ok := strings.CutPrefix(c.String("spec"), "kit:"); ok {
				spec, err = s.KitService(service)
			} else if file := c.String("spec"); file != "" {
				spec, err = container.ReadSpecFile(file)
			}
			if err != nil {
				return err
			}
			if c.IsSet("image") {
				spec.Image, spec.Rootfs, spec.Layers = c.String("image"), "", nil
			}
			if c.IsSet("rootfs") {
				spec.Rootfs, spec.Image, spec.Layers = c.String("rootfs"), "", nil
			}
			if spec.Terminal && !c.Bool("t") {
				spec.Terminal = false
			}
			return start(c, s, spec, c.Args().Slice(), c.Bool("detach"))
		})),
	}
}

// specFlags are the flags that say how a container runs, for run and salvage run.
func specFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the container"},
		&cli.StringFlag{Name: "net", Usage: "host (shares the host's network), none (loopback only) or vacuum:NAME[:HOST] (inside of a vacuum that sandbox run --name NAME began)"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set the variable `K=V`"},
		&cli.StringSliceFlag{Name: "arg", Usage: "add the argument `A` at the end of the command"},
		&cli.StringSliceFlag{Name: "replace-arg", Usage: "`OLD=NEW`: put NEW in the place of the argument OLD"},
		&cli.StringSliceFlag{Name: "drop-arg", Usage: "leave out the argument `A`, or the flag A=..."},
		&cli.StringSliceFlag{Name: "mount", Aliases: []string{"v"}, Usage: "bind `SRC:DST[:ro]`"},
		&cli.StringSliceFlag{Name: "cert", Usage: "`SERVICE[,dns=NAME][,ip=IP][,uri=URI][,for=TIME][,at=DIR]`: a certificate of the open session, renewed; at " + recovery.DefaultIdentity},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]`, names or numbers"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "absolute `DIR` to start in"},
		&cli.StringFlag{Name: "memory", Usage: "limit, such as `512MiB`"},
		&cli.Float64Flag{Name: "cpus", Usage: "limit, in processors: `1.5`"},
		&cli.Int64Flag{Name: "pids", Usage: "limit of processes and threads, `N`"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "give the capability `CAP`, or ALL"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "take the capability `CAP`, or ALL"},
		&cli.StringSliceFlag{Name: "device", Usage: "give `/dev/X[:/dev/Y[:rwm]]`"},
		&cli.BoolFlag{Name: "read-only", Usage: "mount the root filesystem read-only"},
		&cli.BoolFlag{Name: "privileged", Usage: "every capability and device, nothing filtered or masked"},
		&cli.StringFlag{Name: "restart", Usage: "`WHEN` to start it again: no, on-failure or always, with growing pauses"},
		&cli.StringFlag{Name: "health-check", Usage: "`CHECK` repeatedly: http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH, exec:COMMAND (inside)"},
		&cli.DurationFlag{Name: "health-interval", Usage: "`TIME` between checks", DefaultText: "10s"},
		&cli.DurationFlag{Name: "health-timeout", Usage: "`TIME` a check may take", DefaultText: "5s"},
		&cli.IntFlag{Name: "health-retries", Usage: "`N` failures in a row make it unhealthy", DefaultText: "3"},
		&cli.DurationFlag{Name: "health-start", Usage: "`TIME` after the start in which failures do not count"},
		&cli.StringFlag{Name: "stop-signal", Usage: "`SIGNAL` that stop sends", DefaultText: "TERM"},
		&cli.StringFlag{Name: "log-max", Usage: "how much of the log is kept", DefaultText: "64MiB"},
		&cli.BoolFlag{Name: "t", Usage: "give it a terminal"},
		&cli.BoolFlag{Name: "strict", Usage: "what this host cannot give is an error instead of a warning"},
		&cli.BoolFlag{Name: "allow-twin", Usage: "start even if the service seems to be running already"},
		outputFlag(),
	}
}

// override puts the flags that were given over a specification.
func override(c *cli.Context, s *container.Spec) error {
	for flag, field := range map[string]*string{
		"name": &s.Name, "net": &s.Net, "user": &s.User, "workdir": &s.Workdir, "memory": &s.Memory,
		"stop-signal": &s.StopSignal, "log-max": &s.LogMax,
	} {
		if c.IsSet(flag) {
			*field = c.String(flag)
		}
	}
	for _, kv := range c.StringSlice("env") {
		s.SetEnv(kv)
	}
	for _, m := range c.StringSlice("mount") {
		mount, err := container.ParseMount(m)
		if err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, mount)
	}
	s.CapAdd = append(s.CapAdd, c.StringSlice("cap-add")...)
	s.CapDrop = append(s.CapDrop, c.StringSlice("cap-drop")...)
	s.Devices = append(s.Devices, c.StringSlice("device")...)
	if c.IsSet("cpus") {
		s.CPUs = c.Float64("cpus")
	}
	if c.IsSet("pids") {
		s.PIDs = c.Int64("pids")
	}
	s.ReadOnly = s.ReadOnly || c.Bool("read-only")
	s.Privileged = s.Privileged || c.Bool("privileged")
	s.Terminal = s.Terminal || c.Bool("t")
	if c.IsSet("restart") {
		s.Restart = container.Restart(c.String("restart"))
	}
	return overrideHealth(c, s)
}

func overrideHealth(c *cli.Context, s *container.Spec) error {
	h := container.Health{}
	if s.Health != nil {
		h = *s.Health
	}
	if c.IsSet("health-check") {
		h.Check = c.String("health-check")
	}
	for flag, field := range map[string]*container.Duration{"health-interval": &h.Interval, "health-timeout": &h.Timeout, "health-start": &h.Start} {
		if c.IsSet(flag) {
			*field = container.Duration(c.Duration(flag))
		}
	}
	if c.IsSet("health-retries") {
		h.Retries = c.Int("health-retries")
	}
	if h == (container.Health{}) {
		return nil
	}
	if h.Check == "" {
		return usage("the --health-... flags need --health-check")
	}
	s.Health = &h
	return nil
}

// start runs a container as the flags say and prints what became of it.
func start(c *cli.Context, s recovery.Site, spec container.Spec, command []string, detach bool) error {
	if err := override(c, &spec); err != nil {
		return err
	}
	if detach {
		// The session may drop while an image is unpacked: go on and finish.
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	var ids []recovery.Identity
	for _, text := range c.StringSlice("cert") {
		id, err := s.ParseIdentity(text)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	r, err := s.Run(c.Context, recovery.RunOptions{
		Spec: spec, Identities: ids,
		Edit: recovery.Edit{
			Command: command, ReplaceArgs: c.StringSlice("replace-arg"),
			DropArgs: c.StringSlice("drop-arg"), Args: c.StringSlice("arg"),
		},
		Detach: detach, Strict: c.Bool("strict"), Twin: c.Bool("allow-twin"),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	})
	if err != nil {
		return err
	}
	if r.Exit == nil {
		return result(c, r, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, r.Name)
			return err
		})
	}
	if r.Exit.OOMKilled {
		s.Log.Warn("the kernel killed a process of the container: it reached its memory limit")
	}
	if r.Exit.Code != 0 {
		return cli.Exit("", max(r.Exit.Code, exitFailed))
	}
	return nil
}

func cmdSupervise() *cli.Command {
	return &cli.Command{
		Name: "supervise", Hidden: true, Usage: "look after one detached container (started by run)",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "adopt"}},
		Action: func(c *cli.Context) error {
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			name, err := one(c, "container")
			if err != nil {
				return err
			}
			// Its own end is asked for by signals, which the supervisor handles.
			return s.Supervise(context.WithoutCancel(c.Context), name, c.Bool("adopt"))
		},
	}
}
