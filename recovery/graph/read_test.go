package graph

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	const design = `services:
  - {name: zelos-region, tier: 1, owner: storage-oncall, managed_by: meta-root, needs: [safe-storage:read], provides: [coordination]}
  - {name: scheduler, tier: 2, managed_by: meta-region, needs: [coordination, {any_of: [dns, dns-frozen]}], runbook: scheduler.yaml}
`
	g := mustRead(t, "repo/graph.yaml", design)
	s, _ := g.Find("scheduler")
	want := Service{
		Name: "scheduler", Tier: 2, Runbook: "repo/scheduler.yaml", At: Position{"repo/graph.yaml", 3},
		Needs: []Need{
			{AnyOf: []string{"meta-region"}, Managed: true, At: Position{"repo/graph.yaml", 3}},
			{AnyOf: []string{"coordination"}, At: Position{"repo/graph.yaml", 3}},
			{AnyOf: []string{"dns", "dns-frozen"}, At: Position{"repo/graph.yaml", 3}},
		},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("scheduler = %+v; want %+v", s, want)
	}
	if _, ok := g.Find("nobody"); ok {
		t.Error(`Find("nobody") = true; want false`)
	}

	// The same in other forms of YAML, in JSON, and as a kit tells it.
	for name, text := range map[string]string{
		"block.yaml": "# a comment\nservices:\n- name: 'a b'\n  tier: 1\n  needs:\n    - c   # why\n    - any_of: [d,\n        \"e\"]\n  takes: 90s\n---\nother: 1\n",
		"mixed.yaml": "services:\n- {name: a b, tier: 1, needs: [c, {any_of: [d, e]}], takes: 90s, provides: [x:y, 'tcp:[::1]:443', tcp:10.0.0.1:443]}\n- name: |\n    other",
		"text.yaml":  "services:\n- name: >-\n    a\n    b\n  tier: 1\n  needs: [c, {any_of: [d, e]}]\n  takes: 90s\n",
		"graph.json": "{\"services\":[{\"name\":\"a b\",\"tier\":1,\"needs\":[\"c\",{\"any_of\":[\"d\",\"\\u0065\"]}],\"takes\":\"1m30s\"}]}",
		"kit.yaml":   "name: site\nfresh_for: 30d\nservices:\n  - {name: a b, image: x, spec: {y: z}, tier: 1, takes: 90s, needs: [c, {any_of: [e, d, d]}]}\n",
	} {
		g := mustRead(t, name, text)
		s, _ := g.Find("a b")
		if name == "mixed.yaml" && fmt.Sprint(s.Provides) != "[tcp:10.0.0.1:443 tcp:[::1]:443 x:y]" {
			t.Errorf("%s: provides = %q", name, s.Provides)
		}
		if got := fmt.Sprint(s.Tier, s.Takes, s.Needs[0].AnyOf, s.Needs[1].AnyOf, len(s.Needs)); got != "1 1m30s [c] [d e] 2" {
			t.Errorf("%s = %s; want 1 1m30s [c] [d e] 2", name, got)
		}
	}
	kit := mustRead(t, "kit.yaml", "name: k\nservices: [{name: store, owner: me}]\ncapabilities: [{name: 'store:read', service: store, spec: {allow: [x]}}, {name: 'clock:read', spec: {}}]\ngiven: [power]\n")
	if r := Check(kit, CheckOptions{}); !r.Recoverable || kit.Services[0].Provides[0] != "store:read" || kit.Services[0].Owner != "me" {
		t.Errorf("kit = %+v", kit.Services)
	}
}

// The YAML library takes a:b inside brackets for a mapping; neither way to read does.
func TestReadWordsWithColons(t *testing.T) {
	for in, want := range map[string]string{
		"x: {needs: [a, b:c]}":                    "[a b:c]",
		"x: {needs: [b:c:d, tcp:10.0.0.1:80, e]}": "[b:c:d tcp:10.0.0.1:80 e]",
		"x: {needs: ['b:c', b:c, \"d:e\"]}":       "[b:c b:c d:e]",
		"x: {needs: [http://f/g:h, i:2, j:true]}": "[http://f/g:h i:2 j:true]",
		"x: {needs: [b:2026-01-01, c:~, d:1.5]}":  "[b:2026-01-01 c:~ d:1.5]",
		"x:\n  needs: [b:c, d]\n":                 "[b:c d]",
	} {
		for name, read := range map[string]func([]byte, *report) []node{"tree": tree, "full": full} {
			r := &report{}
			docs := read([]byte(in), r)
			got := ""
			if len(r.errs) == 0 && len(docs) == 1 {
				var all []string
				for _, n := range docs[0].find("x", "needs").items {
					if n.shape != text {
						all = append(all, n.shape.String())
						continue
					}
					all = append(all, n.text)
				}
				got = fmt.Sprint(all)
			}
			if got != want {
				t.Errorf("%s(%q) = %s, %v; want %s", name, in, got, r.errs, want)
			}
		}
	}
}

func TestReadProof(t *testing.T) {
	g := mustRead(t, "etcd.proof.json", `{"service": "etcd", "rehearsal": "alone", "at": "2026-03-01T04:00:00Z", "runs": ["61.2s", "58s"], "newer": {"x": [1, 2.5]},
 "conditions": ["package-store:read", {"any_of": ["dns", "dns-frozen"]}], "minimal": true, "runbook": "sha256:aa", "kit": "sha256:bb", "steps": {"start": "61s"},
 "attempts": [{"to": "package-store:read", "count": 3}, {"to": "metrics", "blocked": true, "count": 9}]}`)
	p := g.Proofs[0]
	if p.Service != "etcd" || p.Rehearsal != "alone" || !p.Date.Equal(time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)) || len(p.Runs) != 2 ||
		p.Runs[0] != 61200*time.Millisecond || p.Runbook != "sha256:aa" || p.Kit != "sha256:bb" || len(p.Attempts) != 2 || p.Attempts[1].Count != 9 {
		t.Errorf("proof = %+v", p)
	}
	s, _ := g.Find("etcd")
	var got []string
	for _, n := range s.Needs {
		got = append(got, fmt.Sprintf("%s %s soft=%v line %d", n, n.Provenance, n.Soft, n.At.Line))
	}
	want := "package-store:read proven soft=false line 2; dns or dns-frozen proven soft=false line 2; metrics observed soft=true line 3"
	if strings.Join(got, "; ") != want {
		t.Errorf("edges = %s; want %s", strings.Join(got, "; "), want)
	}
}

func TestReadErrors(t *testing.T) {
	deep := strings.Repeat("[", 2000) + strings.Repeat("]", 2000)
	for _, c := range []struct{ name, in, want string }{
		{"unknown key", "services:\n  - {name: a, need: [b]}\n", `f.yaml:2:15: unknown key "need" in a service`},
		{"unknown key at the top", "services: []\nservice: []\n", `f.yaml:2:1: unknown key "service"`},
		{"no name", "services:\n  - tier: 1\n", "f.yaml:2:5: name is missing"},
		{"number for a name", "services: [{name: 5}]", "f.yaml:1:19: want text, got a number: put it in quotes"},
		{"word for a name", "services: [{name: true}]", "want text, got true or false: put it in quotes"},
		{"twice", "services:\n- {name: a,\n   name: b}\n", `key "name" is there twice`},
		{"alias", "services: &x []\ngiven: *x\n", "f.yaml:1:11: anchors, aliases, tags and directives are not taken"},
		{"merge", "services:\n- {name: a, <<: {tier: 1}}\n", "not taken"},
		{"tag", "services: !!seq []\n", "not taken"},
		{"bomb", "services:\n- " + deep + "\n", "f.yaml:2:53: nested too deeply"},
		{"dashes", "services:\n" + strings.Repeat("- ", 3000) + "a\n", "nested too deeply"},
		{"tier", "services: [{name: a, tier: -1}]", "want a tier, a whole number from 0 to 9999"},
		{"large tier", "services: [{name: a, tier: 99999}]", "want a tier"},
		{"duration", "services: [{name: a, takes: soon}]", `"soon" is not a duration`},
		{"long duration", "services: [{name: a, takes: 400d}]", "at most 8760h"},
		{"list", "services: [{name: a, needs: b}]", "f.yaml:1:29: want a list, got text"},
		{"any_of", "services: [{name: a, needs: [{any_of: [b]}]}]", "any_of wants two names or more"},
		{"other mapping", "services: [{name: a, needs: [{all_of: [b, c]}]}]", "want a name, or a mapping with any_of alone"},
		{"escape", `services: [{name: "a\u001b[2J"}]`, "hidden character in the name"},
		{"direction", "services: [{name: \"a\u202eb\"}]", "hidden character in the name"},
		{"blanks", "services: [{name: ' a'}]", "blanks around the name"},
		{"long name", "services: [{name: " + strings.Repeat("a", 300) + "}]", "longer than 253 bytes"},
		{"empty", "services:\n  - {name: ''}\n", "a name is empty"},
		{"malformed", "services: [a\n", "malformed YAML"},
		{"not UTF-8", "services: []\ngiven: [caf\xe9]\n", "f.yaml:2:1: not UTF-8"},
		{"offer", "capabilities: [{service: a}]", "want a mapping with the name of a capability and its service"},
		{"rehearsal", "rehearsal: x\nconditions: []\n", "service is missing"},
	} {
		_, err := Read(File{"f.yaml", []byte(c.in)})
		if err == nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v; want %s", c.name, err, c.want)
		}
	}
	if _, err := Read(File{"p.json", []byte(`{"service": "a", "at": "yesterday"}`)}); err == nil || !strings.Contains(err.Error(), "p.json:1:24: want the time") {
		t.Errorf("error of a proof = %v; want its time", err)
	}
	// Names with odd characters are names, as far as a person can see all of them.
	odd := []string{"a b", "ü/ß", "日本", "a\\b", "it's", "x:y:z", "<b>", "${HOME}", "-rf", "--", "a,b", "#1", "*", "&x", "!y", "%z", "@w", "true story", "a\"b"}
	var text strings.Builder
	text.WriteString("services:\n")
	for i, n := range odd {
		fmt.Fprintf(&text, "  - {name: %q, needs: [%q]}\n", n, odd[max(i-1, 0)])
	}
	g := mustRead(t, "odd.yaml", strings.Replace(text.String(), `needs: ["a b"]`, "needs: [hardware]", 1))
	if r := Check(g, CheckOptions{}); len(g.Services) != len(odd) || !r.Recoverable || len(r.Waves) != len(odd) {
		t.Errorf("%d services in %d waves, recoverable %v; want a chain of %d", len(g.Services), len(r.Waves), r.Recoverable, len(odd))
	}
	// Ten megabytes of YAML that is not in the plain form are refused at once; of the plain form they are read.
	block := "services:\n  - name: >-\n      a\n" + strings.Repeat("# x\n", 10<<18)
	start := time.Now()
	if _, err := Read(File{"f.yaml", []byte(block)}); err == nil || !strings.Contains(err.Error(), "larger than 4194304 bytes") || time.Since(start) > 5*time.Second {
		t.Errorf("10 MB: error = %v after %s; want one of its size", err, time.Since(start))
	}
	var all []byte
	for i, f := range large(60_000, 10, 0) {
		if i > 0 {
			f.Data = bytes.TrimPrefix(f.Data, []byte("services:\n"))
		}
		all = append(all, f.Data...)
	}
	start = time.Now()
	big, err := Read(File{"f.yaml", all})
	if len(all) < 10<<20 || err != nil || len(big.Services) != 60_000 || time.Since(start) > 30*time.Second {
		t.Errorf("%d bytes: %v after %s; want 60000 services", len(all), err, time.Since(start))
	}
}

// What says nothing about the graph is left out, and listed; one bad file does not hide another.
func TestReadIgnores(t *testing.T) {
	g := mustRead(
		t, "deployment.yaml", "apiVersion: v1\nkind: Pod\n", "values.yaml", "{{ if x }}\na: [\n", "package.json", "{\"name\": [", "empty.yaml", "",
		"compose.yaml", "services:\n  web: {image: x}\n", "a.yaml", "services: [{name: a}]\n",
	)
	if len(g.Services) != 1 || len(g.Ignored) != 5 {
		t.Errorf("%d services, ignored %v; want 1 and 5", len(g.Services), g.Ignored)
	}
	_, err := Read(File{"a.yaml", []byte("services: 1")}, File{"b.yaml", []byte("services: 2")})
	var all Errors
	if !errors.As(err, &all) || len(all) != 2 || all[0].File != "a.yaml" || all[1].File != "b.yaml" {
		t.Errorf("error = %v; want one of each file", err)
	}
}

func corpus(t testing.TB) []string {
	t.Helper()
	var all []string
	for _, n := range []string{"testdata/incident/before.yaml", "testdata/incident/after.yaml"} {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	return append(all,
		"services:\n- name: 'a ''b'\n  needs:\n  - c # x\n  - any_of:\n    - d\n    - \"e\\n\\u0041\"\n---\n# x\nrehearsal: b\n",
		"a: {b: [c, {d: 1}], \"e\":2}\nf:\n  - - g\n  - h: i\n    j: k\n", "- a\n-\n", "a: b\n c\n", "{\"a\": [1, true, null, -1, 1.5, \"x\"]}",
		"a: 1h30m\nb: 0x1f\nc: 10.0.0.1:80\nd: http://x#y\ne: a#b\nf: 1_0\ng: 2026-01-01\nh: ~\ni: <<\n", "a: [b c, d:e, 'f':g]\n", "a:\nb: c\n", "a: b: c\n", "a:   \n  b\n", "? a\n: b\n", "a: |\n  b\n",
	)
}

// FuzzPlain holds the fast reader to the YAML library: where both read a text, they read the same.
func FuzzPlain(f *testing.F) {
	for _, s := range corpus(f) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 10000 || strings.ContainsRune(s, '\uFFFD') {
			return
		}
		got, ok := readPlain([]byte(s))
		if !ok {
			return
		}
		r := &report{}
		want := full([]byte(s), r)
		if len(r.errs) > 0 || len(want) < len(got) {
			return // the library is stricter about indentation inside brackets, and loses what follows two ---
		}
		if a, b := show(got), show(want); a != b {
			i := 0
			for i < len(a) && i < len(b) && a[i] == b[i] {
				i++
			}
			t.Errorf("plain reading of %q differs at %.200s; want %.200s", s, a[i:], b[i:])
		}
	})
}

// show writes nodes with their lines.
func show(nodes []node) string {
	var b strings.Builder
	for i := range nodes {
		n := &nodes[i]
		fmt.Fprintf(&b, "%s:%d %q [%s] {", n.shape, n.line, n.text, show(n.items))
		for j := range n.pairs {
			fmt.Fprintf(&b, "%q:%d %s", n.pairs[j].key, n.pairs[j].at.line, show([]node{n.pairs[j].value}))
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func FuzzRead(f *testing.F) {
	for _, s := range corpus(f) {
		f.Add("f.yaml", s)
	}
	f.Add("p.json", `{"service": "etcd", "rehearsal": "x", "at": "2026-03-01T04:00:00Z", "runs": ["61.2s"], "conditions": [{"any_of": ["a", "b"]}], "attempts": [{"to": "a", "blocked": true, "count": 3}]}`)
	f.Add("r.yaml", "runbook: a\nservice: a\nsteps: []\n---\nrehearsal: a\nservice: a\nconditions: [b]\nwithin: 1m\n")
	f.Fuzz(func(t *testing.T, name, s string) {
		if len(s) > 20000 {
			return
		}
		g, err := Read(File{name, []byte(s)})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error = %v; want ErrInvalid", err)
			}
			return
		}
		for _, l := range Check(g, CheckOptions{Observed: true}).Loops {
			_ = l.Sentence()
		}
	})
}
