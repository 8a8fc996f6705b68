package graph

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"strings"
	"testing"
)

func mustRender(t testing.TB, f Format, g *Graph) string {
	t.Helper()
	var b bytes.Buffer
	if err := Render(&b, f, g, CheckOptions{}); err != nil {
		t.Fatalf("Render(%s) = %v", f, err)
	}
	return b.String()
}

const evil = `</title></script><script>document.title='owned'</script><img src=x onerror="document.title='owned'">"]; --> {{x}} \`

func TestRenderJSON(t *testing.T) {
	for seed := range uint64(500) {
		g := random(rand.New(rand.NewPCG(seed, 4)))
		text := mustRender(t, JSON, g)
		again := mustRead(t, "g.json", text)
		for i := range again.Services {
			for j := range again.Services[i].Needs {
				again.Services[i].Needs[j].At = Position{}
			}
			again.Services[i].At = Position{}
		}
		want := random(rand.New(rand.NewPCG(seed, 4)))
		for i := range want.Services {
			for j := range want.Services[i].Needs {
				want.Services[i].Needs[j].Provenance = Declared
			}
		}
		for i := range want.Services {
			a, b := again.Services[i], want.Services[i]
			if a.Name != b.Name || a.Tier != b.Tier || fmt.Sprint(a.Needs, a.Provides) != fmt.Sprint(b.Needs, b.Provides) {
				t.Fatalf("seed %d: %s\nread back as %+v; want %+v", seed, text, a, b)
			}
		}
		if a, b := Check(again, CheckOptions{}).Stuck, Check(want, CheckOptions{}).Stuck; !reflect.DeepEqual(a, b) {
			t.Fatalf("seed %d: stuck %v; want %v", seed, a, b)
		}
	}
}

func TestRender(t *testing.T) {
	g := mustLoad(t, "testdata/incident/before.yaml")
	for f, want := range map[Format][]string{
		DOT:     {`"zk" -> "cluster-scheduler" [label="managed by", color="#a4161a", penwidth=2];`, `"cluster-scheduler" -> "bootstrap-dns" [style=dashed];`},
		Mermaid: {"flowchart BT", "linkStyle", "-->|managed by|", "stroke:#a4161a"},
		SVG:     {`<svg xmlns`, `stroke="#a4161a" stroke-width="2.5"`, "tier 4"},
		HTML:    {"zk is managed by cluster-scheduler, cluster-scheduler needs zk: neither can start first.", "8 of 11 services can never be brought back", "a recovery container for cluster-scheduler brings back 8"},
	} {
		got := mustRender(t, f, g)
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%s lacks %q", f, w)
			}
		}
	}
	if err := Render(io.Discard, "png", g, CheckOptions{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("Render(png) = %v; want ErrInvalid", err)
	}
}

// Whatever a name is, each format stays what it is.
func TestRenderHostile(t *testing.T) {
	g := New([]Service{
		{Name: evil, Tier: 1, Owner: evil, Runbook: evil, Region: evil, Needs: []Need{{AnyOf: []string{"b"}, At: Position{evil, 1}}}},
		{Name: "b", Tier: 2, Needs: []Need{{AnyOf: []string{evil}, Managed: true}}},
	})
	d := xml.NewDecoder(strings.NewReader(mustRender(t, SVG, g)))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("svg: %v", err)
		}
		if e, ok := tok.(xml.StartElement); ok && (e.Name.Local == "script" || e.Name.Local == "img") {
			t.Errorf("svg has a %s", e.Name.Local)
		}
	}
	if got := strings.Count(mustRender(t, HTML, g), "<script"); got != 2 {
		t.Errorf("the page has %d scripts; want the data and its own", got)
	}
	if m := mustRender(t, Mermaid, g); strings.Contains(m, "<img") || strings.Contains(m, `="`) {
		t.Errorf("mermaid:\n%s", m)
	}
	cmd := exec.Command("dot", "-Tplain")
	cmd.Stdin = strings.NewReader(mustRender(t, DOT, g))
	out, err := cmd.Output()
	if err != nil || strings.Count(string(out), "\nnode ") != 2 || strings.Count(string(out), "\nedge ") != 2 {
		t.Errorf("dot: %v\n%s", err, out)
	}
}
