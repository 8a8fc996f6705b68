package sandbox

import (
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Table writes attempts for people, the blocked ones first, one line each:
//
//	blocked
//	  etcd (pid 41) tried 10.0.0.1:443 (package-store), 12 times, never answered
//	allowed
//	  curl (pid 52) reached store.example:443 (package-store), answered, 120 B out, 3.4 kB in
//
// Nothing that a program chose reaches the terminal as a control character.
func Table(w io.Writer, attempts []Attempt) error {
	var b strings.Builder
	hosts := false
	for _, a := range attempts {
		hosts = hosts || a.Host > 0
	}
	for _, v := range []Verdict{Blocked, Allowed, Inside} {
		first := true
		for _, a := range attempts {
			if a.Verdict != v || a.Count+int(a.Sent+a.Received) == 0 {
				continue
			}
			if first {
				b.WriteString(string(v) + "\n")
				first = false
			}
			b.WriteString("  " + sentence(a, hosts) + "\n")
		}
	}
	if b.Len() == 0 {
		b.WriteString("nothing was tried\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

// sentence is one attempt as a person would say it.
func sentence(a Attempt, hosts bool) string {
	var b strings.Builder
	b.WriteString(whose(a))
	if hosts {
		fmt.Fprintf(&b, " on host %d", a.Host)
	}
	verb := map[Verdict]string{Blocked: "tried", Allowed: "reached", Inside: "used"}[a.Verdict]
	if a.Proto == "dns" {
		verb = "asked for the name"
	}
	b.WriteString(" " + verb + " " + aim(a))
	if a.Capability != "" {
		b.WriteString(" (" + Printable(a.Capability) + ")")
	}
	switch {
	case a.Count == 2:
		b.WriteString(", twice")
	case a.Count > 2:
		fmt.Fprintf(&b, ", %d times", a.Count)
	}
	if a.Outcome != "" {
		b.WriteString(", " + Printable(string(a.Outcome)))
	}
	if a.Sent+a.Received > 0 {
		fmt.Fprintf(&b, ", %s out, %s in", size(a.Sent), size(a.Received))
	}
	if a.Detail != "" {
		b.WriteString(": " + Printable(a.Detail))
	}
	return b.String()
}

func whose(a Attempt) string {
	name := "a program"
	switch {
	case len(a.Command) > 0 && a.Command[0] != "":
		name = path.Base(a.Command[0])
		if slices.Contains([]string{".", "/"}, name) {
			name = a.Command[0]
		}
	case a.Executable != "":
		name = path.Base(a.Executable)
	}
	name = Printable(name)
	if a.PID != 0 {
		name += " (pid " + strconv.Itoa(a.PID) + ")"
	}
	if a.Container != "" {
		name += " in " + Printable(a.Container)
	}
	return name
}

// aim is the destination, by the name it was asked by if there is one.
func aim(a Attempt) string {
	d := Printable(a.Destination)
	if _, port, err := net.SplitHostPort(a.Destination); err == nil && a.Name != "" {
		d = net.JoinHostPort(Printable(a.Name), Printable(port))
	}
	switch a.Proto {
	case "tcp", "http", "dns", protoUnix, protoAbstract:
		return d // its spelling says it
	}
	return Printable(a.Proto) + " " + d
}

// size is a number of bytes for people, in steps of 1000.
func size(n int64) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB"} {
		if f /= 1000; f < 999.95 {
			return strconv.FormatFloat(f, 'f', 1, 64) + " " + unit
		}
	}
	return strconv.FormatFloat(f/1000, 'f', 1, 64) + " TB"
}

// Printable writes whatever a terminal could take for a command, and what would
// turn the order of the text around, as an escape.
func Printable(s string) string {
	clean := func(r rune) bool { return unicode.IsPrint(r) && r != unicode.ReplacementChar }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case clean(r):
			b.WriteRune(r)
		case r == unicode.ReplacementChar:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}
