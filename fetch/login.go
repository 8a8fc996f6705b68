package fetch

import (
	"fmt"
	"net"
	"strings"
)

// ParseLogins reads users and passwords in the form of a .netrc file (ftp(1)):
//
//	machine HOST[:PORT] login USER password SECRET
//	default login USER password SECRET
//
// Words stand apart by white space; a line that begins with # is left out. A
// macdef is an error. The function that it returns goes into [Net].
func ParseLogins(text string) (func(host string) (user, password string, ok bool), error) {
	type login struct{ user, password string }
	logins := map[string]login{} // "" is the default's
	var words []string
	for l := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(l), "#") {
			words = append(words, strings.Fields(l)...)
		}
	}
	host, begun := "", false
	for len(words) > 0 {
		word := words[0]
		if word == "default" {
			host, begun, words = "", true, words[1:]
			logins[host] = login{}
			continue
		}
		if len(words) < 2 {
			return nil, fmt.Errorf("reading logins: nothing follows the last %q", word)
		}
		value := words[1]
		words = words[2:]
		l := logins[host]
		switch {
		case word == "machine":
			host, begun = value, true
			l = login{}
		case !begun:
			return nil, fmt.Errorf("reading logins: %.20q stands before the first machine", word)
		case word == "login":
			l.user = value
		case word == "password":
			l.password = value
		case word == "account":
		default:
			return nil, fmt.Errorf("reading logins: %.20q is not machine, default, login or password", word)
		}
		logins[host] = l
	}
	return func(host string) (string, string, bool) {
		l, ok := logins[host]
		if name, _, err := net.SplitHostPort(host); !ok && err == nil {
			l, ok = logins[name]
		}
		if !ok {
			l, ok = logins[""]
		}
		return l.user, l.password, ok
	}, nil
}
