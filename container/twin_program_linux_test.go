package container

import (
	"slices"
	"strings"
	"testing"
)

func TestProgram(t *testing.T) {
	for _, c := range []struct{ argv, name, args string }{
		{"/usr/local/bin/etcd --name a", "etcd", "--name a"},
		{"/sbin/tini -- /entrypoint.sh etcd --name a", "etcd", "--name a"},
		{"/bin/sh -e /entrypoint.sh redis-server *:6379", "redis-server", "*:6379"},
		{"python3 -m http.server", "http.server", ""},
		{"-bash", "", ""},
		{"sh", "", ""},
		{"", "", ""},
	} {
		name, args := program(strings.Fields(c.argv))
		if name != c.name || !slices.Equal(args, strings.Fields(c.args)) {
			t.Errorf("program(%q) = %q, %q; want %q, %q", c.argv, name, args, c.name, c.args)
		}
	}
}

func TestCommand(t *testing.T) {
	if got := command([]string{"a", "b\x1b[2J", "c\n"}); got != "a b?[2J c?" {
		t.Errorf("command() = %q; want a b?[2J c?", got)
	}
	if got := command([]string{strings.Repeat("ä", 1000)}); len(got) > maxCommand+4 || !strings.HasSuffix(got, "ä…") {
		t.Errorf("command() = %d bytes ending in %q; want about %d, cut between letters", len(got), got[len(got)-5:], maxCommand)
	}
}
