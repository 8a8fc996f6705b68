package drill

import (
	"bytes"
	"strings"
)

// The shell of a drill tells what it does by marks in its own output: operating
// system commands (ECMA-48, OSC) with a number that no terminal knows and a word
// that only this drill's shell has. They are taken out of what the operator sees.
const (
	markHead = "\x1b]7717;"
	markEnd  = '\a'
	maxMark  = 16 << 10 // bytes
)

// The kinds of marks.
const (
	markReady = 'R' // the shell waits for a line
	markBegan = 'C' // a command line begins; it is the mark's text
	markEnded = 'E' // it ended with this status
	markHint  = 'H' // the operator asks for a hint
	markSteps = 'L' // and for the steps
	markVisit = 'V' // and for a shell on the host of this name
)

// marks takes the marks out of a terminal's output. What looks like the beginning
// of one is held back until it is one, or is not.
type marks struct {
	head []byte
	held []byte
	text func([]byte)
	mark func(kind byte, text string)
}

// newMarks passes on text and marks in the order in which they come. word is the
// shell's.
func newMarks(word string, text func([]byte), mark func(kind byte, text string)) *marks {
	return &marks{head: []byte(markHead + word + ";"), text: text, mark: mark}
}

func (m *marks) Write(b []byte) (int, error) {
	m.held = append(m.held, b...)
	rest := m.held
	for len(rest) > 0 {
		at := bytes.Index(rest, m.head)
		if at < 0 {
			at = len(rest) - partial(rest, m.head)
		}
		if at > 0 {
			m.text(rest[:at])
			rest = rest[at:]
		}
		if len(rest) <= len(m.head) {
			break
		}
		end := bytes.IndexByte(rest[:min(len(rest), maxMark)], markEnd)
		if end < 0 && len(rest) < maxMark {
			break
		}
		if end <= len(m.head) { // it only began like one
			m.text(rest[:len(m.head)])
			rest = rest[len(m.head):]
			continue
		}
		inner := string(rest[len(m.head):end])
		m.mark(inner[0], unescape(strings.TrimPrefix(inner[1:], ";")))
		rest = rest[end+1:]
	}
	m.held = append(m.held[:0], rest...)
	return len(b), nil
}

// flush passes on what was held back.
func (m *marks) flush() {
	if len(m.held) > 0 {
		m.text(m.held)
		m.held = nil
	}
}

// partial is how many bytes at the end of b begin head.
func partial(b, head []byte) int {
	for n := min(len(head), len(b)); n > 0; n-- {
		if bytes.HasSuffix(b, head[:n]) {
			return n
		}
	}
	return 0
}

// unescape puts the newlines and backslashes of a command back.
func unescape(s string) string {
	return strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(strings.ToValidUTF8(s, "\uFFFD"))
}
