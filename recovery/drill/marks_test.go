package drill

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// taken is what marks make of output that comes in pieces of a size: text, and each
// mark as <KTEXT>.
func taken(output string, size int) string {
	var got strings.Builder
	m := newMarks("word", func(b []byte) { got.Write(b) }, func(kind byte, text string) { fmt.Fprintf(&got, "<%c%s>", kind, text) })
	for b := []byte(output); len(b) > 0; {
		n := min(size, len(b))
		_, _ = m.Write(b[:n])
		b = b[n:]
	}
	m.flush()
	return got.String()
}

func TestMarksAreTakenOutHoweverTheyAreCut(t *testing.T) {
	for _, c := range []struct{ output, want string }{
		{"hello", "hello"},
		{"a\x1b]7717;word;R\ab", "a<R>b"},
		{"\x1b]7717;word;C;echo a\\nb \\\\n\a\x1b]7717;word;E;7\a", "<Cecho a\nb \\n><E7>"},
		{"\x1b]7717;other;R\a", "\x1b]7717;other;R\a"}, // of somebody else
		{"\x1b]0;title\aprompt", "\x1b]0;title\aprompt"},
		{"\x1b]7717;word;\a", "\x1b]7717;word;\a"},
		{"\x1b\x1b]7717;word;R\a", "\x1b<R>"},
		{"\x1b]7717;word;Rcut", "\x1b]7717;word;Rcut"},
		{"\x1b]7717;word;C;\xff\a", "<C\uFFFD>"},
		{"\x1b]7717;word;C;" + strings.Repeat("x", 2*maxMark), "\x1b]7717;word;C;" + strings.Repeat("x", 2*maxMark)},
	} {
		for _, size := range []int{1, 2, 3, 7, 1 << 20} {
			if got := taken(c.output, size); got != c.want {
				t.Errorf("%.60q in pieces of %d = %.80q; want %.80q", c.output, size, got, c.want)
			}
		}
	}
}

// Nothing that is not a mark is lost, whatever comes.
func FuzzMarks(f *testing.F) {
	f.Add([]byte("a\x1b]7717;word;R\ab"), 3)
	f.Add([]byte("\x1b]7717;word;C;ls\a\x1b]7717;wo"), 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		if size < 1 || len(b) > 1<<16 {
			return
		}
		whole := taken(string(b), 1<<20)
		if got := taken(string(b), size); got != whole {
			t.Errorf("%q in pieces of %d = %q; want %q", b, size, got, whole)
		}
		if !bytes.Contains(b, []byte("\x1b]7717;word;")) && whole != string(b) {
			t.Errorf("%q became %q", b, whole)
		}
	})
}

func TestCastKeepsCharactersWhole(t *testing.T) {
	var file bytes.Buffer
	c, err := newCast(&file, time.Now(), castHeader{Width: 80, Height: 24})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []byte("gr\u00fc\u00df \u2603 \U0001F512") {
		c.add("o", []byte{b})
	}
	c.add("o", []byte("\xff!"))
	c.add("r", []byte("100x40"))
	var text, sizes string
	last := 0.0
	if err := readCast(&file, func(at float64, kind, s string) {
		if at < last {
			t.Errorf("an event at %v follows one at %v", at, last)
		}
		last = at
		switch kind {
		case "o":
			text += s
		case "r":
			sizes += s
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := "gr\u00fc\u00df \u2603 \U0001F512\uFFFD!"; text != want || sizes != "100x40" {
		t.Errorf("the recording has %q and %q; want %q and 100x40", text, sizes, want)
	}
}

func TestCastEndsAtItsLimit(t *testing.T) {
	var file bytes.Buffer
	c, err := newCast(&file, time.Now(), castHeader{})
	if err != nil {
		t.Fatal(err)
	}
	c.left = 100
	for range 50 {
		c.add("o", []byte("0123456789"))
	}
	if n := strings.Count(file.String(), "\n"); n > 12 || !strings.Contains(file.String(), "the recording ends here") {
		t.Errorf("%d lines; want the limit kept, and said: %s", n, file.String())
	}
}

func TestTranscript(t *testing.T) {
	for _, c := range []struct{ out, want string }{
		{"$ ls\r\na  b\r\n", "$ ls\na  b\n\n"},
		{"$ lx\b \bs\r\n", "$ ls\n\n"},
		{"10%\r20%\r\n", "20%\n\n"},
		{"\x1b[1mbold\x1b[0m \x1b]0;title\aend\x1b(B\r\n", "bold end\n\n"},
		{"long line\r\x1b[Kx\r\n", "x\n\n"},
		{"a\tb", "a       b\n"},
	} {
		var file bytes.Buffer
		rec, err := newCast(&file, time.Now(), castHeader{})
		if err != nil {
			t.Fatal(err)
		}
		rec.add("o", []byte(c.out))
		rec.add("i", []byte("typed"))
		if got, err := transcript(&file, 1000); err != nil || got != c.want {
			t.Errorf("transcript(%q) = %q, %v; want %q", c.out, got, err, c.want)
		}
	}
	if _, err := transcript(strings.NewReader("{}\n"), 10); err == nil {
		t.Error("transcript of another file = nil; want an error")
	}
}

func FuzzCast(f *testing.F) {
	f.Add([]byte("{\"version\":2}\n[0.1,\"o\",\"a\\u001b[31mb\\r\\n\"]\n"))
	f.Add([]byte("{\"version\":2}\n[0.1,\"o\"]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := transcript(bytes.NewReader(b), 1000)
		if err == nil && len(s) > 1100 {
			t.Errorf("a transcript of %d bytes; want at most 1000 and a mark", len(s))
		}
	})
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"at":1,"kind":"command","text":"echo"}`+"\n"+`{"at":2,"kind":"ended","status":1}`+"\n"), []byte(`{"steps":[{"id":"a","needs":["b"]},{"id":"b","kind":"note","needs":["a"],"command":"echo"}],"vars":{"x":"y"},"end":{"took":1e300}}`))
	f.Fuzz(func(t *testing.T, log, record []byte) {
		dir := Store{t.TempDir()}
		id, err := dir.add("shop", time.Unix(1e9, 0))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir.Path(id, "drill.json"), record)
		writeFile(t, dir.Path(id, "events.jsonl"), log)
		writeFile(t, dir.Path(id, "drill.cast"), log)
		d, events, err := dir.Read(id)
		if err != nil {
			return
		}
		NewScore(d, events, []Drill{d})
		NewStanding(d, events, time.Now())
		if err := dir.Report(io.Discard, id, []Drill{d}); err != nil {
			t.Errorf("Report = %v", err)
		}
		_, _ = DueIn([]Drill{d}, nil, time.Hour, time.Now())
	})
}
