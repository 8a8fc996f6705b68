package graph

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published reads the files of a format that others published (testdata/published/NOTICE).
func published(t testing.TB, f ImportFormat) []File {
	t.Helper()
	var files []File
	root := filepath.Join("testdata/published", string(f))
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files = append(files, File{Name: path, Data: b})
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files in %s, %v; want some", len(files), root, err)
	}
	return files
}

// What others published is read, and each edge that a person finds in it is there: the edges are in FORMAT.edges.
func TestImportPublished(t *testing.T) {
	for _, f := range ImportFormats() {
		files := published(t, f)
		if f == Compose { // each is a world of its own
			for _, file := range files {
				checkPublished(t, f, strings.TrimSuffix(filepath.Base(file.Name), filepath.Ext(file.Name)), file)
			}
			continue
		}
		checkPublished(t, f, "", files...)
	}
}

func checkPublished(t *testing.T, f ImportFormat, name string, files ...File) {
	t.Helper()
	services, err := Import(f, files...)
	if err != nil {
		t.Errorf("Import(%s %s) = %v; want services", f, name, err)
		return
	}
	golden := filepath.Join("testdata/published", strings.Trim(string(f)+"-"+name, "-")+".edges")
	got := edges(services) + "\n"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("Import(%s %s):\n%s\nwant as in %s:\n%s", f, name, got, golden, want)
	}
	if l := Check(New(services), CheckOptions{Observed: true}).Loops; len(l) > 0 {
		t.Errorf("Import(%s %s) has the loop %s; want none in what works", f, name, l[0].Sentence())
	}
	lines := map[string]int{}
	for _, file := range files {
		lines[file.Name] = 1 + strings.Count(string(file.Data), "\n")
	}
	for _, s := range services {
		for _, n := range s.Needs {
			if n.Provenance == Proven || n.At.File != "" && (n.At.Line < 1 || n.At.Line > lines[n.At.File]) {
				t.Errorf("%s: %s is %s at %+v; want none proven, and a line of a file", s.Name, n, n.Provenance, n.At)
			}
		}
	}
}

// The runbooks that come with this program are services without contradictions, each rehearsed and not yet proven here.
func TestReadShipped(t *testing.T) {
	names, err := filepath.Glob("../../runbooks/*.yaml")
	if err != nil || len(names) < 4 {
		t.Fatalf("%d shipped runbooks, %v; want them", len(names), err)
	}
	g := mustLoad(t, names...)
	r := Check(g, CheckOptions{})
	if !r.Recoverable || len(r.Problems) > 0 || len(g.Rehearsals) < len(names) {
		t.Errorf("shipped runbooks: %d rehearsals, %+v; want all recoverable, without problems", len(g.Rehearsals), r.Problems)
	}
	for _, u := range r.Unproven {
		if u.Why != "its rehearsal has left no proof" {
			t.Errorf("%s: %s; want it rehearsed", u.Service, u.Why)
		}
	}
	for _, s := range g.Services {
		if s.Runbook == "" {
			t.Errorf("%s has no runbook; want the shipped one", s.Name)
		}
	}
}
