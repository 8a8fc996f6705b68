package runbooks

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
)

// Mask stands where a secret was.
const Mask = "********"

// minSecret is the length in bytes below which a secret would be found everywhere.
const minSecret = 4

// Masker keeps secrets out of text. It finds a secret as it is, each long line of it, and as it reads in JSON, in a
// URL and in base64 when nothing else was encoded with it. It is safe for use by several goroutines.
type Masker struct {
	forms []string // longest first
}

// NewMasker makes a Masker for these secrets.
func NewMasker(secrets ...string) *Masker {
	m := &Masker{}
	for _, s := range secrets {
		for _, line := range append([]string{s}, strings.Split(s, "\n")...) {
			m.add(strings.TrimRight(line, "\r\n"))
		}
	}
	slices.SortFunc(m.forms, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	m.forms = slices.Compact(m.forms)
	return m
}

func (m *Masker) add(s string) {
	if len(s) < minSecret {
		return
	}
	inJSON, err := json.Marshal(s)
	if err != nil {
		inJSON = []byte(s)
	}
	m.forms = append(m.forms, s, strings.Trim(string(inJSON), `"`), url.QueryEscape(s), url.PathEscape(s),
		base64.StdEncoding.EncodeToString([]byte(s)), base64.RawURLEncoding.EncodeToString([]byte(s)))
}

// Text is s with Mask in the place of every secret.
func (m *Masker) Text(s string) string {
	for _, f := range m.forms {
		s = strings.ReplaceAll(s, f, Mask)
	}
	return s
}

// Writer passes on what is written to it, masked. A secret is found however it is cut into writes: what may be the
// beginning of one is held back until the next write, or Close, which does not close w.
func (m *Masker) Writer(w io.Writer) io.WriteCloser {
	return &maskWriter{masker: m, to: w}
}

type maskWriter struct {
	masker *Masker
	to     io.Writer
	held   []byte
}

func (w *maskWriter) Write(b []byte) (int, error) {
	w.held = append(w.held, b...)
	var out bytes.Buffer
	rest := w.held
	for len(rest) > 0 {
		n, whole := w.masker.next(rest)
		if n == 0 {
			break // perhaps a secret begins here
		}
		if whole {
			out.WriteString(Mask)
		} else {
			out.Write(rest[:n])
		}
		rest = rest[n:]
	}
	w.held = append(w.held[:0], rest...)
	if _, err := w.to.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// next says how many bytes at the start of b are a secret (whole), or are none; 0 if more must be seen to tell.
func (m *Masker) next(b []byte) (n int, whole bool) {
	first := len(b)
	for _, f := range m.forms {
		// The earliest place where a form is, or may begin.
		at := bytes.Index(b, []byte(f))
		if at < 0 {
			for at = max(0, len(b)-len(f)+1); at < len(b) && !strings.HasPrefix(f, string(b[at:])); at++ {
			}
		}
		if at < first {
			first = at
		}
	}
	if first > 0 {
		return first, false
	}
	for _, f := range m.forms {
		switch {
		case bytes.HasPrefix(b, []byte(f)):
			return len(f), true
		case strings.HasPrefix(f, string(b)):
			return 0, false
		}
	}
	return 1, false
}

// Close passes on what was held back.
func (w *maskWriter) Close() error {
	_, err := w.to.Write([]byte(w.masker.Text(string(w.held))))
	w.held = nil
	return err
}
