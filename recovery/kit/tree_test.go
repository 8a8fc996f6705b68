package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBadTrees(t *testing.T) {
	for name, c := range map[string][2]string{
		"an unknown field":       {"name: a\nartefacts: []\n", "artefacts"},
		"an unknown field below": {"name: a\nartifacts:\n  - name: b\n    fil: c\n", "[4:5]"},
		"an anchor":              {"name: &x a\ncontacts: []\n", "line 1"},
		"an alias":               {"name: a\npolicy: [*x]\n", "line 2"},
		"a tag":                  {"name: !!binary YQ==\n", "line 1"},
		"a merge":                {"name: a\n<<: {name: b}\n", "line 2"},
		"deep nesting":           {"name: " + strings.Repeat("[", 100000), "nested too deeply"},
		"deep dashes":            {"policy:\n" + strings.Repeat("- ", 100000) + "a\n", "nested too deeply"},
		"a key twice":            {"name: a\nname: b\n", "already"},
		"a time that is none":    {"fresh_for: soon\n", "soon"},
		"no time at all":         {"fresh_for: 0d\n", "above zero"},
		"a list for a spec":      {"services:\n  - {name: a, spec: [1]}\n", "mapping"},
		"a list for a name":      {"name: [a]\n", "name"},
	} {
		_, err := ParseTree([]byte(c[0]))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err), c[1]) {
			t.Errorf("ParseTree(%s) = %.300v; want ErrInvalid with %q", name, err, c[1])
		}
	}
	if _, err := ReadTree(filepath.Join(t.TempDir(), "kit.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadTree() of nothing = %v; want os.ErrNotExist", err)
	}
	if _, err := ReadTree(t.TempDir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("ReadTree() of a directory = %v; want ErrInvalid", err)
	}
}

func TestTreeDefaults(t *testing.T) {
	tree, err := ParseTree([]byte("name: a\nfresh_for: 36h\nservices:\n  - {name: s, spec: a.yaml}\n"))
	if err != nil || tree.FreshFor != Duration(36*time.Hour) || tree.Services[0].Spec.path != "a.yaml" {
		t.Errorf("ParseTree() = %+v, %v; want 36h and a path", tree, err)
	}
	dir := t.TempDir()
	written := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	write(t, dir+"/bin", "a file")
	write(t, dir+"/zone", "a zone")
	for _, f := range []string{"/bin", "/zone"} {
		if err := os.Chtimes(dir+f, written, written); err != nil {
			t.Fatal(err)
		}
	}
	tree = Tree{Name: "a", Dir: dir, Artifacts: []TreeArtifact{{Name: "b", File: "bin"}}, Names: []TreeName{{Name: "z", Zone: "zone"}, {Name: "y", Addresses: []string{"::1"}}}}
	_, built := build(t, tree, dir+"/kit", options(nil))
	d := built.Document
	want := written.Truncate(time.Second)
	if !d.Artifacts[0].CapturedAt.Equal(want) || !d.Names[0].ObservedAt.Equal(want) || !d.Names[1].ObservedAt.Equal(noon) || !d.FreshUntil.IsZero() || d.Artifacts[0].MediaType != "application/octet-stream" {
		t.Errorf("Build() = captured %v, observed %v %v, fresh until %v; want the files' time, noon, never", d.Artifacts[0].CapturedAt, d.Names[0].ObservedAt, d.Names[1].ObservedAt, d.FreshUntil)
	}
}

func TestDiff(t *testing.T) {
	tree, im := newTree(t)
	_, a := build(t, tree, filepath.Join(t.TempDir(), "a"), options(im))
	if got, err := Diff(a.Document, a.Document); err != nil || len(got) > 0 {
		t.Errorf("Diff(a, a) = %v, %v; want nothing", got, err)
	}
	write(t, filepath.Join(tree.Dir, "bin/etcdctl"), "new")
	write(t, filepath.Join(tree.Dir, "services/etcd.yaml"), "name: etcd\n")
	tree.Contacts = nil
	tree.Sources[0].URL = "https://10.0.0.8/"
	tree.Names = append(tree.Names, TreeName{Name: "new.example", Addresses: []string{"10.0.0.1"}})
	tree.Revoked = append(tree.Revoked, "sha256:"+zeros)
	o := options(im)
	o.Epoch, o.SignedAt = 3, noon.Add(time.Hour)
	_, b := build(t, tree, filepath.Join(t.TempDir(), "b"), o)
	old, _ := a.Document.Artifact("etcdctl")
	now, _ := b.Document.Artifact("etcdctl")
	want := []Change{
		{"artifacts", "etcdctl", "changed", string(old.Digest), string(now.Digest)},
		{"contacts", "storage-oncall", "removed", "sip:storage-oncall@10.0.0.9", ""},
		{"kit", "epoch", "changed", "1", "3"},
		{"kit", "fresh_until", "changed", "2026-03-31T12:00:00Z", "2026-03-31T13:00:00Z"},
		{"names", "new.example", "added", "", ""},
		{"revoked", "sha256:" + zeros, "added", "", "sha256:" + zeros},
		{"services", "etcd", "changed", "", ""},
		{"sources", "seed", "changed", "https://10.0.0.9:8443/", "https://10.0.0.8/"},
	}
	got, err := Diff(a.Document, b.Document)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Diff(a, b) = %+v, %v; want %+v", got, err, want)
	}
}

// The YAML library takes a:b inside brackets for a mapping: it is refused, not misread.
func TestTreeWordsWithColons(t *testing.T) {
	for in, want := range map[string]string{
		"x: {needs: [a, b:c]}":                         `line 1: put "b:c" in quotes`,
		"x:\n  allow: [{to: [\"y\", tcp:1.2.3.4:80]}]": `line 2: put "tcp:1.2.3.4:80" in quotes`,
		"x: {a:b}":        `line 1: put "a:b" in quotes`,
		"x: {a: [80:80]}": `line 1: put "80:80" in quotes`,
		`x: {a: ["b:c", 'd:e', http://f], g: h:i}`:     `{"x":{"a":["b:c","d:e","http://f"],"g":"h:i"}}`,
		`{"a":1,"b":{"c":[1,"d:e"]}, f: [g:h:i , j ]}`: `put "g:h:i" in quotes`,
		`{"a":1,"b":{"c":[1,"d:e"]}}`:                  `{"a":1,"b":{"c":[1,"d:e"]}}`,
		"x: [b:c, d]\ny: a:b\nz:\n- e:f\n":             `{"x":["b:c","d"],"y":"a:b","z":["e:f"]}`,
	} {
		j, err := yamlToJSON([]byte(in))
		got := string(j)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("yamlToJSON(%q) = %s; want %s", in, got, want)
		}
	}
}
