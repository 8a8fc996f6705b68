package runbooks

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

// page is everything.yaml with all that a document may have.
func page(t testing.TB) Page {
	t.Helper()
	f := everything(t)
	return Page{
		Runbook: f.Runbooks[0], Rehearsals: f.Rehearsals, File: f.Name, Digest: "sha256:feedface",
		Contacts: map[string]string{"incident-lead": "sip:lead@10.0.0.9"},
		Proofs: []Proof{
			{
				Rehearsal: "everything comes back", At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Took: Duration(92*time.Second + 345*time.Millisecond),
				Conditions: []Condition{{Name: "package-store:read"}}, Commit: "52d1520", Runbook: "sha256:feedface", Kit: "sha256:c0ffee", Binary: "sha256:ba5eba11", Signer: "storage-oncall",
				Steps: map[string]Duration{"keep a copy": Duration(1234567890), "get the tools": Duration(12345678)},
			},
			{Rehearsal: "an older one", At: time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC), Took: Duration(time.Minute), Stale: "the kit changed"},
		},
	}
}

func render(t testing.TB, f Format, p Page) string {
	t.Helper()
	var out bytes.Buffer
	if err := Render(&out, f, p); err != nil {
		t.Fatalf("Render(%s) = %v", f, err)
	}
	return out.String()
}

// What people read is kept as text, to be looked at in a review. -update writes it.
func TestRenderGolden(t *testing.T) {
	for format, name := range map[Format]string{Text: "everything.txt", Markdown: "everything.md", HTML: "everything.html"} {
		got := render(t, format, page(t))
		if *update {
			if err := os.WriteFile("testdata/"+name, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile("testdata/" + name)
		if err != nil || got != string(want) {
			t.Errorf("Render(%s) is not testdata/%s (%v): see what changed with -update", format, name, err)
		}
	}
	if err := Render(discard{}, "pdf", page(t)); err == nil || !strings.Contains(err.Error(), "want text, markdown or html") {
		t.Errorf("Render(pdf) = %v; want the formats named", err)
	}
}
