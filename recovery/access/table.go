package access

import (
	"fmt"
	"strings"
	"time"
)

// Case is a line of a table of expected decisions.
type Case struct {
	Line    int
	Text    string
	Subject Subject
	Verb    string
	Service string
	Want    Outcome
}

// Failed is a case that went another way.
type Failed struct {
	Case
	Got Explanation
}

// ParseTable reads what a policy is expected to decide, for access test and CI:
//
//	# subjects in the policy's words, then may, may not or needs approval, then verb and service
//	user:alice unix:storage   may             restart etcd
//	user:mallory              may not         exec    etcd
//	unix:sre                  needs approval  run     etcd
//
// Errors: ErrInvalid with the line.
func ParseTable(text []byte) ([]Case, error) {
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("reading table: %w: larger than %d bytes", ErrInvalid, maxPolicy)
	}
	var all []Case
	n := 0
	for raw := range strings.Lines(string(text)) {
		n++
		line, _, _ := strings.Cut(raw, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		c := Case{Line: n, Text: strings.Join(words, " "), Subject: Subject{UID: -1}}
		for len(words) > 0 && strings.Contains(words[0], ":") {
			if err := c.subject(words[0]); err != nil {
				return nil, fmt.Errorf("reading table: %w: line %d: %w", ErrInvalid, n, err)
			}
			words = words[1:]
		}
		outcome := map[string]Outcome{"may": Allowed, "may not": Denied, "needs approval": Needed}
		for _, k := range []int{2, 1} {
			if len(words) < k {
				continue
			}
			if o, ok := outcome[strings.Join(words[:k], " ")]; ok {
				c.Want, words = o, words[k:]
				break
			}
		}
		if c.Want == "" || len(words) != 2 || !word(words[0]) || !objectPattern(words[1]) {
			return nil, fmt.Errorf("reading table: %w: line %d: want SUBJECT … may | may not | needs approval VERB SERVICE", ErrInvalid, n)
		}
		c.Verb, c.Service = words[0], words[1]
		all = append(all, c)
	}
	return all, nil
}

func (c *Case) subject(w string) error {
	if err := checkSubject(w); err != nil {
		return err
	}
	kind, name, _ := strings.Cut(w, ":")
	s := &c.Subject
	var id int
	if kind == "uid" || kind == "gid" {
		if _, err := fmt.Sscan(name, &id); err != nil {
			return err
		}
	}
	switch kind {
	case "user":
		s.User = name
	case "uid":
		s.UID = id
	case "gid":
		s.GIDs = append(s.GIDs, id)
	case "unix":
		s.Unix = append(s.Unix, name)
	case "cert":
		s.Principals = append(s.Principals, name)
	case "tls":
		s.TLS = append(s.TLS, name)
	case "org":
		s.Orgs = append(s.Orgs, name)
	case "key":
		s.Key = name
	default:
		return fmt.Errorf("%s: a case is about somebody, not about a group of the policy", w)
	}
	return nil
}

// Test decides every case, without grants, and gives those that went another way.
func (p *Policy) Test(now time.Time, cases []Case) []Failed {
	var all []Failed
	for _, c := range cases {
		if got := p.Explain(now, c.Subject, c.Verb, c.Service, nil); got.Outcome != c.Want {
			all = append(all, Failed{Case: c, Got: got})
		}
	}
	return all
}
