package runbooks

import (
	"io/fs"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// Every shipped runbook is right, says how long it takes, can be planned as its rehearsals want, and its shell
// texts are those of a POSIX shell.
func TestShipped(t *testing.T) {
	names, err := fs.Glob(Shipped(), "*.yaml")
	if err != nil || len(names) < 7 {
		t.Fatalf("Shipped = %q, %v; want seven runbooks", names, err)
	}
	for _, name := range names {
		b, err := fs.ReadFile(Shipped(), name)
		if err != nil {
			t.Fatal(err)
		}
		f := mustParse(t, name, string(b))
		if err := Check(Known{Artifacts: []string{}, Services: []string{}, Capabilities: []string{}}, f); err != nil {
			t.Errorf("Check(%s) = %v; want nothing that only a kit has", name, err)
		}
		if len(f.Runbooks) != 1 || len(f.Rehearsals) == 0 {
			t.Fatalf("%s has %d runbooks and %d rehearsals; want one that is rehearsed", name, len(f.Runbooks), len(f.Rehearsals))
		}
		r := f.Runbooks[0]
		if (Page{Runbook: r}).view().Expected == "" {
			t.Errorf("%s does not say how long it takes", name)
		}
		hosts := map[string]netip.Addr{}
		for i, h := range r.Hosts {
			hosts[h] = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		}
		for _, h := range f.Rehearsals {
			bound := bind(t, r, h.Vars, hosts)
			for _, plan := range []func() (*Plan, error){
				func() (*Plan, error) { return bound.Plan(Selection{}) },
				func() (*Plan, error) { return bound.Given(h) },
			} {
				p, err := plan()
				if err != nil {
					t.Fatalf("%s: %q cannot be planned: %v", name, h.Title, err)
				}
				for _, task := range p.Tasks {
					for _, script := range []string{task.Step.Run, task.Step.Check, task.Step.When, task.Step.Undo, task.Step.Command()} {
						cmd := exec.Command("sh", "-n")
						cmd.Stdin = strings.NewReader(script)
						if out, err := cmd.CombinedOutput(); err != nil {
							t.Errorf("%s: step %q: %v: %s in\n%s", name, task.ID, err, out, script)
						}
					}
				}
			}
			if _, _, err := bound.Healthy(h); err != nil {
				t.Errorf("%s: %q: %v", name, h.Title, err)
			}
		}
	}
}
