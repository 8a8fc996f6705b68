package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/sandbox"
)

func cmdSandbox() *cli.Command {
	return &cli.Command{
		Name: "sandbox", Usage: "a vacuum: run a command where nothing answers, except what is allowed by name",
		Description: `Every packet is dropped, loopback too: connects hang, names do not resolve, the host's daemons
are gone, and what is written is thrown away. What a recovery needs is let back in by name,
and what it tried to reach is told at the end:

   blackstart sandbox run -- ./recover.sh
   blackstart sandbox run --allow tcp:10.0.0.7:443 --allow dns:store.example -- ./recover.sh
   blackstart sandbox run --suggest -- ./recover.sh        what would have let it pass?
   blackstart sandbox shell --allow loopback:5000
   blackstart sandbox guard --deny tcp:10.0.0.7:443 -- ./deploy.sh     on the host's own network

It works without root as well, where this kernel lets users make namespaces.`,
		Subcommands:     []*cli.Command{sandboxRun(), sandboxShell(), sandboxGuard()},
		HideHelpCommand: true,
	}
}

func vacuumFlags() []cli.Flag {
	return append([]cli.Flag{
		&cli.StringSliceFlag{Name: "allow", Aliases: []string{"a"}, Usage: "let `CAPABILITY` in: a name of the catalogue, tcp:IP:PORT, tcp:CIDR:PORTS, udp:..., dns:NAME[:PORT], http:URL[;GET,HEAD][;/path/*], unix:PATH, loopback:PORT, file:PATH, with ,name= ,dark= ,latency= ,loss= ,rate="},
		&cli.StringFlag{Name: "catalogue", Usage: "`FILE`, a kit.yaml, whose capabilities --allow may name", DefaultText: "the kit's"},
		&cli.StringFlag{Name: "dark", Value: "drop", Usage: "`HOW` the rest is: drop (silence), refuse, or wedge (accepts and never answers)"},
		&cli.StringFlag{Name: "dns", Value: "silence", Usage: "`HOW` other names are answered: silence, nxdomain or refused"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the vacuum, for run --net vacuum:NAME meanwhile"},
		&cli.StringFlag{Name: "root", Value: "host", Usage: "`ROOT` file system, below a layer that is thrown away: host, DIR, or an image as run --image takes it"},
		&cli.StringFlag{Name: "record", Usage: "write a JSON line for each attempt to `FILE`; with several hosts one file each, tried-host0.jsonl and so on for tried.jsonl"},
		&cli.BoolFlag{Name: "no-record", Usage: "record nothing: quicker, and nothing is known at the end"},
		&cli.BoolFlag{Name: "suggest", Usage: "print the capabilities that would have let it pass"},
		&cli.StringSliceFlag{Name: "at", Usage: "`TIME=dark:NAME`, TIME=allow:NAME, TIME=kill:PATTERN, TIME=cut:0,1|2 (hosts from each other) or TIME=heal, after the start"},
		&cli.IntFlag{Name: "hosts", Value: 1, Usage: "`N` hosts on a private segment, host0 and so on, each with a root layer of its own"},
		&cli.IntFlag{Name: "on", Usage: "run the command on host `N`"},
		&cli.StringSliceFlag{Name: "also", Usage: "`N=COMMAND`, a line for the shell of host N, beside the command, until that ends"},
		&cli.StringFlag{Name: "memory", Usage: "limit of all programs together, such as `512MiB`"},
		&cli.Float64Flag{Name: "cpus", Usage: "limit, in processors: `1.5`"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "set the variable `K=V`"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "absolute `DIR` to start in", DefaultText: "the current one"},
	}, fromFlags()...)
}

func sandboxRun() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "run a command in a vacuum", ArgsUsage: "-- CMD [ARG...]",
		Description: `The exit status is the command's; 7 if what happened could not be enforced or recorded
completely, so that it proves nothing.`,
		Flags: append([]cli.Flag{&cli.BoolFlag{Name: "t", Usage: "give it a terminal"}}, vacuumFlags()...),
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage("%s takes a command, behind --", c.Command.FullName())
			}
			return inVacuum(c, c.Args().Slice(), c.Bool("t"))
		},
	}
}

func sandboxShell() *cli.Command {
	return &cli.Command{
		Name: "shell", Usage: "look around in a vacuum",
		Flags: vacuumFlags(),
		Action: func(c *cli.Context) error {
			shell := os.Getenv("SHELL")
			if shell == "" || c.String("root") != "host" {
				shell = "/bin/sh"
			}
			return inVacuum(c, []string{shell}, term.IsTerminal(int(os.Stdin.Fd())))
		},
	}
}

func sandboxGuard() *cli.Command {
	return &cli.Command{
		Name: "guard", Usage: "deny a command some of the host's own network", ArgsUsage: "-- CMD [ARG...]",
		Description: `For scripts that must not depend on what they repair: what --deny names cannot be reached by the
command and all that it starts, at once and with an error; with --allow, everything else cannot.
It is a rail, not a jail, needs root and cgroup v2, and touches no firewall rule.`,
		Flags: append([]cli.Flag{
			&cli.StringSliceFlag{Name: "deny", Usage: "`CAPABILITY` that is denied: tcp:IP:PORT, tcp:CIDR:PORTS, udp:..., loopback:PORT, or a name of the catalogue"},
			&cli.StringSliceFlag{Name: "allow", Usage: "`CAPABILITY` that is all that can be reached"},
			&cli.StringFlag{Name: "catalogue", Usage: "`FILE`, a kit.yaml, whose capabilities may be named", DefaultText: "the kit's"},
		}, fromFlags()...),
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return usage("%s takes a command, behind --", c.Command.FullName())
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			if s, err = supplied(c, s); err != nil {
				return err
			}
			o := sandbox.GuardOptions{Cmd: sandbox.Cmd{Args: c.Args().Slice(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}}
			if o.Cmd.Dir, err = os.Getwd(); err != nil {
				return err
			}
			catalogue, err := s.Catalogue(c.String("catalogue"))
			if err != nil {
				return err
			}
			for flag, list := range map[string]*[]sandbox.Capability{"deny": &o.Deny, "allow": &o.Allow} {
				for _, a := range c.StringSlice(flag) {
					found, err := catalogue.Resolve(a)
					if err != nil {
						return err
					}
					*list = append(*list, found...)
				}
			}
			if _, err := sandbox.Sweep(); err != nil {
				s.Log.Warn("what an earlier guard left is still there", "error", err)
			}
			r, err := sandbox.Guard(c.Context, o)
			if err != nil {
				return err
			}
			if len(r.Denied) > 0 {
				if err := sandbox.Table(os.Stderr, r.Denied); err != nil {
					return err
				}
			}
			if r.Released > 0 {
				s.Log.Warn(fmt.Sprintf("%d processes outlived the command: nothing is denied to them any more", r.Released))
			}
			if r.Code != 0 {
				return cli.Exit("", r.Code)
			}
			return nil
		},
	}
}

func vacuumOptions(c *cli.Context, s recovery.Site) (recovery.VacuumOptions, error) {
	o := recovery.VacuumOptions{Root: c.String("root"), Hosts: c.Int("hosts"), CPUs: c.Float64("cpus"), Blind: c.Bool("no-record"), Denied: sandbox.Denial(c.String("dns"))}
	catalogue := sandbox.Catalogue{}
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	o.Show = []string{self}
	if c.IsSet("allow") || c.IsSet("catalogue") {
		if catalogue, err = s.Catalogue(c.String("catalogue")); err != nil {
			return o, err
		}
	}
	for _, a := range c.StringSlice("allow") {
		found, err := catalogue.Resolve(a)
		if err != nil {
			return o, err
		}
		o.Allow = append(o.Allow, found...)
	}
	if o.Dark, err = sandbox.ParseDark(c.String("dark")); err != nil {
		return o, usage("--dark: %w", err)
	}
	switch o.Denied {
	case sandbox.DenySilence, sandbox.DenyUnknown, sandbox.DenyRefused:
	default:
		return o, usage("--dns %q is not silence, nxdomain or refused", c.String("dns"))
	}
	for _, a := range c.StringSlice("at") {
		f, err := recovery.ParseFault(a)
		if err != nil {
			return o, err
		}
		o.Timeline = append(o.Timeline, f)
	}
	if m := c.String("memory"); m != "" {
		if o.Memory, err = container.ParseSize(m); err != nil {
			return o, err
		}
	}
	if o.Blind && (c.Bool("suggest") || c.IsSet("record")) {
		return o, usage("--no-record leaves nothing for --record and --suggest")
	}
	return o, nil
}

// inVacuum runs a command in a vacuum of its own and tells what it tried to reach.
func inVacuum(c *cli.Context, args []string, tty bool) (err error) {
	s, err := bareSite(c)
	if err != nil {
		return err
	}
	if s, err = supplied(c, s); err != nil {
		return err
	}
	removed, err := sandbox.Sweep()
	removed = append(removed, s.SweepVacuums()...)
	for _, dir := range removed {
		s.Log.Info("removed what an earlier vacuum left: " + dir)
	}
	if err != nil {
		s.Log.Warn("what an earlier vacuum left is still there", "error", err)
	}
	o, err := vacuumOptions(c, s)
	if err != nil {
		return err
	}
	if file := c.String("record"); file != "" {
		f, err := openRecords(file, o.Hosts)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		o.Record = f
	}
	cmd := sandbox.Cmd{Args: args, Env: append(os.Environ(), c.StringSlice("env")...), Dir: c.String("workdir"), TTY: tty, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if cwd, err := os.Getwd(); cmd.Dir == "" && o.Root == "host" && err == nil {
		if sandbox.StartsEmpty(cwd) {
			s.Log.Warn(cwd + " is empty in the vacuum, so the command starts in /; --allow file:PATH shows it what it needs")
		} else {
			cmd.Dir = cwd
		}
	}
	v, err := s.Vacuum(c.Context, o)
	if err != nil {
		return err
	}
	if name := c.String("name"); name != "" {
		if err := v.Serve(c.Context, name); err != nil {
			_, closeErr := v.Close()
			return errors.Join(err, closeErr)
		}
	}
	code, runErr := 0, beside(c, v, cmd.Dir)
	if runErr == nil {
		code, runErr = runInVacuum(c, v, cmd)
	}
	attempts, closeErr := v.Close()
	if !o.Blind {
		if err := sandbox.Table(os.Stderr, attempts); err != nil {
			return err
		}
	}
	if c.Bool("suggest") {
		for _, capability := range sandbox.Suggest(attempts) {
			fmt.Fprintln(os.Stderr, "--allow "+quoteWord(capability.String()))
		}
	}
	switch {
	case runErr != nil:
		return errors.Join(runErr, closeErr)
	case closeErr != nil:
		return fmt.Errorf("the command ended with status %d, which proves nothing: %w", code, closeErr)
	case code != 0:
		return cli.Exit("", code)
	}
	return nil
}

// beside starts what runs on other hosts. It ends with the vacuum.
func beside(c *cli.Context, v *recovery.Vacuum, dir string) error {
	for _, a := range c.StringSlice("also") {
		at, line, ok := strings.Cut(a, "=")
		n, err := strconv.Atoi(at)
		if err != nil || !ok {
			return usage("--also %s: want N=COMMAND", a)
		}
		if _, err := v.Spawn(c.Context, n, sandbox.Cmd{Args: []string{"/bin/sh", "-c", line}, Dir: dir, Stdout: os.Stderr, Stderr: os.Stderr}); err != nil {
			return err
		}
	}
	return nil
}

func runInVacuum(c *cli.Context, v *recovery.Vacuum, cmd sandbox.Cmd) (int, error) {
	if !cmd.TTY {
		return v.Run(c.Context, c.Int("on"), cmd, nil)
	}
	in := int(os.Stdin.Fd())
	if cols, rows, err := term.GetSize(in); err == nil {
		cmd.Rows, cmd.Cols = uint16(rows), uint16(cols)
	}
	if old, err := term.MakeRaw(in); err == nil {
		defer func() { _ = term.Restore(in, old) }() // the terminal may be gone
	}
	copied := make(chan struct{})
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	code, err := v.Run(c.Context, c.Int("on"), cmd, func(p *sandbox.Process) {
		t := p.Terminal()
		go func() { _, _ = io.Copy(t, os.Stdin) }() // ends with this process
		go func() {
			defer close(copied)
			_, _ = io.Copy(os.Stdout, t) // EIO is how a terminal ends
		}()
		go func() {
			for range resized {
				if cols, rows, err := term.GetSize(in); err == nil {
					_ = unix.IoctlSetWinsize(int(t.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)}) // only its looks
				}
			}
		}()
	})
	if err == nil {
		<-copied
	}
	return code, err
}

// quoteWord is a word for a shell.
func quoteWord(s string) string {
	if strings.ContainsAny(s, " ;,*?[]()&|<>$`\"'\\") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}
