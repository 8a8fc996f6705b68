package access

import (
	"bufio"
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Source is a file of policy, and the detached signatures of its exact bytes.
type Source struct {
	Name       string
	Text       []byte
	Signatures [][]byte // SSHSIG, as ssh-keygen -Y sign -n blackstart-access makes them
}

// parser collects the statements of all files.
type parser struct {
	rules  []Rule
	scopes []int // of each rule, the number of its source
	groups map[string][]string
	whereG map[string]Where
}

// subjectKinds are the words before a subject's colon.
func subjectKinds() []string {
	return []string{"user", "uid", "unix", "gid", "cert", "tls", "org", "key", "group"}
}

const anyone = "anyone"

func (p *parser) file(n int, s Source) error {
	lines := bufio.NewScanner(bytes.NewReader(s.Text))
	lines.Buffer(nil, maxLine)
	at := Where{File: s.Name}
	for lines.Scan() {
		at.Line++
		line, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		at.Text = strings.Join(words, " ")
		if err := p.line(n, at, words); err != nil {
			return fmt.Errorf("%w: %s:%d: %w", ErrInvalid, s.Name, at.Line, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %s:%d: %w", ErrInvalid, s.Name, at.Line+1, err)
	}
	return nil
}

func (p *parser) line(n int, at Where, words []string) error {
	if len(words) > maxWords {
		return fmt.Errorf("more than %d words", maxWords)
	}
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r < 0x21 || r == 0x7f || r > 0x7e }) {
			return fmt.Errorf("%.80q: want visible ASCII", w)
		}
	}
	switch words[0] {
	case "group":
		return p.group(at, words[1:])
	case "allow", "deny":
		r, err := parseRule(words)
		if err != nil {
			return err
		}
		if len(p.rules) == maxRules {
			return fmt.Errorf("more than %d rules", maxRules)
		}
		r.Where = at
		p.rules, p.scopes = append(p.rules, r), append(p.scopes, n)
		return nil
	}
	return fmt.Errorf("%.40q; a line begins with group, allow or deny", words[0])
}

func (p *parser) group(at Where, words []string) error {
	if len(words) < 2 || !word(words[0]) {
		return fmt.Errorf("want group NAME SUBJECT …")
	}
	name := words[0]
	if w, ok := p.whereG[name]; ok {
		return fmt.Errorf("group %s is there already, %s:%d: two lists would quietly add up", name, w.File, w.Line)
	}
	for _, s := range words[1:] {
		if s == anyone {
			return fmt.Errorf("a group of %s is no group", anyone)
		}
		if err := checkSubject(s); err != nil {
			return err
		}
	}
	p.groups[name], p.whereG[name] = words[1:], at
	return nil
}

// parseRule reads allow SUBJECT… to VERB… on OBJECT… [needs N of SUBJECT for DURATION].
func parseRule(words []string) (Rule, error) {
	r := Rule{Deny: words[0] == "deny"}
	rest := words[1:]
	var ok bool
	if r.Subjects, rest, ok = cutAt(rest, "to"); !ok {
		return r, fmt.Errorf("want %s SUBJECT … to VERB … on SERVICE …", words[0])
	}
	if r.Verbs, rest, ok = cutAt(rest, "on"); !ok {
		return r, fmt.Errorf("want %s SUBJECT … to VERB … on SERVICE …", words[0])
	}
	r.Objects = rest
	if i := slices.Index(rest, "needs"); i >= 0 {
		r.Objects = rest[:i]
		n, err := parseNeeds(rest[i+1:])
		if err != nil {
			return r, err
		}
		if r.Deny {
			return r, fmt.Errorf("a deny needs nothing")
		}
		r.Needs = n
	}
	if len(r.Subjects) == 0 || len(r.Verbs) == 0 || len(r.Objects) == 0 {
		return r, fmt.Errorf("want %s SUBJECT … to VERB … on SERVICE …", words[0])
	}
	for _, s := range r.Subjects {
		if err := checkSubject(s); err != nil {
			return r, err
		}
	}
	for _, v := range r.Verbs {
		if v != "*" && !word(v) {
			return r, fmt.Errorf("%.80q is no verb", v)
		}
	}
	for _, o := range r.Objects {
		if !objectPattern(o) {
			return r, fmt.Errorf("%.80q is neither a service nor a beginning with a star at its end", o)
		}
	}
	return r, nil
}

func parseNeeds(words []string) (*Needs, error) {
	n := &Needs{For: time.Hour}
	var err error
	if len(words) >= 3 {
		n.Count, err = strconv.Atoi(words[0])
	}
	if len(words) < 3 || err != nil || words[1] != "of" || n.Count < 1 || n.Count > 20 {
		return nil, fmt.Errorf("want needs N of group:NAME [for DURATION], N from 1 to 20")
	}
	n.Of = words[2]
	if !strings.HasPrefix(n.Of, "group:") && !strings.HasPrefix(n.Of, "key:") {
		return nil, fmt.Errorf("%.80q: approvals come from a key: or a group: of them", n.Of)
	}
	if err := checkSubject(n.Of); err != nil {
		return nil, err
	}
	if rest := words[3:]; len(rest) > 0 {
		if len(rest) != 2 || rest[0] != "for" {
			return nil, fmt.Errorf("want needs N of group:NAME for DURATION")
		}
		if n.For, err = time.ParseDuration(rest[1]); err != nil || n.For < time.Minute || n.For > LongestGrant {
			return nil, fmt.Errorf("%.40q: want a duration of a minute to %s", rest[1], LongestGrant)
		}
	}
	return n, nil
}

func cutAt(words []string, at string) (before, after []string, ok bool) {
	i := slices.Index(words, at)
	if i < 0 {
		return nil, nil, false
	}
	return words[:i], words[i+1:], true
}

func checkSubject(s string) error {
	if s == anyone {
		return nil
	}
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || len(name) > 1024 || !slices.Contains(subjectKinds(), kind) {
		return fmt.Errorf("%.80q is no subject; want anyone or one of %s: and a name", s, strings.Join(subjectKinds(), ":, "))
	}
	if kind == "uid" || kind == "gid" {
		if n, err := strconv.ParseUint(name, 10, 32); err != nil || strconv.FormatUint(n, 10) != name {
			return fmt.Errorf("%.80q: want a number", s)
		}
	}
	if kind == "group" && !word(name) {
		return fmt.Errorf("%.80q: want a group's name of letters, digits, ., _, -", s)
	}
	return nil
}

// word says whether s is a plain name.
func word(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

func objectPattern(s string) bool {
	s, _ = strings.CutSuffix(s, "*")
	return s == "" || word(strings.NewReplacer("/", "-", ":", "-").Replace(s))
}
