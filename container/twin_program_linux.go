package container

import (
	"path/filepath"
	"slices"
	"strings"
)

// sameProgram notes a process that runs the same program. It is certain where
// the whole command line is equal, has arguments, and the process shares the
// network namespace; else a hint, and only if an argument that says where the
// instance lives (a path or URL) is equal too, or the service has none.
func (s *twinScan) sameProgram(p *proc, argv []string) {
	want, wantArgs := program(s.q.Args)
	name, args := program(argv)
	if want == "" || name != want {
		return
	}
	c := Conflict{Kind: "program", What: name, PID: p.pid, Command: command(argv)}
	places := placesIn(wantArgs)
	switch {
	case len(args) > 0 && slices.Equal(args, wantArgs):
		st, ok := p.stat("ns/net")
		c.Certain = ok && st.Dev == s.netns.Dev && st.Ino == s.netns.Ino
		c.Why = "run with the same arguments"
	case len(places) == 0:
		c.Why = "run"
	case slices.ContainsFunc(placesIn(args), func(o option) bool { return slices.Contains(places, o) }):
		c.Why = "run with some equal arguments"
	default:
		return
	}
	s.programs = append(s.programs, c)
}

// program gives the name of the program behind shells, interpreters and inits,
// and its arguments: sh /entrypoint.sh etcd --name a is etcd. It is empty where
// a wrapper is all there is.
func program(argv []string) (name string, args []string) {
	for i, arg := range argv {
		if i > 0 && strings.HasPrefix(arg, "-") {
			continue // the wrapper's own
		}
		base := filepath.Base(arg)
		if arg == "" || strings.HasSuffix(base, ".sh") || isWrapper(base) {
			continue
		}
		return base, argv[i+1:]
	}
	return "", nil
}

func isWrapper(base string) bool {
	return slices.Contains([]string{
		"ash", "bash", "busybox", "dash", "docker-init", "dumb-init", "env", "exec", "gosu", "java", "node", "perl",
		"python", "python3", "ruby", "setpriv", "sh", "su-exec", "sudo", "tini",
	}, strings.TrimPrefix(base, "-"))
}

// placesIn are the options whose value is a path or a URL.
func placesIn(args []string) []option {
	return slices.DeleteFunc(options(append([]string{""}, args...)), func(o option) bool {
		return !strings.Contains(o.value, "/")
	})
}
