package runbooks

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// maxText bounds one text in bytes.
const maxText = 64 << 10

// word is a rule for text.
type word struct {
	about   string         // in an error: want …
	pattern *regexp.Regexp // that ECMAScript reads alike
	max     int            // bytes
	among   []string
}

// vocabulary is the rules, by the names that the tags use. A field without one has text.
var vocabulary = sync.OnceValue(func() map[string]word {
	text := word{about: "text", pattern: regexp.MustCompile(`[^\s]`), max: maxText}
	return map[string]word{
		"": text, "text": text, "script": text,
		"value":   {about: "text", pattern: regexp.MustCompile(``), max: maxText},
		"line":    {about: "one line of text", pattern: regexp.MustCompile(`^[^\s]([^\n]*[^\s])?$`), max: 1000},
		"id":      {about: "letters, digits, and . _ - between them", pattern: regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`), max: 100},
		"var":     {about: "a variable's name: lower-case letters, digits and _, a letter first", pattern: regexp.MustCompile(`^[a-z][a-z0-9_]*$`), max: 60},
		"env":     {about: "letters, digits and _, no digit first", pattern: regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`), max: 100},
		"name":    {about: "a domain name", pattern: regexp.MustCompile(`^[A-Za-z0-9_*]([A-Za-z0-9._-]*[A-Za-z0-9.])?$`), max: 253},
		"mode":    {about: `permissions in octal, in quotes, such as "0755"`, pattern: regexp.MustCompile(`^0?[0-7]{3}$`), max: 4},
		"path":    {about: "an absolute path", pattern: regexp.MustCompile(`^(/|\$\{)[^\n]*$`), max: 4096},
		"file":    {about: "a file's path, relative to this one", pattern: regexp.MustCompile(`^[^/\n][^\n]*$`), max: 4096},
		"net":     {among: []string{"host", "none"}},
		"restart": {among: []string{"no", "on-failure", "always"}},
		"answers": {among: []string{"auth", "lkg", "pin"}},
		"dns":     {among: []string{"serve", "takeover", "release"}},
	}
})

// text says whether a node is text as a field wants it, or notes the error.
func (d decoder) text(n *node, f field) bool {
	if n.shape == number || n.shape == boolean {
		d.at(n, "want text, got %s: put it in quotes", n.shape)
		return false
	}
	if n.shape != text {
		d.at(n, "want text, got %s", n.shape)
		return false
	}
	if err := f.fits(n.text); err != nil {
		d.at(n, "%s: %v", f.key, err)
		return false
	}
	return true
}

// fits is nil for text as a field wants it.
func (f field) fits(s string) error {
	w := vocabulary()[f.text]
	if len(w.among) > 0 {
		if slices.Contains(w.among, s) {
			return nil
		}
		return fmt.Errorf("want %s, got %.80q", strings.Join(w.among, " or "), s)
	}
	if len(s) > w.max {
		return fmt.Errorf("larger than %d bytes", w.max)
	}
	for _, c := range s {
		if hidden(c) {
			return fmt.Errorf("hidden character %U", c)
		}
	}
	if w.pattern.MatchString(s) {
		return nil
	}
	if strings.TrimSpace(s) == "" {
		return errors.New("it is empty")
	}
	return fmt.Errorf("want %s, got %.80q", w.about, s)
}

// meant is a hint for a key that is spelt nearly like one that is known.
func meant(key string, table []field) string {
	if len(key) > 40 {
		return ""
	}
	for _, f := range table {
		if near(key, f.key) {
			return ": did you mean " + f.key + "?"
		}
	}
	return ""
}

// near says whether two words differ by a letter that was added, lost or changed, or by two swapped, or only in - and _.
func near(a, b string) bool {
	if a = strings.ReplaceAll(strings.ToLower(a), "-", "_"); a == b {
		return true
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	ra, rb := a[i:], b[i:]
	switch len(ra) - len(rb) {
	case 1:
		return ra[1:] == rb
	case -1:
		return ra == rb[1:]
	case 0:
		return ra[1:] == rb[1:] || (len(ra) > 1 && ra[0] == rb[1] && ra[1] == rb[0] && ra[2:] == rb[2:])
	}
	return false
}
