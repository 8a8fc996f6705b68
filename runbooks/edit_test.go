package runbooks

import (
	"errors"
	"strings"
	"testing"
)

func TestSetConditions(t *testing.T) {
	const before = "# a comment on top\n" + head + "  - {name: a,   run: x}   # odd   spaces stay\n---\nrehearsal: h\nservice: s\nhardware: {hosts: 2}\nvars: {key: secret}\nhealthy: [{exec: x}]\n"
	const after = "within: 1m # until it answers\n---\n# the second rehearsal\nrehearsal: other\nservice: s\nhardware: {hosts: 2}\nvars: {key: secret}\nhealthy: [{exec: x}]\nconditions: [a, b]\nwithin: 1m"
	name := func(l ...string) (all []Condition) {
		for _, s := range l {
			all = append(all, Condition{Name: s})
		}
		return all
	}
	either := Condition{AnyOf: []string{"dns", "dns-frozen"}}
	for _, c := range []struct {
		name, from string
		want       []Condition
		to         string
	}{
		{"brackets", "conditions: [a, b:read, 'c']  # why\n", name("a", "c"), "conditions: [a, c]  # why\n"},
		{"brackets, none left", "conditions: [a]\n", nil, "conditions: []\n"},
		{"brackets, empty before", "conditions: []\n", name("tcp:10.0.0.1:443", "true"), "conditions: [tcp:10.0.0.1:443, \"true\"]\n"},
		{"brackets over lines", "conditions: [a, # first\n  b, # second\n  c]\n", name("b"), "# first\n# second\nconditions: [b]\n"},
		{"lines", "conditions:\n  # the store\n  - a # one\n  - b # two\n\n  # the rest\n  - c\n", name("a", "c"), "conditions:\n  # the store\n  - a # one\n\n  # the rest\n  - c\n"},
		{"lines without indentation", "conditions:\n- a\n- b\n", name("b"), "conditions:\n- b\n"},
		{"lines, none left", "conditions: # all of them\n  # the store\n  - a\n  - b\n", nil, "conditions: [] # all of them\n  # the store\n"},
		{"substitutes", "conditions:\n  - dns\n  - dns-frozen\n  - a\n", append(name("a"), either), "conditions:\n  - a\n  - {any_of: [dns, dns-frozen]}\n"},
		{"substitutes in lines", "conditions:\n  - any_of:\n      - dns\n      - dns-frozen # old\n  - a\n", name("a"), "conditions:\n  - a\n"},
		{"substitutes stay", "conditions:\n  - any_of: [dns, dns-frozen]\n  - a # x\n", []Condition{either}, "conditions:\n  - any_of: [dns, dns-frozen]\n"},
		{"absent", "", name("a"), "conditions: [a]\n"},
		{"nothing to do", "conditions:\n  - a # x\n", name("a"), "conditions:\n  - a # x\n"},
		{"letters of several bytes", "conditions: [\"é\", b] # ü\n", name("b"), "conditions: [b] # ü\n"},
	} {
		for _, eol := range []string{"\n", "\r\n"} {
			lines := strings.NewReplacer("\n", eol)
			f := mustParse(t, "f.yaml", lines.Replace(before+c.from+after))
			got, err := f.SetConditions(f.Rehearsals[0], c.want)
			if want := lines.Replace(before + c.to + after); err != nil || string(got) != want {
				t.Errorf("%s %q: SetConditions = %v\n%q; want\n%q", c.name, eol, err, got, want)
			}
		}
	}
	f := mustParse(t, "f.yaml", before+after)
	if _, err := f.SetConditions(&Rehearsal{}, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("SetConditions(another's) = %v; want ErrInvalid", err)
	}
	// What is written too oddly is left alone.
	f = mustParse(t, "f.yaml", before+"conditions:\n  -\n    a\n  - b\n"+after)
	if got, err := f.SetConditions(f.Rehearsals[0], name("b")); err == nil {
		t.Errorf("SetConditions = %q; want it refused", got)
	} else if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "one condition in a line") {
		t.Errorf("SetConditions = %v; want a hint", err)
	}
}
