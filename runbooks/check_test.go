package runbooks

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// places are the file, line and text of each error.
func places(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	all, ok := AsErrors(err)
	if !ok || !errors.Is(err, ErrInvalid) {
		t.Fatalf("%T is not Errors: %v", err, err)
	}
	var out []string
	for _, e := range all {
		out = append(out, fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message))
	}
	return out
}

func TestCheckKit(t *testing.T) {
	f := everything(t)
	if err := Check(Known{}, f); err != nil {
		t.Errorf("Check without a kit = %v; want nil", err)
	}
	full := Known{
		Artifacts: []string{"zk-tools", "zookeeper"}, Services: []string{"meta-zk"},
		Capabilities: []string{"package-store:read", "dns", "dns-frozen"}, Hosts: []string{"zk-1", "zk-2"},
		Contacts: map[string]string{"incident-lead": "tel:112"},
	}
	if err := Check(full, f); err != nil {
		t.Errorf("Check with all that it names = %v; want nil", err)
	}
	got := places(t, Check(Known{Artifacts: []string{}, Services: []string{}, Capabilities: []string{"dns"}, Hosts: []string{"zk-2"}, Contacts: map[string]string{}}, f))
	want := []string{
		"everything.yaml:9:74: the kit has no contact incident-lead",
		"everything.yaml:10:9: no address for host zk-1: give it with --host zk-1=IP",
		"everything.yaml:36:12: the kit has no artifact zk-tools",
		"everything.yaml:41:12: the kit has no artifact zookeeper",
		"everything.yaml:63:14: the kit has no artifact kit:zookeeper",
		"everything.yaml:84:19: the kit has no service meta-zk",
		"everything.yaml:124:5: the kit has no capability package-store:read",
		"everything.yaml:125:20: the kit has no capability dns-frozen",
	}
	for _, w := range want {
		file, message, _ := strings.Cut(w, ": ")
		_ = file
		found := false
		for _, g := range got {
			found = found || strings.HasSuffix(g, strings.ReplaceAll(message, "kit:zookeeper", "zookeeper"))
		}
		if !found {
			t.Errorf("Check lacks %q; it has\n%s", w, strings.Join(got, "\n"))
		}
	}
	if len(got) != len(want) {
		t.Errorf("Check = %d errors; want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
}

func TestCheckRehearsal(t *testing.T) {
	const book = "runbook: r\nservice: etcd\nhosts: [a, b]\nvars: {v: {about: x}, w: {default: y}}\nsteps: [{name: a, run: x}]\n"
	const h = "rehearsal: h\nservice: zk\nhardware: {hosts: 1}\nrunbook: ../books/r.yaml\nvars: {x: z}\ngiven: [{name: a, run: x, hosts: [c]}]\nhealthy: [{tcp: '${ip_c}:1'}]\nwithin: 1m\n"
	b, r := mustParse(t, "./all/books/r.yaml", book), mustParse(t, "all/tests/h.yaml", h)
	got := strings.Join(places(t, Check(Known{}, b, r)), "\n")
	want := strings.Join([]string{
		"all/tests/h.yaml:2:10: the runbook brings back etcd, not zk",
		"all/tests/h.yaml:3:11: the runbook names 2 hosts, the hardware has 1",
		"all/tests/h.yaml:5:7: the runbook's variable v has no value",
		"all/tests/h.yaml:5:8: the runbook has no variable x",
		"all/tests/h.yaml:6:35: host c is not among the runbook's hosts",
		"all/tests/h.yaml:7:17: no variable ${ip_c}: vars declares them, and $${ stands for ${",
	}, "\n")
	if got != want {
		t.Errorf("Check = \n%s; want\n%s", got, want)
	}
	if got := strings.Join(places(t, Check(Known{}, r)), "\n"); got != "all/tests/h.yaml:4:10: runbook ../books/r.yaml is not there: looked for all/books/r.yaml" {
		t.Errorf("Check = %s; want the runbook missed", got)
	}
	if got := strings.Join(places(t, Check(Known{}, r, mustParse(t, "all/books/r.yaml", book+"---\n"+book))), "\n"); got != "all/tests/h.yaml:4:10: 2 runbooks in all/books/r.yaml, want one" {
		t.Errorf("Check = %s; want two runbooks refused", got)
	}
}

// What checking and rendering one runbook takes.
func BenchmarkRunbook(b *testing.B) {
	raw, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f, err := Parse("one.yaml", raw)
		if err != nil {
			b.Fatal(err)
		}
		if err := Check(Known{Artifacts: []string{"zk-tools", "zookeeper"}}, f); err != nil {
			b.Fatal(err)
		}
		for _, format := range Formats() {
			if err := Render(discard{}, format, Page{Runbook: f.Runbooks[0], Rehearsals: f.Rehearsals}); err != nil {
				b.Fatal(err)
			}
		}
	}
}
