package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTailIsOpen compares the two on journals of every kind of end.
func TestTailIsOpen(t *testing.T) {
	path, j := begin(t, 3)
	if e, err := j.Jot(noon, "jot", root, strings.Repeat("x", 20<<10)); err != nil || e.Seq != 4 {
		t.Fatalf("Jot() = entry %d, %v; want 4", e.Seq, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before := whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1]
	zeros := append(bytes.Clone(before), append(make([]byte, 9000), "}\n"...)...)
	for name, text := range map[string][]byte{
		"empty": nil, "whole": whole, "short": before, "torn": append(bytes.Clone(whole), `{"seq":5,"ti`...), "torn long": whole[:len(whole)-1],
		"first torn": whole[:20], "zeros": zeros, "first zeros": []byte("\x00\x00\n"), "torn after zeros": append(bytes.Clone(whole), 0, 0, 0),
	} {
		a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
		for _, p := range []string{a, b} {
			if err := os.WriteFile(p, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		last, err := Last(a)
		if err != nil {
			t.Errorf("%s: Last() = %v", name, err)
		}
		full, err := Open(a)
		if err != nil {
			t.Fatalf("%s: Open() = %v", name, err)
		}
		tail, err := Tail(b)
		if err != nil {
			t.Fatalf("%s: Tail() = %v", name, err)
		}
		if tail.Head() != full.Head() || tail.Cut() != full.Cut() || last.Hash != full.Head().Hash || last.Torn != full.Cut() {
			t.Errorf("%s: Tail() = %+v, cut %d, Last() = %+v; want Open's %+v, cut %d", name, tail.Head(), tail.Cut(), last, full.Head(), full.Cut())
		}
		for _, x := range []*Journal{full, tail} {
			if _, err := x.Append(noon, "more", root, nil); err != nil {
				t.Fatal(err)
			}
			x.Close()
		}
		one, _ := os.ReadFile(a)
		two, _ := os.ReadFile(b)
		if _, err := Verify(b); err != nil || !bytes.Equal(one, two) {
			t.Errorf("%s: after Tail and Append the journal is another than after Open: %v", name, err)
		}
	}
}

func TestTailRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no entry": "{}\n", "garbage": "nonsense\n", "first with a past": `{"seq":1,"prev":"00","kind":"x"}` + "\n", "long": strings.Repeat("x", 5*MaxLine) + "\n",
	} {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Tail(path); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: Tail() = %v; want %v", name, err, ErrTampered)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Errorf("%s: Tail() changed what it refused", name)
		}
	}
}

// TestTailTogether has writers of both kinds on one file.
func TestTailTogether(t *testing.T) {
	path, _ := begin(t, 1)
	done := make(chan error)
	const each = 30
	for range 4 {
		go func() {
			for range each {
				j, err := Tail(path)
				if err == nil {
					_, err = j.Append(noon, "tail", root, nil)
				}
				if err == nil {
					_, err = j.Jot(noon, "jot", root, nil)
				}
				if err == nil {
					err = errors.Join(j.Sync(), j.Close())
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if h, err := Verify(path); err != nil || h.Seq != 1+4*2*each {
		t.Errorf("Verify() = %d entries, %v; want %d", h.Seq, err, 1+4*2*each)
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"seq":1,"time":"2026-03-01T12:00:00Z","prev":"","kind":"x","who":{"uid":0}}` + "\n" + `{"se`))
	f.Add([]byte("\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want, wantErr := Verify(path)
		got, err := Last(path)
		if wantErr == nil && (err != nil || got != want) {
			t.Errorf("Last(%q) = %+v, %v; want %+v as Verify says", b, got, err, want)
		}
	})
}
