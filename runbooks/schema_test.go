package runbooks

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// validator is Python's jsonschema: for each document a line, empty if it is valid.
const validator = `
import json, sys
from jsonschema import Draft202012Validator as V
schema = json.load(open(sys.argv[1]))
V.check_schema(schema)
v = V(schema)
for line in sys.stdin:
    print("; ".join(e.message[:200] for e in v.iter_errors(json.loads(line))).replace("\n", " "))
`

// validate asks a program that is not ours what the schema says of YAML documents.
func validate(t *testing.T, docs []string) []string {
	t.Helper()
	schema := filepath.Join(t.TempDir(), "schema.json")
	if err := os.WriteFile(schema, Schema(), 0o600); err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	for _, d := range docs {
		var v any
		if err := yaml.Unmarshal([]byte(d), &v); err != nil {
			t.Fatalf("%v in %q", err, d)
		}
		if err := json.NewEncoder(&in).Encode(v); err != nil {
			t.Fatalf("%v in %q", err, d)
		}
	}
	cmd := exec.Command("python3", "-c", validator, schema)
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("jsonschema: %v\n%s", err, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(docs) {
		t.Fatalf("jsonschema judged %d documents; want %d", len(lines), len(docs))
	}
	return lines
}

func TestSchemaAcceptsWhatParseAccepts(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var docs, names []string
	add := func(name, text string) {
		mustParse(t, name, text)
		for d := range strings.SplitSeq(text, "\n---\n") {
			docs, names = append(docs, d), append(names, name)
		}
	}
	add("design", design)
	for _, f := range append(files, more...) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		add(f, string(b))
	}
	for i, said := range validate(t, docs) {
		if said != "" {
			t.Errorf("schema on %s: %s; want it valid:\n%s", names[i], said, docs[i])
		}
	}
}

func TestSchemaRefusesWhatItCanSee(t *testing.T) {
	var docs, names []string
	for _, c := range bad {
		if c.schema {
			docs, names = append(docs, c.doc), append(names, c.name)
		}
	}
	for i, said := range validate(t, docs) {
		if said == "" {
			t.Errorf("schema accepts %q; want it refused:\n%s", names[i], docs[i])
		}
	}
}

// The schema is made from maps: the same program must always give the same bytes.
func TestSchemaIsStable(t *testing.T) {
	if a, b := Schema(), Schema(); !bytes.Equal(a, b) {
		t.Errorf("Schema() gave two texts")
	}
	for _, k := range []string{"needs", "wait_for", "any_of", "stop_first", "salvage"} {
		if !bytes.Contains(Schema(), []byte(`"`+k+`"`)) {
			t.Errorf("Schema() lacks %s", k)
		}
	}
}
