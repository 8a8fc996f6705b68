package main

import (
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// leaves calls each with every command that does something, and its words.
func leaves(commands []*cli.Command, each func(string, *cli.Command)) {
	var walk func(string, []*cli.Command)
	walk = func(before string, list []*cli.Command) {
		for _, c := range list {
			name := strings.TrimSpace(before + " " + c.Name)
			if c.Action != nil {
				each(name, c)
			}
			walk(name, c.Subcommands)
		}
	}
	walk("", commands)
}

// TestEveryCommandIsKnown fails for a command that is neither asked about nor known to change nothing.
func TestEveryCommandIsKnown(t *testing.T) {
	all, harmless := changes(), reads()
	seen := map[string]bool{}
	leaves(commands(), func(name string, c *cli.Command) {
		seen[name] = true
		_, changing := all[name]
		if reading := slices.Contains(harmless, name); changing == reading {
			t.Errorf("blackstart %s: in changes() %t, in reads() %t; want it in one of the two", name, changing, reading)
		}
	})
	for name := range all {
		if !seen[name] {
			t.Errorf("changes() has %q, which is no command", name)
		}
	}
	for _, name := range harmless {
		if !seen[name] {
			t.Errorf("reads() has %q, which is no command", name)
		}
	}
}

// TestVerbs holds the verbs together with the commands' names, so that whoever knows one knows the other.
func TestVerbs(t *testing.T) {
	for name, ch := range changes() {
		want := strings.ReplaceAll(name, " ", "-")
		if name == "salvage run" {
			want = "run"
		}
		if ch.verb != want && !(ch.verb == "" && strings.HasPrefix(name, "access ")) {
			t.Errorf("the verb of %q is %q; want %q", name, ch.verb, want)
		}
	}
}

// TestSpoken looks for secrets in what the record would say.
func TestSpoken(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--name", "etcd", "--env", "A=hush", "--env", "hush", "--", "etcd", "--data-dir", "/d"}, "run --name etcd --env A=*** --env *** -- etcd --data-dir /d"},
		{[]string{"run", "--arg", "--password=hush", "--image", "https://me:hush@10.0.0.1/x", "-d"}, "run --arg --password=*** --image https://me:***@10.0.0.1/x --detach=true"},
		{[]string{"exec", "db", "psql", "--token", "hush", "sh", "-c", "API_KEY=hush x; curl -H 'Authorization: Bearer hush' y"}, "exec -- db psql --token *** sh -c API_KEY=*** x; curl -H 'Authorization: Bearer *** y"},
		{[]string{"exec", "db", "put", `{"password": "hush hush", "a": 1}`}, `exec -- db put {"password": ***, "a": 1}`},
		{[]string{"certs", "enroll", "10.0.0.1:1", "--token", "hush", "-o", "d"}, "certs enroll --token *** -o d -- 10.0.0.1:1"},
		{[]string{"runbook", "run", "f.yaml", "--var", "pin=hush", "--var-file", "a=f"}, "runbook run --var pin=*** --var-file a=f -- f.yaml"},
		{[]string{"stop", "a", "b", "--timeout", "3s", "--reason", "not said twice"}, "stop --timeout 3s -- a b"},
		{[]string{"exec", "a", strings.Repeat("x", 5000)}, "exec -- a " + strings.Repeat("x", maxSpokenWord) + "..."},
	} {
		app := newApp(slog.New(newHandler(io.Discard)))
		got := ""
		leaves(app.Commands, func(name string, cmd *cli.Command) {
			cmd.Action = func(c *cli.Context) error {
				got = strings.Join(spoken(c, name), " ")
				return nil
			}
		})
		if err := app.Run(permute(app, append([]string{"blackstart"}, c.args...))); err != nil {
			t.Errorf("%q: %v", c.args, err)
		}
		if got != c.want {
			t.Errorf("spoken(%q) = %q; want %q", c.args, got, c.want)
		}
		if strings.Contains(got, "hush") {
			t.Errorf("spoken(%q) tells a secret", c.args)
		}
	}
}
