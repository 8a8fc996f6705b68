package main

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
)

// change is a command that changes something: the policy is asked about its verb and objects, and it goes into the record.
type change struct {
	verb    string                      // "" where nobody is asked
	objects func(*cli.Context) []string // nil: it is about the host
	mends   bool                        // goes on where the policy cannot be read: it may be what mends it
}

// changes are all commands that change something. A command is here or in reads. A verb is the command with its words joined;
// what starts a container is run, wherever it comes from.
func changes() map[string]change {
	return map[string]change{
		"run":         {verb: "run", objects: runObjects},
		"exec":        {verb: "exec", objects: firstArg},
		"stop":        {verb: "stop", objects: allArgs},
		"rm":          {verb: "rm", objects: allArgs},
		"handoff":     {verb: "handoff", objects: firstArg},
		"salvage run": {verb: "run", objects: salvageObjects},

		"salvage export": {verb: "salvage-export", objects: salvageObjects},
		"kit build":      {verb: "kit-build", mends: true},
		"kit sign":       {verb: "kit-sign", mends: true},
		"kit repair":     {verb: "kit-repair", mends: true},
		"kit push":       {verb: "kit-push"},
		"kit pull":       {verb: "kit-pull", mends: true},
		"kit collect":    {verb: "kit-collect", objects: allArgs},
		"fetch get":      {verb: "fetch-get"},
		"fetch serve":    {verb: "fetch-serve"},

		"dns freeze":   {verb: "dns-freeze"},
		"dns serve":    {verb: "dns-serve"},
		"dns takeover": {verb: "dns-takeover"},
		"dns release":  {verb: "dns-release"},
		"dns vip":      {verb: "dns-vip"},

		"certs init":         {verb: "certs-init"},
		"certs open":         {verb: "certs-open"},
		"certs issue":        {verb: "certs-issue", objects: serviceFlag},
		"certs ssh":          {verb: "certs-ssh", objects: serviceFlag},
		"certs close":        {verb: "certs-close"},
		"certs serve":        {verb: "certs-serve", objects: serviceFlag},
		"certs token":        {verb: "certs-token", objects: serviceFlag},
		"certs enroll":       {verb: "certs-enroll"},
		"certs share":        {verb: "certs-share"},
		"certs revoke":       {verb: "certs-revoke"},
		"certs trust add":    {verb: "certs-trust-add"},
		"certs trust remove": {verb: "certs-trust-remove"},

		"access request": {},
		"access approve": {},

		"access log keep":   {verb: "access-log-keep"},
		"access log forget": {verb: "access-log-forget"},

		"sandbox run":    {verb: "sandbox-run"},
		"sandbox shell":  {verb: "sandbox-shell"},
		"sandbox guard":  {verb: "sandbox-guard"},
		"runbook run":    {verb: "runbook-run", objects: runbookObjects},
		"runbook resume": {verb: "runbook-resume", objects: resumeObjects},
		"runbook undo":   {verb: "runbook-undo", objects: resumeObjects},
		"rehearse":       {verb: "rehearse", objects: rehearsalObjects},
		"pare":           {verb: "pare", objects: rehearsalObjects},
		"drill start":    {verb: "drill-start", objects: rehearsalObjects},
	}
}

// reads are the commands that change nothing, or only add to what proves something, as the copies of the record do. supervise
// is started by run, which was asked, and runbook step by a runbook elsewhere: it keeps its own record.
func reads() []string {
	return []string{
		"ps", "logs", "inspect", "stats", "doctor", "supervise",
		"salvage list", "salvage show",
		"kit verify", "kit show", "kit diff", "kit audit", "fetch list", "dns query",
		"certs status", "certs show", "certs check", "certs trust list", "certs trust check",
		"access check", "access explain", "access test", "access grants", "access import",
		"access log", "access log checkpoint", "access log copies", "access log copy", "access log send", "access log push", "access log receive",
		"runbook check", "runbook show", "runbook render", "runbook schema", "runbook shipped", "runbook step",
		"drill steps", "drill score", "drill history", "drill due",
		"graph check", "graph order", "graph simulate", "graph render", "graph diff", "graph import",
	}
}

const reasonFlag = "reason"

// gate puts the one check and record before every command that changes something.
func gate(commands []*cli.Command) {
	all := changes()
	var walk func(string, []*cli.Command)
	walk = func(before string, list []*cli.Command) {
		for _, c := range list {
			name := strings.TrimSpace(before + " " + c.Name)
			if ch, ok := all[name]; ok {
				if !slices.ContainsFunc(c.Flags, func(f cli.Flag) bool { return f.Names()[0] == reasonFlag }) {
					c.Flags = append(c.Flags, &cli.StringFlag{Name: reasonFlag, EnvVars: []string{"BLACKSTART_REASON"}, Usage: "`TEXT` for the record: why this is done"})
				}
				c.Action = ch.gated(name, c.Action)
			}
			walk(name, c.Subcommands)
		}
	}
	walk("", commands)
}

func (ch change) gated(name string, do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.Bool("dry-run") || container.Nested() { // there it is this command a second time
			return do(c)
		}
		s, err := bareSite(c)
		if err != nil {
			return err
		}
		what := recovery.Command{Words: spoken(c, name), Verb: ch.verb, Reason: c.String(reasonFlag), Mends: ch.mends}
		if ch.objects != nil {
			what.Objects = ch.objects(c)
		}
		begun, err := s.Begin(what)
		if err != nil {
			return err
		}
		err = do(c)
		code, _ := exit(err)
		if head := begun.End(code); head.Seq > 0 && term.IsTerminal(int(os.Stderr.Fd())) {
			// Whoever sees or scrolls back to this can tell later that the record was not made anew.
			logger(c).Info(fmt.Sprintf("recorded up to entry %d, sha256 %.16s", head.Seq, head.Hash))
		}
		return err
	}
}

func allArgs(c *cli.Context) []string { return c.Args().Slice() }

func firstArg(c *cli.Context) []string { return c.Args().Slice()[:min(1, c.NArg())] }

func serviceFlag(c *cli.Context) []string { return []string{c.String("service")} }

// runObjects are what the container is called and what it is made of: calling it something else changes nothing.
func runObjects(c *cli.Context) []string {
	spec := container.Spec{Name: c.String("name"), Image: c.String("image"), Rootfs: c.String("rootfs")}
	var all []string
	if file := c.String("spec"); strings.HasPrefix(file, "kit:") {
		all = append(all, strings.TrimPrefix(file, "kit:"))
	} else if file != "" {
		// One that cannot be read ends the command soon enough.
		if read, err := container.ReadSpecFile(file); err == nil && read.Name != "" {
			all = append(all, read.Name)
		}
	}
	if from, ok := strings.CutPrefix(spec.Image, "kit:"); ok {
		all = append(all, from)
	}
	if spec.Name != "" {
		all = append(all, spec.Name)
	}
	if ref := spec.Image + spec.Rootfs; len(all) == 0 && ref != "" {
		all = append(all, recovery.ServiceOf(ref))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// salvageObjects are the container as the store calls it, without KIND: or NAMESPACE/, and as it is to be called.
func salvageObjects(c *cli.Context) []string {
	var all []string
	if name := c.Args().First(); name != "" {
		all = append(all, name[strings.LastIndexAny(name, ":/")+1:])
	}
	if name := c.String("name"); name != "" && !slices.Contains(all, name) {
		all = append(all, name)
	}
	return all
}

func runbookObjects(c *cli.Context) []string {
	f, err := runbooks.Read(c.Args().First())
	if err != nil {
		return nil
	}
	rb, err := oneRunbook(f, c.String("runbook"))
	if err != nil {
		return nil
	}
	return []string{rb.Service}
}

// resumeObjects reads the service of SERVICE/TIME.
func resumeObjects(c *cli.Context) []string {
	if run := c.Args().First(); run != "" {
		return []string{path.Dir(run)}
	}
	return nil
}

func rehearsalObjects(c *cli.Context) []string {
	var all []string
	for _, file := range c.Args().Slice() {
		f, err := runbooks.Read(file)
		if err != nil {
			continue
		}
		for _, r := range f.Rehearsals {
			if !slices.Contains(all, r.Service) {
				all = append(all, r.Service)
			}
		}
	}
	return all
}
