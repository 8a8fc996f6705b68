package runbooks

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// seeds are documents for the fuzzer: good ones, and those that a test refuses.
func seeds(f *testing.F, key string) {
	f.Helper()
	for _, name := range []string{"testdata/everything.yaml"} {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for d := range strings.SplitSeq(string(b), "\n---\n") {
			if strings.Contains(d, key+":") {
				f.Add([]byte(d))
			}
		}
	}
	f.Add([]byte(design))
	for _, c := range bad {
		if len(c.doc) < 1000 && strings.HasPrefix(c.doc, key+":") {
			f.Add([]byte(c.doc))
		}
	}
}

// FuzzRunbook reads, plans and renders whatever it is given. What Parse accepts, the rest can work with.
func FuzzRunbook(f *testing.F) {
	seeds(f, "runbook")
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse("f.yaml", b)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || len(err.Error()) > 100<<10 || strings.ContainsAny(err.Error(), "\x1b\x07\r") {
				t.Fatalf("Parse = %q; want a short ErrInvalid without control characters", err)
			}
			return
		}
		_ = Check(Known{Artifacts: []string{}, Hosts: []string{}}, file)
		for _, book := range file.Runbooks {
			for _, format := range Formats() {
				if err := Render(discard{}, format, Page{Runbook: book}); err != nil {
					t.Fatalf("Render(%s) = %v", format, err)
				}
			}
			vars, hosts := map[string]string{}, map[string]netip.Addr{}
			for name := range book.Vars {
				vars[name] = "${value}"
			}
			for _, h := range book.Hosts {
				hosts[h] = netip.MustParseAddr("fd00::1")
			}
			bound, err := book.Bind(vars, hosts)
			if err != nil {
				t.Fatalf("Bind = %v", err)
			}
			p, err := bound.Plan(Selection{})
			if err != nil {
				continue
			}
			done := map[string]bool{}
			for _, task := range p.Tasks {
				for _, n := range task.Needs {
					if !done[n] {
						t.Fatalf("task %q comes before %q, which it needs", task.ID, n)
					}
				}
				done[task.ID] = true
			}
			if len(done) != len(p.Tasks) || len(done) < len(book.Steps) {
				t.Fatalf("%d tasks, %d IDs, %d steps", len(p.Tasks), len(done), len(book.Steps))
			}
		}
	})
}

// FuzzRehearsal changes the conditions of whatever it is given: they are changed and nothing else, or nothing is.
func FuzzRehearsal(f *testing.F) {
	seeds(f, "rehearsal")
	f.Add([]byte(tail + "conditions:\n  - a # x\n  # y\n  - any_of:\n    - b\n    - c\n"))
	f.Add([]byte(tail + "conditions: [a, # x\n b]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse("f.yaml", b)
		if err != nil {
			return
		}
		for _, h := range file.Rehearsals {
			want := []Condition{{Name: "new: one"}, {AnyOf: []string{"x", "y"}}}
			if n := len(h.Conditions); n > 1 {
				want = append(want, h.Conditions[:n/2]...)
			}
			got, err := file.SetConditions(h, want)
			if err != nil {
				continue
			}
			again, err := Parse("f.yaml", got)
			if err != nil || len(again.Rehearsals) != len(file.Rehearsals) {
				t.Fatalf("SetConditions gave %q: %v", got, err)
			}
		}
	})
}

// FuzzMask cuts a text into two writes: no secret may come out, and nothing else may be lost.
func FuzzMask(f *testing.F) {
	f.Add("the password is hunter2, I said", "hunter2", 18)
	f.Add("aaaaaaab", "aaaab", 3)
	f.Fuzz(func(t *testing.T, text, secret string, at int) {
		if len(secret) < minSecret || strings.Contains(Mask, secret) || strings.Contains(secret, "*") || at < 0 || at > len(text) {
			return
		}
		m := NewMasker(secret)
		var out bytes.Buffer
		w := m.Writer(&out)
		for _, part := range []string{text[:at], text[at:]} {
			if _, err := w.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), secret) {
			t.Fatalf("%q shows %q", out.String(), secret)
		}
		if !strings.Contains(text, secret) && m.Text(text) == text && out.String() != text {
			t.Fatalf("%q became %q", text, out.String())
		}
	})
}
