package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestHelp asks every command how it is used: a flag that is there twice shows in
// nothing else before somebody needs the command.
func TestHelp(t *testing.T) {
	var walk func(path []string, c *cli.Command)
	walk = func(path []string, c *cli.Command) {
		path = append(path[:len(path):len(path)], c.Name)
		var out bytes.Buffer
		app := newApp(slog.New(newHandler(&out)))
		app.Writer = &out
		if err := app.Run(append(append([]string{"blackstart"}, path...), "--help")); err != nil {
			t.Errorf("blackstart %s --help = %v", strings.Join(path, " "), err)
		}
		if !strings.Contains(out.String(), c.Usage) {
			t.Errorf("blackstart %s --help does not say %q", strings.Join(path, " "), c.Usage)
		}
		for _, sub := range c.Subcommands {
			walk(path, sub)
		}
	}
	for _, c := range commands() {
		if !c.Hidden {
			walk(nil, c)
		}
	}
}
