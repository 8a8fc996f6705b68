package graph

import (
	"encoding/json"
	"strings"
)

// key reads a key and its colon. It is false, without a failure, where there is no colon.
func (p *plain) key(flow bool) (string, bool) {
	quoted := p.peek() == '"' || p.peek() == '\''
	n := p.scalar(flow)
	if p.bad || n.shape != text || p.peek() != ':' {
		return "", false
	}
	if !quoted && strings.Contains(n.text, ":") {
		p.bad = true // readers differ on these
		return "", false
	}
	p.i++
	if c := p.peek(); c != ' ' && c != '\n' && c != 0 && !(flow && quoted) {
		return "", false
	}
	return n.text, true
}

// scalar reads one text, number, or what looks like one of them, up to where it ends on its line.
func (p *plain) scalar(flow bool) node {
	n := p.here()
	switch p.peek() {
	case '"':
		return p.double(n)
	case '\'':
		return p.single(n)
	}
	from := p.i
	for p.i < len(p.s) && !p.ends(flow) {
		p.i++
	}
	s := strings.TrimRight(p.s[from:p.i], " ")
	p.i = from + len(s)
	switch s {
	case "true", "false":
		n.shape, n.text = boolean, s
		return n
	}
	switch {
	case s == "":
		return p.fail()
	case digits(s):
		n.shape, n.text = number, s
	case certain(s):
		n.shape, n.text = text, s
	default:
		return p.fail()
	}
	return n
}

// ends says whether a text without quotes ends before the next byte.
func (p *plain) ends(flow bool) bool {
	switch p.s[p.i] {
	case '\n':
		return true
	case ':':
		if p.i+1 == len(p.s) {
			return true
		}
		c := p.s[p.i+1]
		return c == ' ' || c == '\n' || flow && strings.IndexByte(",[]{}", c) >= 0
	case '#':
		return p.i == p.start || p.s[p.i-1] == ' '
	case ',', '[', ']', '{', '}':
		return flow
	}
	return false
}

// digits says whether a text is a whole number in its usual form.
func digits(s string) bool {
	if len(s) > 18 || s[0] == '0' && len(s) > 1 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// certain says whether a text without quotes is text to every reader of YAML 1.2: it starts with a letter, or with a
// digit and has letters that no number has.
func certain(s string) bool {
	c := s[0] | 0x20
	if (c < 'a' || c > 'z') && c != '/' && s[0] < 0x80 {
		if s[0] < '0' || s[0] > '9' || strings.IndexByte("oObBxX_", s[min(1, len(s)-1)]) >= 0 {
			return false
		}
		// 90s and 1h30m are text; 1e3, 0x1f, 1_000, 1.5 and dates are left to the library.
		return strings.ContainsAny(s, "ghijklmnpqrstuvwyzGHIJKLMNPQRSTUVWYZ") && !strings.ContainsAny(s, ":-+_")
	}
	if s[len(s)-1] == ':' {
		return false
	}
	if len(s) <= 5 {
		switch strings.ToLower(s) {
		case "true", "false", "null", "nan", "inf":
			return false
		}
	}
	return true
}

// double reads a text in double quotes, with the escapes that JSON has.
func (p *plain) double(n node) node {
	from := p.i
	escaped := false
	for p.i++; p.i < len(p.s) && p.s[p.i] != '"'; p.i++ {
		switch p.s[p.i] {
		case '\n':
			return p.fail()
		case '\\':
			escaped = true
			p.i++
		}
	}
	if p.i >= len(p.s) {
		return p.fail()
	}
	p.i++
	n.shape, n.text = text, p.s[from+1:p.i-1]
	if escaped && json.Unmarshal([]byte(p.s[from:p.i]), &n.text) != nil {
		return p.fail()
	}
	return n
}

// single reads a text in single quotes, where two of them stand for one.
func (p *plain) single(n node) node {
	p.i++
	from := p.i
	for ; p.i < len(p.s) && p.s[p.i] != '\n'; p.i++ {
		if p.s[p.i] != '\'' {
			continue
		}
		if p.i+1 < len(p.s) && p.s[p.i+1] == '\'' {
			p.i++
			continue
		}
		n.shape, n.text = text, strings.ReplaceAll(p.s[from:p.i], "''", "'")
		p.i++
		return n
	}
	return p.fail()
}
