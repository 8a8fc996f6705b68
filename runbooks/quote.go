package runbooks

import (
	"strconv"
	"strings"
)

// flowText writes one line of text so that YAML reads it back as text in a list in brackets.
func flowText(s string) string {
	if plainFlow(s) {
		return s
	}
	return strconv.Quote(s)
}

// plainFlow says whether YAML reads s as itself without quotes: capability names and endpoints mostly.
func plainFlow(s string) bool {
	if s == "" || strings.HasSuffix(s, ":") || strings.Contains(s, "://") {
		return false
	}
	for i, c := range s {
		letter := (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (i == 0 || !strings.ContainsRune("0123456789._-/:", c)) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "true", "false", "on", "off", "null":
		return false
	}
	return true
}

// shellQuote writes one argument for a shell. ${name} in it stays a variable.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-") == "" {
		return s
	}
	if !strings.Contains(s, "${") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		variable := c == '$' && strings.HasPrefix(s[i:], "${") && (i == 0 || s[i-1] != '$')
		if c == '$' && strings.HasPrefix(s[i:], "$${") {
			continue // the next one is the character
		}
		if strings.IndexByte("\"\\`$", c) >= 0 && !variable {
			out.WriteByte('\\')
		}
		out.WriteByte(c)
	}
	return `"` + out.String() + `"`
}
