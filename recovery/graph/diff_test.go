package graph

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestCompareIncident(t *testing.T) {
	before, after := mustLoad(t, "testdata/incident/before.yaml"), mustLoad(t, "testdata/incident/after.yaml")
	d := Compare(before, after, CheckOptions{})
	if d.Worse() || len(d.Freed) != 7 || len(d.GoneLoops) == 0 || !slices.Contains(d.Added, "meta-root") || !slices.Contains(d.Removed, "zk") {
		t.Errorf("before to after = %+v; want 7 services freed and nothing worse", d)
	}
	d = Compare(after, before, CheckOptions{})
	md := d.Markdown()
	if !d.Worse() || !strings.Contains(md, "8 services can no longer be brought back") || !strings.Contains(md, "zk is managed by cluster-scheduler, cluster-scheduler needs zk: neither can start first") {
		t.Errorf("after to before: worse %v\n%s", d.Worse(), md)
	}
}

func TestCompare(t *testing.T) {
	a := mustRead(t, "a.yaml", "services: [{name: a, needs: [b]}, {name: b, needs: [hardware], takes: 2m}, {name: c, needs: [d]}, {name: d, needs: [c]}]")
	b := mustRead(t, "b.yaml", "services:\n- {name: a, needs: [b, c, {any_of: [b, x@y]}]}\n- {name: b, needs: [hardware], takes: 20m}\n- {name: c, needs: [d, e]}\n- {name: d, needs: [c]}\n- {name: e, needs: [a]}\n")
	d := Compare(a, b, CheckOptions{})
	// The knot's shortest loop is the old one; the new edge closes another.
	if len(d.NewLoops) != 1 || d.NewLoops[0].Sentence() != "a needs c, c needs e, e needs a: none of them can start first" {
		t.Errorf("new loops = %+v; want a, c, e", d.NewLoops)
	}
	want := "### Recovery graph: 2 services can no longer be brought back\n\nTime to recover from nothing, without the 4 that never come back: **"
	md := d.Markdown()
	if !strings.HasPrefix(md, want) || !strings.Contains(md, `a needs b or x&#64;y — declared, b.yaml:2`) || !strings.Contains(md, "b after 20m; it was 2m") {
		t.Errorf("markdown:\n%s", md)
	}
	if same := Compare(a, a, CheckOptions{}); same.Worse() || same.Markdown() != "### Recovery graph: no change\n" {
		t.Errorf("a graph and itself = %+v", same)
	}
	if got, want := markdown("<img src=x> [a](b) @team `c`"), "\\<img src=x\\> \\[a\\]\\(b\\) &#64;team \\`c\\`"; got != want {
		t.Errorf("markdown = %s; want %s", got, want)
	}
}

// What one way is new is gone the other way, and a graph is like itself.
func TestCompareBothWays(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 5))
		a, b := random(r), random(r)
		d, back := Compare(a, b, CheckOptions{}), Compare(b, a, CheckOptions{})
		if !reflect.DeepEqual(d.Added, back.Removed) || len(d.NewEdges) != len(back.GoneEdges) || !reflect.DeepEqual(d.NewLoops, back.GoneLoops) || d.Old != back.New {
			t.Fatalf("seed %d: %+v, and back %+v", seed, d, back)
		}
		for _, l := range d.NewLoops {
			checkLoop(t, reference{b}, reference{b}.up(nil, ""), l)
		}
	}
}
