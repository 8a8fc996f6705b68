package runbooks

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
)

func TestMask(t *testing.T) {
	secret := "p&ss \"wörd\"/1"
	m := NewMasker(secret, "hunter2", "hunter22", "-----BEGIN KEY-----\nMIIabc\nx\n", "")
	in := strings.Join([]string{
		"plain " + secret, "hunter22 then hunter2.", "url " + url.QueryEscape(secret), "json " + `p\u0026ss \"wörd\"/1`,
		"basic " + base64.StdEncoding.EncodeToString([]byte(secret)), "key MIIabc", "nothing", "hunter", "x",
	}, "\n")
	want := "plain ********\n******** then ********.\nurl ********\njson ********\nbasic ********\nkey ********\nnothing\nhunter\nx"
	if got := m.Text(in); got != want {
		t.Errorf("Text = %q; want %q", got, want)
	}
	// However the writes are cut, the same comes out.
	for size := 1; size < 40; size++ {
		var out bytes.Buffer
		w := m.Writer(&out)
		for b := []byte(in); len(b) > 0; b = b[min(size, len(b)):] {
			if n, err := w.Write(b[:min(size, len(b))]); err != nil || n != min(size, len(b)) {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		if err := w.Close(); err != nil || out.String() != want {
			t.Fatalf("in pieces of %d: %q, %v; want %q", size, out.String(), err, want)
		}
	}
}

// What cannot be the beginning of a secret is not held back: an operator waits for it.
func TestMaskWriterHoldsLittle(t *testing.T) {
	var out bytes.Buffer
	w := NewMasker("hunter2").Writer(&out)
	for in, want := range map[string]string{"Continue? [y/n] ": "Continue? [y/n] ", "password: hunt": "password: "} {
		out.Reset()
		if _, err := w.Write([]byte(in)); err != nil || out.String() != want {
			t.Errorf("after %q there is %q, %v; want %q", in, out.String(), err, want)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkMaskWriter(b *testing.B) {
	line := bytes.Repeat([]byte("2026-03-01 12:00:00 etcd: a line of a log that is not short at all\n"), 500)
	w := NewMasker("hunter2", "correct horse battery staple").Writer(discard{})
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		if _, err := w.Write(line); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
