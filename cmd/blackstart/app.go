package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery"
)

// version and built (RFC 3339) are set by the linker.
var version, built = "dev", ""

// commands is the whole command line, in the order of the help.
func commands() []*cli.Command {
	return []*cli.Command{
		cmdRun(), cmdPs(), cmdLogs(), cmdExec(), cmdStop(), cmdRm(), cmdInspect(), cmdStats(), cmdHandoff(),
		cmdSalvage(), cmdKit(), cmdFetch(), cmdDNS(), cmdCerts(), cmdAccess(), cmdSandbox(), cmdRunbook(), cmdRehearse(), cmdPare(), cmdDrill(), cmdGraph(), cmdDoctor(), cmdSupervise(),
	}
}

func newApp(log *slog.Logger) *cli.App {
	app := &cli.App{
		Name:    "blackstart",
		Usage:   "bring a service back when nothing that normally runs it is there",
		Version: version,
		Description: `On a host whose orchestrator is dead:

   blackstart doctor                      can this host run recovery containers?
   blackstart salvage list                what did the dead orchestrator leave here?
   blackstart salvage show NAME           how would NAME be started, and what is changed for it?
   blackstart salvage run NAME            start it on its own data, without the orchestrator
   blackstart ps, logs NAME, exec NAME    look after it
   blackstart handoff NAME --until CHECK  give the service back when its own instance is healthy

Exit status: 0 done, 1 failed, 2 usage or bad input, 3 not recoverable, 4 denied, 5 verification failed,
6 stale or rolled back, 7 unresolved, 130 interrupted. run and exec pass on the command's own.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "state", Value: container.DefaultState, EnvVars: []string{"BLACKSTART_STATE"}, Usage: "`DIR` for the state of running containers"},
			&cli.StringFlag{Name: "data", Value: container.DefaultData, EnvVars: []string{"BLACKSTART_DATA"}, Usage: "`DIR` for layers, logs and writable layers"},
		},
		Metadata:        map[string]any{"log": log},
		Commands:        commands(),
		HideHelpCommand: true,
		// A value may hold a comma.
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {}, // main reports
		OnUsageError:              badFlag,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage("no command %q", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	var each func([]*cli.Command)
	each = func(cmds []*cli.Command) {
		for _, c := range cmds {
			c.OnUsageError = badFlag
			each(c.Subcommands)
		}
	}
	each(app.Commands)
	gate(app.Commands)
	return app
}

func badFlag(_ *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%w: %w", recovery.ErrUsage, err)
}

func logger(c *cli.Context) *slog.Logger { return c.App.Metadata["log"].(*slog.Logger) }

// site is the host as the global flags describe it. What earlier commands left
// unfinished is put right first, and said.
func site(c *cli.Context) (recovery.Site, error) {
	s, err := bareSite(c)
	if err != nil {
		return s, err
	}
	said, err := s.Host.Sweep(c.Context)
	for _, line := range said {
		s.Log.Info(line)
	}
	if err != nil {
		s.Log.Warn("what was left over could not all be put right", "error", err)
	}
	return s, nil
}

// bareSite is site without putting anything right.
func bareSite(c *cli.Context) (recovery.Site, error) {
	s := recovery.Site{Log: logger(c), Root: "/", Tell: newProgress(os.Stderr).tell, Version: version}
	s.Built = builtAt()
	for flag, dir := range map[string]*string{"state": &s.Host.State, "data": &s.Host.Data} {
		abs, err := filepath.Abs(c.String(flag))
		if err != nil {
			return s, err
		}
		*dir = abs
	}
	return s, nil
}

// usage is an error of how the command was called.
func usage(format string, a ...any) error {
	return fmt.Errorf("%w: %w", recovery.ErrUsage, fmt.Errorf(format, a...))
}

// one returns the only argument, which the command calls what.
func one(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usage("%s takes one %s", c.Command.FullName(), what)
	}
	return c.Args().First(), nil
}

// permute moves flags before the arguments, so that `stop NAME --timeout 3s`
// works as people type it. What follows "--", and everything behind the first
// argument of run and exec, belongs to the command to be run.
func permute(app *cli.App, argv []string) []string {
	out := []string{argv[0]}
	rest := argv[1:]
	flags, subs := app.Flags, app.Commands
	for len(rest) > 0 {
		if strings.HasPrefix(rest[0], "-") && rest[0] != "--" {
			n := min(flagWidth(flags, rest[0]), len(rest))
			out, rest = append(out, rest[:n]...), rest[n:]
			continue
		}
		i := slices.IndexFunc(subs, func(c *cli.Command) bool { return c.HasName(rest[0]) })
		if i < 0 {
			break
		}
		out = append(out, rest[0])
		if len(out) > 1 && slices.Contains([]string{"run", "exec"}, rest[0]) && len(subs) == len(app.Commands) {
			return append(out, rest[1:]...)
		}
		flags, subs, rest = subs[i].Flags, subs[i].Subcommands, rest[1:]
	}
	var args []string
	for len(rest) > 0 && rest[0] != "--" {
		n := 1
		if strings.HasPrefix(rest[0], "-") && len(rest[0]) > 1 {
			n = min(flagWidth(flags, rest[0]), len(rest))
			out = append(out, rest[:n]...)
		} else {
			args = append(args, rest[0])
		}
		rest = rest[n:]
	}
	return append(append(out, args...), rest...)
}

// flagWidth is how many words a flag takes: two if its value stands apart.
func flagWidth(flags []cli.Flag, word string) int {
	name := strings.TrimLeft(word, "-")
	if strings.Contains(name, "=") {
		return 1
	}
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			if _, isBool := f.(*cli.BoolFlag); isBool {
				return 1
			}
			return 2
		}
	}
	return 1
}
