package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/access"
)

func cmdAccess() *cli.Command {
	return &cli.Command{
		Name: "access", Usage: "who may do what, decided without asking anybody",
		Description: `A policy is text in the kit, named access or access-..., and signed by the owners of the services it
names (access.OWNER.sig; ssh-keygen -Y sign -n blackstart-access). The owners' keys are in the kit's
policy named signers, or in DATA/signers:

   group storage-oncall  unix:storage user:alice cert:storage-oncall
   group leads           key:carol key:dave key:erin
   allow group:storage-oncall to run stop exec on etcd zk-*
   allow anyone to ps logs inspect on *
   allow unix:sre to run on etcd needs 2 of group:leads for 1h
   deny  user:mallory to * on *

Verbs are the commands, with a dash for the space: run (salvage run too), exec, stop, dns-takeover. Objects
are services; * is the host as well. What nobody allows is denied; a deny that fits wins. Where the kit in
DATA/kit has a policy, every command that changes something asks it first; a reason is given with --reason.
A policy that cannot be read denies what has no reason. Whoever is root can go around this: it keeps
people of good will from mistakes, and the record of what was done remains (access log).

   blackstart access check run etcd
   blackstart access explain --as "user:alice unix:storage" run etcd
   blackstart access request --reason "etcd lost its quorum" --service etcd --verb run`,
		Subcommands:     []*cli.Command{accessCheck(), accessExplain(), accessTest(), accessRequest(), accessApprove(), accessGrants(), accessImport(), accessLog()},
		HideHelpCommand: true,
	}
}

func accessFlags(more ...cli.Flag) []cli.Flag {
	flags := append([]cli.Flag{
		&cli.StringSliceFlag{Name: "policy", Usage: "`FILE` instead of the kit's policy, whoever signed it"},
		&cli.StringFlag{Name: "signers", Usage: "`FILE` in the form of allowed_signers", DefaultText: "DATA/signers, or the kit's"},
		&cli.StringFlag{Name: "kit", Usage: "`DIR` of the kit", DefaultText: "DATA/kit"},
	}, kitFlags()...)
	return append(append(flags, more...), outputFlag())
}

func openAccess(c *cli.Context) (recovery.Site, *recovery.Access, error) {
	s, err := bareSite(c)
	if err != nil {
		return s, nil, err
	}
	a, err := s.OpenAccess(recovery.AccessOptions{Kit: kitOptions(c, c.String("kit")), Files: c.StringSlice("policy"), Signers: c.String("signers")})
	if err != nil {
		return s, nil, err
	}
	for _, u := range a.Unreadable {
		s.Log.Warn("a request that cannot be read counts for nothing: " + u)
	}
	for _, g := range a.Grants {
		if b := a.View(g).Banner; b != "" {
			s.Log.Warn(b)
		}
	}
	return s, a, nil
}

// subject is whoever runs the command, or the one named by --as.
func subject(c *cli.Context, a *recovery.Access) (access.Subject, error) {
	as := c.String("as")
	if as == "" {
		return a.Subject()
	}
	cases, err := access.ParseTable([]byte(strings.Map(oneLine, as) + " may look at"))
	if err != nil || len(cases) != 1 {
		return access.Subject{}, usage("--as %q: want the policy's words, such as user:alice unix:storage", as)
	}
	return cases[0].Subject, nil
}

func oneLine(r rune) rune {
	if r == '\n' || r == '#' {
		return '?'
	}
	return r
}

// verbService reads VERB [SERVICE].
func verbService(c *cli.Context) (verb, service string, err error) {
	if c.NArg() < 1 || c.NArg() > 2 {
		return "", "", usage("%s takes a verb, and a service unless it is about the host", c.Command.FullName())
	}
	return c.Args().Get(0), c.Args().Get(1), nil
}

func asFlag() cli.Flag {
	return &cli.StringFlag{Name: "as", Usage: "somebody else, in the policy's `WORDS`, such as \"user:alice unix:storage\"", DefaultText: "whoever asks"}
}

// denied is an error where a decision is none to go on with.
func denied(d access.Decision) error {
	if d.Outcome == access.Allowed {
		return nil
	}
	return fmt.Errorf("%w: %s", recovery.ErrDenied, d)
}

// decision asks the policy about VERB [SERVICE].
func decision(c *cli.Context) (who access.Subject, e access.Explanation, err error) {
	verb, service, err := verbService(c)
	if err != nil {
		return who, e, err
	}
	_, a, err := openAccess(c)
	if err != nil {
		return who, e, err
	}
	if who, err = subject(c, a); err != nil {
		return who, e, err
	}
	return who, a.Decide(who, verb, service), nil
}

func accessCheck() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "say whether you may", ArgsUsage: "VERB [SERVICE]",
		Description: `Exit status 0: you may; 4: you may not, or it needs approval that is not there.

   blackstart access check run etcd && blackstart run --spec kit:etcd`,
		Flags: accessFlags(asFlag()),
		Action: func(c *cli.Context) error {
			_, e, err := decision(c)
			if err != nil {
				return err
			}
			d := e.Decision
			if err := result(c, d, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, d.Outcome)
				return err
			}); err != nil {
				return err
			}
			return denied(d)
		},
	}
}

func accessExplain() *cli.Command {
	return &cli.Command{
		Name: "explain", Usage: "say which line decides, and who you are to it", ArgsUsage: "VERB [SERVICE]",
		Description: `Exit status as of access check.

   blackstart access explain --as "user:alice unix:storage" --policy access run etcd`,
		Flags: accessFlags(asFlag()),
		Action: func(c *cli.Context) error {
			who, e, err := decision(c)
			if err != nil {
				return err
			}
			said := struct {
				Who access.Subject `json:"who"`
				access.Explanation
			}{who, e}
			if err := result(c, said, func(w io.Writer) error { return writeExplanation(w, who, e) }); err != nil {
				return err
			}
			return denied(e.Decision)
		},
	}
}

func writeExplanation(w io.Writer, who access.Subject, e access.Explanation) error {
	user := []string{who.User}
	if who.UID >= 0 {
		user = append(user, fmt.Sprintf("uid %d", who.UID))
	}
	for _, row := range []struct {
		what string
		is   []string
	}{{"user", user}, {"unix groups", who.Unix}, {"SSH principals", who.Principals}, {"TLS", append(who.TLS, who.Orgs...)}, {"key", []string{who.Key}}} {
		if text := strings.TrimSpace(strings.Join(row.is, " ")); text != "" {
			fmt.Fprintf(w, "%s: %s\n", row.what, printable(text))
		}
	}
	for _, f := range e.Fits {
		fmt.Fprintf(w, "%s:%d fits through %s: %s\n", printable(f.File), f.Line, printable(f.Through), printable(f.Text))
	}
	if len(e.Fits) == 0 {
		fmt.Fprintln(w, "no line fits")
	}
	_, err := fmt.Fprintln(w, e.Decision)
	return err
}

func accessTest() *cli.Command {
	return &cli.Command{
		Name: "test", Usage: "decide a table of cases, for CI", ArgsUsage: "FILE",
		Description: `Each line names subjects, what is expected, a verb and a service. Exit status 1: some went another way.
Users and groups of the policy that this host does not know are said: another one may.

   user:alice unix:storage   may             restart etcd
   user:mallory              may not         exec    etcd
   unix:sre                  needs approval  run     etcd

   blackstart access test cases --policy access`,
		Flags: accessFlags(),
		Action: func(c *cli.Context) error {
			file, err := one(c, "file of cases")
			if err != nil {
				return err
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return usage("reading cases: %w", err)
			}
			s, a, err := openAccess(c)
			if err != nil {
				return err
			}
			cases, err := access.ParseTable(text)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			missing, err := a.Missing()
			if err != nil {
				return err
			}
			for _, m := range missing {
				s.Log.Warn("this host does not know " + m)
			}
			failed := a.Policy.Test(s.Now(), cases)
			said := struct {
				Cases  int             `json:"cases"`
				Failed []access.Failed `json:"failed"`
			}{len(cases), failed}
			if err := result(c, said, func(w io.Writer) error {
				for _, f := range failed {
					fmt.Fprintf(w, "%s:%d: %s\n  got %s\n", file, f.Line, printable(f.Text), printable(f.Got.String()))
				}
				_, err := fmt.Fprintf(w, "%d cases, %d went another way\n", len(cases), len(failed))
				return err
			}); err != nil {
				return err
			}
			if len(failed) > 0 {
				return cli.Exit("", exitFailed)
			}
			return nil
		},
	}
}

func accessImport() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "make policy of lists that exist", ArgsUsage: "sudoers|rbac|groups FILE",
		Description: `The policy goes to standard output, what could not be said in it to standard error: it was left out,
never widened. Read it before you sign it.

   blackstart access import sudoers /etc/sudoers >access-sudo
   kubectl get roles,clusterroles,rolebindings,clusterrolebindings -A -o yaml >rbac.yaml
   blackstart access import rbac rbac.yaml >access-kubernetes
   blackstart access import groups /etc/group >access-groups`,
		Flags: []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return usage("%s takes sudoers, rbac or groups, and a file", c.Command.FullName())
			}
			text, err := os.ReadFile(c.Args().Get(1))
			if err != nil {
				return usage("reading what is imported: %w", err)
			}
			s, err := bareSite(c)
			if err != nil {
				return err
			}
			var out access.Imported
			switch kind := c.Args().First(); kind {
			case "sudoers":
				var host string
				if host, err = os.Hostname(); err == nil {
					out, err = access.ImportSudoers(text, host)
				}
			case "rbac":
				out, err = access.ImportRBAC(text)
			case "groups":
				out, err = access.ImportGroups(text)
			default:
				return usage("%q is not sudoers, rbac or groups", kind)
			}
			if err != nil {
				return err
			}
			return result(c, out, func(w io.Writer) error {
				for _, n := range out.Notes {
					s.Log.Info(n)
				}
				for _, l := range out.Lost {
					s.Log.Warn(fmt.Sprintf("left out: line %d, %s: %s", l.Line, l.Text, l.Why))
				}
				_, err := io.WriteString(w, out.Policy)
				return err
			})
		},
	}
}
