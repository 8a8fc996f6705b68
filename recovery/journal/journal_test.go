package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	root = Who{UID: 0, SudoUser: "alice", SSH: "10.0.0.1 4000 10.0.0.2 22"}
)

// begin makes a journal with n entries.
func begin(t *testing.T, n int) (string, *Journal) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	for i := range n {
		if _, err := j.Append(noon.Add(time.Duration(i)*time.Second), "step", root, map[string]int{"i": i}); err != nil {
			t.Fatal(err)
		}
	}
	return path, j
}

func TestAppendIsReadBack(t *testing.T) {
	path, j := begin(t, 3)
	all, err := j.Read(1)
	if err != nil || len(all) != 2 {
		t.Fatalf("Read(1) = %d entries, %v; want 2", len(all), err)
	}
	if e := all[1]; e.Seq != 3 || !e.Time.Equal(noon.Add(2*time.Second)) || e.Kind != "step" || e.Who != root || string(e.Data) != `{"i":2}` {
		t.Errorf("Read(1)[1] = %+v; want what was appended", e)
	}
	j.Close()
	again, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if h := again.Head(); h.Seq != 3 || !h.Time.Equal(noon.Add(2*time.Second)) || again.Cut() != 0 {
		t.Errorf("Open(): head %+v, cut %d; want 3 entries, nothing cut", h, again.Cut())
	}
	if e, err := again.Append(noon, "more", Who{UID: 7}, nil); err != nil || e.Seq != 4 {
		t.Errorf("Append() = entry %d, %v; want 4", e.Seq, err)
	}
	if h, err := Verify(path); err != nil || h.Seq != 4 {
		t.Errorf("Verify() = %d, %v; want 4", h.Seq, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the journal = %v, %v; want 0600", st.Mode(), err)
	}
}

func TestTornLastLineIsCutOff(t *testing.T) {
	for name, tail := range map[string][]byte{
		"half a line":                  []byte(`{"seq":4,"time":"2026-03-`),
		"zeros":                        make([]byte, 4096),
		"zeros and the line's end":     append(make([]byte, 500), []byte("a\"}\n")...),
		"longer than any line":         bytes.Repeat([]byte("x"), 2*MaxLine+5),
		"a whole line without its \\n": []byte(`{"seq":4}`),
	} {
		t.Run(name, func(t *testing.T) {
			path, j := begin(t, 3)
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(bytes.Clone(whole), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			if h, err := Verify(path); err != nil || h.Seq != 3 || h.Torn != int64(len(tail)) {
				t.Errorf("Verify() = %+v, %v; want 3 entries and %d torn bytes", h, err, len(tail))
			}
			// Whoever has it open finds it as well as who opens it anew.
			again, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if again.Cut() != int64(len(tail)) {
				t.Errorf("Cut() = %d; want %d", again.Cut(), len(tail))
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, whole) {
				t.Errorf("after Open the journal has %d bytes; want the %d whole ones", len(got), len(whole))
			}
			if err := os.WriteFile(path, append(bytes.Clone(whole), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			if e, err := j.Append(noon, "after", root, nil); err != nil || e.Seq != 4 || j.Cut() != int64(len(tail)) {
				t.Errorf("Append() = entry %d, %v, cut %d; want 4, cut %d", e.Seq, err, j.Cut(), len(tail))
			}
			if h, err := Verify(path); err != nil || h.Seq != 4 {
				t.Errorf("Verify() after Append = %+v, %v; want 4 entries", h, err)
			}
		})
	}
}

func TestTamperingIsAnErrorWithItsLine(t *testing.T) {
	for name, c := range map[string]struct {
		change func([]string) []string
		line   int
	}{
		"a word changed":     {func(l []string) []string { l[1] = strings.Replace(l[1], `"i":1`, `"i":9`, 1); return l }, 3},
		"a line removed":     {func(l []string) []string { return append(l[:1:1], l[2:]...) }, 2},
		"two lines swapped":  {func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }, 2},
		"no JSON":            {func(l []string) []string { l[2] = "hello\n"; return l }, 3},
		"an empty line":      {func(l []string) []string { l[0] += "\n"; return l }, 2},
		"zeros":              {func(l []string) []string { l[1] = "\x00\x00\n"; return l }, 2},
		"the last line":      {func(l []string) []string { l[3] = strings.Replace(l[3], `"seq":4`, `"seq":5`, 1); return l }, 4},
		"a line too long":    {func(l []string) []string { l[1] = strings.Repeat("y", 3*MaxLine) + "\n"; return l }, 2},
		"another first line": {func(l []string) []string { l[0] = strings.Replace(l[0], "alice", "mallory", 1); return l }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			path, j := begin(t, 4)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := []byte(strings.Join(c.change(strings.SplitAfter(strings.TrimSuffix(string(b), "\n"), "\n")), ""))
			if !bytes.HasSuffix(changed, []byte("\n")) {
				changed = append(changed, '\n')
			}
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("line %d", c.line)
			if _, err := Verify(path); !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), want) {
				t.Errorf("Verify() = %v; want ErrTampered with %s", err, want)
			}
			if _, err := Open(path); !errors.Is(err, ErrTampered) {
				t.Errorf("Open() = %v; want ErrTampered", err)
			}
			if _, err := j.Read(0); !errors.Is(err, ErrTampered) {
				t.Errorf("Read() = %v; want ErrTampered", err)
			}
			if got, _ := os.ReadFile(path); !bytes.Equal(got, changed) {
				t.Error("a journal that was tampered with has been changed; want it left as evidence")
			}
		})
	}
}

func TestShorterJournalIsNoticed(t *testing.T) {
	path, j := begin(t, 4)
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(noon, "x", root, nil); !errors.Is(err, ErrTampered) {
		t.Errorf("Append() to a journal that became shorter = %v; want ErrTampered", err)
	}
}

func TestEntryThatIsTooLarge(t *testing.T) {
	path, j := begin(t, 1)
	if _, err := j.Append(noon, "big", root, strings.Repeat("x", MaxLine)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Append(1 MiB) = %v; want ErrTooLarge", err)
	}
	if _, err := j.Append(noon, "", root, nil); err == nil {
		t.Error("Append() without a kind = nil; want an error")
	}
	if _, err := j.Append(noon, "raw", root, json.RawMessage("{\n\"a\":\n1}")); err != nil {
		t.Errorf("Append() of data with newlines = %v; want nil", err)
	}
	if h, err := Verify(path); err != nil || h.Seq != 2 {
		t.Errorf("Verify() = %+v, %v; want 2 entries", h, err)
	}
}

func TestLinksAndDirectoriesAreRefused(t *testing.T) {
	path, _ := begin(t, 1)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, t.TempDir(), "/dev/null"} {
		if j, err := Open(p); err == nil {
			j.Close()
			t.Errorf("Open(%s) = nil; want an error", p)
		}
	}
}

func FuzzScan(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal")
	j, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 3 {
		if _, err := j.Append(noon, "k", root, i); err != nil {
			f.Fatal(err)
		}
	}
	j.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-7])
	f.Add([]byte("{}\n"))
	f.Add([]byte("\x00\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := uint64(0)
		h, err := Scan(bytes.NewReader(b), Head{}, func(e Entry) error {
			if n++; e.Seq != n {
				t.Errorf("Scan() gives entry %d in the place of %d", e.Seq, n)
			}
			return nil
		})
		if h.Seq != n || h.Size > int64(len(b)) {
			t.Errorf("Scan() = %+v after %d entries of %d bytes", h, n, len(b))
		}
		if err == nil && h.Size+h.Torn != int64(len(b)) {
			t.Errorf("Scan() = %+v; want all %d bytes accounted for", h, len(b))
		}
		// What was right once stays so.
		if again, err := Scan(bytes.NewReader(b[:h.Size]), Head{}, nil); err != nil || again.Seq != h.Seq {
			t.Errorf("Scan() of the right part = %+v, %v; want %d entries", again, err, h.Seq)
		}
	})
}
