package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"
)

// masked stands for what is not for the record.
const masked = "***"

// Bounds of a command line in the record: words, and bytes of each.
const (
	maxSpoken     = 400
	maxSpokenWord = 1024
)

// secretFlags are the flags whose value, or what follows its first "=", is a secret or may be one.
func secretFlags() map[string]bool { return map[string]bool{"env": true, "var": true, "token": true} }

// secretWords finds secrets in what other programs are told: --password=x, TOKEN=x, "Authorization: x", http://user:x@host.
const secretWords = `(?i)([\w.-]*(?:passw|passphrase|secret|token|api[_-]?key|credential|authorization|private[_-]?key)[\w.-]*["']?\s*(?:=|:\s?|\s)\s*(?:(?:bearer|basic)\s+)?)("[^"]*"|'[^']*'|\S+)|(://[^/\s:@]*:)[^/\s@]+(@)`

// secretFlagWord is a word whose next one is a secret.
const secretFlagWord = `(?i)^-{1,2}[\w.-]*(passw|passphrase|secret|token|api[_-]?key|credential)[\w.-]*$`

// spoken is the command line as it was understood, without secrets.
func spoken(c *cli.Context, name string) []string {
	inside, flagWord := regexp.MustCompile(secretWords), regexp.MustCompile(secretFlagWord)
	clean := func(words []string) []string {
		out := make([]string, 0, len(words))
		for i, w := range words {
			if i > 0 && flagWord.MatchString(words[i-1]) {
				w = masked
			}
			w = inside.ReplaceAllString(w, "${1}${3}"+masked+"${4}")
			if len(w) > maxSpokenWord {
				w = strings.ToValidUTF8(w[:maxSpokenWord], "") + "..."
			}
			out = append(out, w)
		}
		return out
	}
	all := strings.Fields(name)
	secret := secretFlags()
	for _, f := range c.Command.Flags {
		flag := f.Names()[0]
		if flag == reasonFlag || !c.IsSet(flag) {
			continue
		}
		said := "--" + flag
		if len(flag) == 1 {
			said = "-" + flag
		}
		var values []string
		switch v := c.Value(flag).(type) {
		case bool:
			all = append(all, fmt.Sprintf("%s=%t", said, v))
			continue
		case cli.StringSlice:
			values = v.Value()
		default:
			values = []string{fmt.Sprint(v)}
		}
		for _, v := range clean(values) {
			if secret[flag] {
				before, _, ok := strings.Cut(v, "=")
				if v = masked; ok {
					v = before + "=" + masked
				}
			}
			all = append(all, said, v)
		}
	}
	if c.Args().Present() {
		all = append(append(all, "--"), clean(c.Args().Slice())...)
	}
	if len(all) > maxSpoken {
		all = append(all[:maxSpoken], fmt.Sprintf("... %d more", len(all)-maxSpoken))
	}
	return all
}
