package drill

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// A recording of a terminal is an asciicast v2 (asciinema.org,
// manual/asciicast/v2): a line with castHeader, then one with [SECONDS, KIND,
// TEXT] for each event, of which o is output, i input and r a new size, COLSxROWS.
// Each event is written at once and whole, so that it can be played whatever ends
// the writer.

const (
	maxCast     = 64 << 20 // bytes
	maxCastLine = 1 << 20
)

type castHeader struct {
	Version   int               `json:"version"`
	Width     int               `json:"width"`
	Height    int               `json:"height"`
	Timestamp int64             `json:"timestamp"` // seconds since 1970
	Title     string            `json:"title,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// cast writes a recording.
type cast struct {
	mu    sync.Mutex
	to    io.Writer
	began time.Time
	left  int
	rest  map[string][]byte // of a character that is not whole yet, by kind
	err   error
}

func newCast(to io.Writer, began time.Time, h castHeader) (*cast, error) {
	h.Version, h.Timestamp = 2, began.Unix()
	c := &cast{to: to, began: began, left: maxCast, rest: map[string][]byte{}}
	b, err := json.Marshal(h)
	if err == nil {
		_, err = to.Write(append(b, '\n'))
	}
	return c, err
}

// add records an event. Bytes of a character that is cut wait for the others.
func (c *cast) add(kind string, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	data = append(c.rest[kind], data...)
	whole := len(data) - cut(data)
	c.rest[kind] = append([]byte(nil), data[whole:]...)
	if whole == 0 || c.left <= 0 || c.err != nil {
		return
	}
	text := strings.ToValidUTF8(string(data[:whole]), "\uFFFD")
	if c.left -= len(text); c.left <= 0 {
		text = fmt.Sprintf("\r\n[the recording ends here: it is larger than %d bytes]\r\n", maxCast)
	}
	b, err := json.Marshal([]any{json.Number(fmt.Sprintf("%.6f", time.Since(c.began).Seconds())), kind, text})
	if err == nil {
		_, err = c.to.Write(append(b, '\n'))
	}
	c.err = err
}

// castWriter is one kind of events as a writer.
type castWriter struct {
	c    *cast
	kind string
}

func (w castWriter) Write(b []byte) (int, error) {
	w.c.add(w.kind, b)
	return len(b), nil
}

// cut is how many bytes at the end may be the beginning of a character.
func cut(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// errNoCast is returned for what is no recording.
var errNoCast = errors.New("not an asciicast v2")

// readCast calls f with each event's time in seconds, kind and text. A torn last
// line is no error: the writer was killed.
func readCast(r io.Reader, f func(at float64, kind, text string)) error {
	lines := bufio.NewScanner(io.LimitReader(r, 2*maxCast))
	lines.Buffer(nil, maxCastLine)
	var h castHeader
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &h) != nil || h.Version != 2 {
		return fmt.Errorf("reading a recording: %w", errNoCast)
	}
	for lines.Scan() {
		var e []json.RawMessage
		var at float64
		var kind, text string
		if json.Unmarshal(lines.Bytes(), &e) != nil || len(e) != 3 || json.Unmarshal(e[0], &at) != nil || json.Unmarshal(e[1], &kind) != nil || json.Unmarshal(e[2], &text) != nil {
			return nil
		}
		f(at, kind, text)
	}
	return lines.Err()
}

// transcript is what a recording shows, as text: at most limit bytes of it.
func transcript(r io.Reader, limit int) (string, error) {
	var out strings.Builder
	p := plainer{out: &out}
	err := readCast(r, func(_ float64, kind, text string) {
		if kind == "o" && out.Len() < limit {
			p.write(text)
		}
	})
	p.line()
	s := out.String()
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "\n[…]\n"
	}
	return s, err
}

// plainer makes text of what is written to a terminal: it leaves out control
// sequences, and knows what a carriage return and a backspace do to a line.
type plainer struct {
	out   *strings.Builder
	row   []rune
	col   int
	state byte // 0, or what the last bytes began: e an escape, [ a CSI, ] an OSC, ( one more
}

const maxRow = 10_000 // characters

func (p *plainer) write(s string) {
	for _, c := range s {
		switch p.state {
		case 'e':
			p.state = 0
			if c == '[' || c == ']' || c == '(' || c == ')' {
				p.state = byte(c)
			}
			if c == 'P' || c == '_' || c == '^' || c == 'X' {
				p.state = ']'
			}
			continue
		case '[':
			if c >= 0x40 && c <= 0x7e {
				p.csi(c)
				p.state = 0
			}
			continue
		case ']':
			if c == '\a' || c == '\x1b' {
				p.state = 0
			}
			if c == '\x1b' {
				p.state = 'e'
			}
			continue
		case '(', ')':
			p.state = 0
			continue
		}
		switch {
		case c == '\x1b':
			p.state = 'e'
		case c == '\n':
			p.line()
		case c == '\r':
			p.col = 0
		case c == '\b':
			p.col = max(p.col-1, 0)
		case c == '\t':
			for stop := p.col/8*8 + 8; p.col < stop; {
				p.put(' ')
			}
		case c >= ' ' && c != 0x7f:
			p.put(c)
		}
	}
}

// csi does what line editors use: K clears to the end of the line.
func (p *plainer) csi(final rune) {
	if final == 'K' && p.col < len(p.row) {
		p.row = p.row[:p.col]
	}
}

func (p *plainer) put(c rune) {
	if p.col >= maxRow {
		p.line()
	}
	for len(p.row) <= p.col {
		p.row = append(p.row, ' ')
	}
	p.row[p.col] = c
	p.col++
}

func (p *plainer) line() {
	p.out.WriteString(strings.TrimRight(string(p.row), " ") + "\n")
	p.row, p.col = p.row[:0], 0
}
