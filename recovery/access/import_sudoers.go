package access

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// sudoers is a reader of sudoers(5).
type sudoers struct {
	out   *Imported
	host  string
	alias map[string]map[string][]string // by kind, then by name
}

// ImportSudoers turns sudoers(5) into policy. What a rule lets somebody run is compared with the commands that manage services:
// systemctl, service, docker, podman and nerdctl; ALL becomes every verb on every service. Everything else, and every
// restriction that would be lost with it, is reported. host is this host's name, for rules that are not for ALL hosts.
//
// Errors: ErrInvalid where it is too large.
func ImportSudoers(text []byte, host string) (Imported, error) {
	var out Imported
	if len(text) > maxPolicy {
		return out, fmt.Errorf("reading sudoers: %w: larger than %d bytes", ErrInvalid, maxPolicy)
	}
	s := &sudoers{out: &out, host: host, alias: map[string]map[string][]string{}}
	type numbered struct {
		n    int
		text string
	}
	var specs []numbered
	for _, l := range joinLines(string(text)) {
		switch first, rest, _ := strings.Cut(l.text, " "); {
		case slices.Contains([]string{"User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "Cmd_Alias"}, first):
			s.aliases(l.n, first, rest)
		case strings.HasPrefix(first, "Defaults"):
			s.out.lost(l.n, l.text, "a setting of sudo itself")
		case strings.HasPrefix(first, "@include") || strings.HasPrefix(first, "#include"):
			s.out.lost(l.n, l.text, "another file: import it as well")
		default:
			specs = append(specs, l)
		}
	}
	// Aliases may come after their use.
	for _, l := range specs {
		s.spec(l.n, l.text)
	}
	return out, nil
}

// joinLines joins continued lines and drops comments, but for #include and #UID.
func joinLines(text string) []struct {
	n    int
	text string
} {
	var all []struct {
		n    int
		text string
	}
	n, start := 0, 0
	var open strings.Builder
	for line := range strings.Lines(text) {
		n++
		if open.Len() == 0 {
			start = n
		}
		line = strings.TrimRight(line, "\r\n")
		if rest, ok := strings.CutSuffix(line, "\\"); ok {
			open.WriteString(rest + " ")
			continue
		}
		open.WriteString(line)
		whole := strings.TrimSpace(open.String())
		open.Reset()
		if i := commentAt(whole); i >= 0 {
			whole = strings.TrimSpace(whole[:i])
		}
		if whole = strings.Join(strings.Fields(whole), " "); whole != "" {
			all = append(all, struct {
				n    int
				text string
			}{start, whole})
		}
	}
	return all
}

func commentAt(s string) int {
	for i := range len(s) {
		if s[i] != '#' || i > 0 && s[i-1] == '\\' {
			continue
		}
		rest := s[i+1:]
		if strings.HasPrefix(rest, "include") || rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			continue
		}
		return i
	}
	return -1
}

func (s *sudoers) aliases(n int, kind, rest string) {
	if kind == "Cmd_Alias" {
		kind = "Cmnd_Alias"
	}
	if s.alias[kind] == nil {
		s.alias[kind] = map[string][]string{}
	}
	for _, def := range strings.Split(rest, ":") {
		name, list, ok := strings.Cut(def, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			s.out.lost(n, def, "no alias")
			continue
		}
		s.alias[kind][name] = splitList(list)
	}
}

func splitList(s string) []string {
	var all []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			all = append(all, part)
		}
	}
	return all
}

// expand replaces aliases, as deep as they go; "!" before one turns all of it around.
func (s *sudoers) expand(kind string, list []string, depth int) []string {
	var all []string
	for _, e := range list {
		name := strings.TrimLeft(e, "! ")
		negated := strings.Count(e[:len(e)-len(name)], "!")%2 == 1
		inner := []string{name}
		if def, ok := s.alias[kind][name]; ok && depth < 16 {
			inner = s.expand(kind, def, depth+1)
		}
		for _, i := range inner {
			if negated {
				if rest, ok := strings.CutPrefix(i, "!"); ok {
					i = rest
				} else {
					i = "!" + i
				}
			}
			if len(all) < 10_000 {
				all = append(all, i)
			}
		}
	}
	return all
}

// spec reads USERS HOSTS = [(RUNAS)] [TAG:] COMMANDS [: HOSTS = …].
func (s *sudoers) spec(n int, text string) {
	left, cmds, ok := strings.Cut(text, "=")
	fields := strings.Fields(left)
	if !ok || len(fields) < 2 {
		s.out.lost(n, text, "not a rule of the form USERS HOSTS = COMMANDS")
		return
	}
	// Spaces are allowed after the commas of either list; the last word that no comma precedes begins the hosts.
	at := len(fields) - 1
	for at > 1 && strings.HasSuffix(fields[at-1], ",") {
		at--
	}
	users := s.users(n, s.expand("User_Alias", splitList(strings.Join(fields[:at], " ")), 0))
	if !s.here(s.expand("Host_Alias", splitList(strings.Join(fields[at:], " ")), 0)) {
		s.out.lost(n, text, "for other hosts than this")
		return
	}
	if strings.Contains(cmds, " : ") {
		s.out.lost(n, text, "several rules on one line: write one a line")
		return
	}
	if len(users) == 0 {
		return
	}
	s.commands(n, users, cmds)
}

func (s *sudoers) here(hosts []string) bool {
	in := false
	for _, h := range hosts {
		name, not := strings.CutPrefix(h, "!")
		if name == "ALL" || s.host != "" && (name == s.host || name == strings.Split(s.host, ".")[0]) {
			in = !not
		}
	}
	return in
}

func (s *sudoers) users(n int, list []string) []string {
	var all []string
	for _, u := range list {
		subject := ""
		switch {
		case u == "ALL":
			subject = anyone
		case strings.HasPrefix(u, "!"):
			s.out.lost(n, u, "everybody but somebody: write a deny")
		case strings.HasPrefix(u, "%#"):
			subject = "gid:" + u[2:]
		case strings.HasPrefix(u, "%:"), strings.HasPrefix(u, "+"):
			s.out.lost(n, u, "a group of a directory, or a netgroup")
		case strings.HasPrefix(u, "%"):
			subject = "unix:" + u[1:]
		case strings.HasPrefix(u, "#"):
			subject = "uid:" + u[1:]
		default:
			subject = "user:" + u
		}
		if subject == "" {
			continue
		}
		if !subjectName(subject) || checkSubject(subject) != nil {
			s.out.lost(n, u, "no name that the policy can hold")
			continue
		}
		all = append(all, subject)
	}
	return all
}

func (s *sudoers) commands(n int, users []string, text string) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "(") {
		runas, rest, ok := strings.Cut(text[1:], ")")
		if !ok {
			s.out.lost(n, text, "no end of the list of users to run as")
			return
		}
		text = strings.TrimSpace(rest)
		as := s.expand("Runas_Alias", splitList(strings.ReplaceAll(runas, ":", ",")), 0)
		if len(as) > 0 && !slices.Contains(as, "ALL") && !slices.Contains(as, "root") {
			s.out.lost(n, text, "runs as "+runas+", not as root")
			return
		}
	}
	for {
		tag, rest, ok := strings.Cut(text, ":")
		if tag = strings.TrimSpace(tag); !ok || tag == "" || strings.Trim(tag, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_") != "" {
			break
		}
		if tag != "NOPASSWD" && tag != "PASSWD" {
			s.out.note("sudo's tag " + tag + " has no meaning here")
		}
		text = strings.TrimSpace(rest)
	}
	list := s.expand("Cmnd_Alias", splitList(text), 0)
	for _, c := range list {
		if cmd, not := strings.CutPrefix(c, "!"); not && cmd != "ALL" {
			if _, _, why := serviceCommand(strings.Fields(cmd)); why != "" {
				s.out.lost(n, text, "without "+c+", which cannot be expressed, the rest would allow more than it did")
				return
			}
		}
	}
	for _, c := range list {
		s.command(n, users, c)
	}
}

func (s *sudoers) command(n int, users []string, c string) {
	cmd, not := strings.CutPrefix(c, "!")
	kind := "allow"
	if not {
		kind = "deny"
	}
	who := strings.Join(users, " ")
	if cmd == "ALL" {
		s.out.write("%s %s to * on *  # sudoers:%d", kind, who, n)
		return
	}
	verbs, object, why := serviceCommand(strings.Fields(cmd))
	if why != "" {
		s.out.lost(n, c, why)
		return
	}
	if not {
		s.out.note("sudo takes the last rule that fits, this policy the first deny")
	}
	s.out.write("%s %s to %s on %s  # sudoers:%d", kind, who, strings.Join(verbs, " "), object, n)
}

// serviceCommand says what a command line does to which service.
func serviceCommand(words []string) (verbs []string, object, why string) {
	if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
		return nil, "", "no command with its whole path"
	}
	words = append([]string{path.Base(words[0])}, words[1:]...)
	containers := map[string][]string{
		"start": {"run"}, "run": {"run"}, "stop": {"stop"}, "kill": {"stop"}, "restart": {"run", "stop"}, "rm": {"rm"}, "exec": {"exec"},
		"logs": {"logs"}, "inspect": {"inspect"}, "stats": {"stats"},
	}
	units := map[string][]string{"start": {"run"}, "stop": {"stop"}, "restart": {"run", "stop"}, "try-restart": {"run", "stop"}, "reload": nil, "status": {"inspect"}}
	known := units
	if len(words) == 3 && words[0] == "service" {
		words = []string{"systemctl", words[2], words[1]}
	}
	switch words[0] {
	case "systemctl":
	case "docker", "podman", "nerdctl":
		known = containers
	default:
		return nil, "", "a command that has nothing to do with services"
	}
	if len(words) != 3 {
		return nil, "", "only VERB SERVICE can be expressed, without options and for one service"
	}
	if verbs = known[words[1]]; verbs == nil {
		return nil, "", "there is no verb for " + words[1]
	}
	object = strings.TrimSuffix(words[2], ".service")
	if !objectPattern(object) {
		return nil, "", "a service's name with patterns that cannot be expressed"
	}
	return verbs, object, ""
}
