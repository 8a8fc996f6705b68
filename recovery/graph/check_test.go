package graph

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestIncident(t *testing.T) {
	before := Check(mustLoad(t, "testdata/incident/before.yaml"), CheckOptions{})
	if before.Recoverable {
		t.Error("before: Recoverable = true; want false")
	}
	const want = "zk is managed by cluster-scheduler, cluster-scheduler needs zk: neither can start first"
	if len(before.Loops) == 0 || before.Loops[0].Sentence() != want {
		t.Fatalf("before: loops = %+v; want first %q", before.Loops, want)
	}
	l := before.Loops[0]
	if got := l.Edges[0].Evidence(); got != "declared, testdata/incident/before.yaml:8" || !l.Shortest || l.Knot != 6 {
		t.Errorf("evidence = %q, shortest %v, knot %d; want line 8, true, 6", got, l.Shortest, l.Knot)
	}
	var inverted []string
	for _, v := range before.Inversions {
		inverted = append(inverted, v.String())
	}
	if want := "zk is managed by cluster-scheduler: zk is of tier 1, cluster-scheduler of tier 2"; !slices.Contains(inverted, want) {
		t.Errorf("inversions = %q; want %q among them", inverted, want)
	}
	if len(before.Unlock) == 0 || before.Unlock[0].Kind != Jumpstart || before.Unlock[0].Name != "cluster-scheduler" && before.Unlock[0].Name != "zk" || before.Unlock[0].Left != 0 {
		t.Errorf("unlock = %v; want a recovery container that brings everything back", before.Unlock)
	}

	if !slices.Equal(before.Jumpstart, []string{"cluster-scheduler"}) {
		t.Errorf("jumpstart = %v; want the scheduler alone", before.Jumpstart)
	}

	after := Check(mustLoad(t, "testdata/incident/after.yaml"), CheckOptions{})
	if !after.Recoverable || len(after.Loops)+len(after.Inversions)+len(after.Problems)+len(after.Stuck) > 0 {
		t.Errorf("after = %+v; want everything recoverable and no inversions", after)
	}
	if got := fmt.Sprint(after.Waves); got != "[2 1 2 1 1 1 2 2 2]" {
		t.Errorf("after: waves = %s; want [2 1 2 1 1 1 2 2 2]", got)
	}
	if len(after.Single) == 0 || after.Single[0] != (Single{"power-distribution", "facilities", 12}) {
		t.Errorf("after: single points = %v; want power-distribution first, for 12", after.Single)
	}
}

// The fixpoint, the loops, the single points and what unlocks most agree with a plain reading of the rules.
func TestCheckAgainstReference(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20000) {
		g := random(rand.New(rand.NewPCG(seed, 1)))
		ref := reference{g}
		up := ref.up(nil, "")
		r := Check(g, CheckOptions{Top: 100})
		var stuck []string
		for _, s := range g.Services {
			if !up[s.Name] {
				stuck = append(stuck, s.Name)
			}
		}
		if !slices.Equal(r.Stuck, stuck) || r.Recoverable != (len(stuck) == 0) {
			t.Fatalf("seed %d: stuck = %v, recoverable %v; want %v of %+v", seed, r.Stuck, r.Recoverable, stuck, g.Services)
		}
		length := 0
		if len(r.Loops) > 0 {
			length = len(r.Loops[0].Services)
		}
		if want := ref.loop(up); length != want {
			t.Fatalf("seed %d: shortest loop of %d; want %d of %+v", seed, length, want, g.Services)
		}
		for _, l := range r.Loops {
			checkLoop(t, ref, up, l)
		}
		checkSingle(t, ref, up, r)
		checkJumpstart(t, ref, r)
		for _, u := range r.Unlock {
			checkUnlock(t, ref, up, u)
		}
	}
}

func checkLoop(t *testing.T, ref reference, up map[string]bool, l Loop) {
	t.Helper()
	for i, e := range l.Edges {
		if e.From != l.Services[i] || e.To != l.Services[(i+1)%len(l.Services)] {
			t.Fatalf("edge %d of loop %v is %s -> %s", i, l.Services, e.From, e.To)
		}
		ok := false
		for _, name := range e.Need.AnyOf {
			by, _ := ref.meets(name)
			ok = ok || slices.Contains(by, e.To)
		}
		if !ok || ref.holds(e.Need, up) {
			t.Fatalf("edge %s of a loop: want one that %s alone could meet", e, e.To)
		}
	}
	if s := l.Sentence(); !strings.HasSuffix(s, " start first") && !strings.HasSuffix(s, "it can never start") {
		t.Fatalf("sentence = %q", s)
	}
}

func checkSingle(t *testing.T, ref reference, up map[string]bool, r Report) {
	t.Helper()
	want := map[string]int{}
	for _, s := range ref.g.Services {
		if up[s.Name] {
			if n := len(up) - len(ref.up(nil, s.Name)) - 1; n > 0 {
				want[s.Name] = n
			}
		}
	}
	if len(r.Single) != len(want) {
		t.Fatalf("single = %v; want %v of %+v", r.Single, want, ref.g.Services)
	}
	for i, s := range r.Single {
		if want[s.Service] != s.Loses || i > 0 && r.Single[i-1].Loses < s.Loses {
			t.Fatalf("single = %v; want %v, worst first", r.Single, want)
		}
	}
}

// With the recovery containers nothing is in a loop any more.
func checkJumpstart(t *testing.T, ref reference, r Report) {
	t.Helper()
	start := map[string]bool{}
	for _, s := range r.Jumpstart {
		start[s] = true
	}
	if n := ref.loop(ref.up(start, "")); n != 0 || (len(r.Jumpstart) > 0) != (len(r.Loops) > 0) {
		t.Fatalf("jumpstart = %v leaves a loop of %d, of loops %v; want none of %+v", r.Jumpstart, n, r.Loops, ref.g.Services)
	}
}

func checkUnlock(t *testing.T, ref reference, up map[string]bool, u Unlock) {
	t.Helper()
	g := ref.g
	start := map[string]bool{}
	var all []Service
	for _, s := range g.Services {
		s.Needs = slices.Clone(s.Needs)
		switch u.Kind {
		case Jumpstart:
			start[u.Name] = true
		case MoveManager:
			if s.Name == u.Name {
				s.Needs = slices.DeleteFunc(s.Needs, func(n Need) bool { return n.Managed && n.AnyOf[0] == u.From })
			}
		case AddCapability:
			s.Needs = slices.DeleteFunc(s.Needs, func(n Need) bool { return !n.Managed && slices.Contains(n.AnyOf, u.Name) })
		}
		all = append(all, s)
	}
	now := reference{New(all)}.up(start, "")
	if got := len(now) - len(up); got != u.Unlocks {
		t.Fatalf("%s; want %d of %+v", u, got, g.Services)
	}
}

func TestFindings(t *testing.T) {
	day := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	const book = "runbook: etcd\nservice: etcd\nowner: storage\nsteps: [{name: a, run: x}]\n---\nrehearsal: alone\nservice: etcd\nconditions: [package-store:read]\nwithin: 1m\n"
	g := mustRead(
		t, "a/services.yaml", `services:
  - {name: etcd, tier: 1, owner: storage, needs: [package-store:read], runbook: etcd.yaml, observed: [metrics]}
  - {name: package-store, tier: 2, owner: release, needs: [hardware], runbook: gone.yaml}
  - {name: metrics, tier: 3, needs: [etcd, typo]}
  - {name: dns, needs: [{any_of: [nothing, hardware]}], runbook: dns.yaml}
  - {name: old, needs: [hardware]}
`, "a/etcd.yaml", book,
		"a/dns-2.yaml", "runbook: another for dns\nservice: dns\nsteps: [{name: a, confirm: x}]\n", "a/dns.yaml", "runbook: dns\nservice: dns\nsteps: [{name: a, run: x}]\n",
		"b/other.yaml", "services: [{name: etcd, owner: platform, tier: 1}]\n",
		"a/etcd.proof.json", `{"service": "etcd", "rehearsal": "alone", "at": "2026-03-01T00:00:00Z", "took": "61s",
  "conditions": ["package-store:read"], "minimal": true, "runbook": "`+digestOf(book)+`",
  "attempts": [{"to": "package-store:read"}, {"to": "metrics", "blocked": true, "count": 9},
    {"to": "tcp:10.0.0.9:443", "blocked": true}]}`,
		"a/old.proof.json", `{"service": "old", "rehearsal": "r", "at": "2025-03-01T00:00:00Z", "took": "61s"}`,
	)
	r := Check(g, CheckOptions{Now: day, MaxAge: 90 * 24 * time.Hour})
	var got []string
	for _, p := range r.Problems {
		got = append(got, fmt.Sprintf("%s: %s (%s:%d %s:%d)", p.Kind, p.Message, p.At.File, p.At.Line, p.Other.File, p.Other.Line))
	}
	for _, v := range r.Inversions {
		got = append(got, v.String()+"; "+v.Evidence())
	}
	for _, u := range r.Undeclared {
		got = append(got, u.String())
	}
	for _, u := range r.Unproven {
		got = append(got, u.Service+": "+u.Why)
	}
	for _, m := range r.Missing {
		got = append(got, m.Service+" lacks "+m.Need.String())
	}
	want := []string{
		"conflict: etcd has the owner storage here, and platform there (a/services.yaml:2 b/other.yaml:1)",
		"unknown: dns needs nothing, which no service provides (a/services.yaml:5 :0)",
		"unknown: metrics needs typo, which no service provides (a/services.yaml:4 :0)",
		"etcd needs package-store:read, which is package-store's: etcd is of tier 1, package-store of tier 2; proven in a/etcd.proof.json, a/services.yaml:2",
		"etcd reaches metrics, and does not say that it needs it; if it does, that is a loop",
		"etcd reaches tcp:10.0.0.9:443, and does not say that it needs it",
		"dns: its runbook was never rehearsed",
		"metrics: it has no runbook",
		"old: its proof is 374 days old",
		"package-store: its runbook was never rehearsed",
		"metrics lacks typo",
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("findings:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if strict := Check(g, CheckOptions{Observed: true}); len(strict.Loops) != 1 || strict.Loops[0].Services[0] != "etcd" {
		t.Errorf("with what was observed: loops = %+v; want etcd and metrics", strict.Loops)
	}
}

// Nothing is made of a proof that is of another runbook than the one that is there; it is told.
func TestProofOfAnotherRunbook(t *testing.T) {
	const book = "runbook: etcd\nservice: etcd\nsteps: [{name: a, run: x}]\n---\nrehearsal: alone\nservice: etcd\nconditions: [store]\nwithin: 1m\n"
	proof := func(digest string) string {
		return `{"service": "etcd", "rehearsal": "alone", "at": "2026-03-01T00:00:00Z", "took": "20s", "conditions": ["store"], "minimal": true,
  "runbook": "` + digest + `", "attempts": [{"to": "other"}]}`
	}
	for _, c := range []struct{ digest, problem, unproven, takes, edges string }{
		{digestOf(book), "", "[store: it has no runbook]", "20s measured", "proven store, observed other"},
		{
			digestOf(book + "#"), "the proof p.json of etcd is not of the runbook etcd.yaml as it is now: it is not used",
			"[etcd: its runbook was changed since it was proven store: it has no runbook]", "1m0s expected", "declared store",
		},
		{"", "the proof p.json of etcd is not of the runbook etcd.yaml as it is now: it is not used", "[etcd: its runbook was changed since it was proven store: it has no runbook]", "1m0s expected", "declared store"},
	} {
		g := mustRead(t, "etcd.yaml", book, "p.json", proof(c.digest), "s.yaml", "services: [{name: store}]")
		r := Check(g, CheckOptions{})
		problem := ""
		for _, p := range r.Problems {
			problem += p.Message
		}
		var unproven, edges []string
		for _, u := range r.Unproven {
			unproven = append(unproven, u.Service+": "+u.Why)
		}
		s, _ := g.Find("etcd")
		for _, n := range s.Needs {
			edges = append(edges, n.Provenance.String()+" "+n.String())
		}
		p, err := Order(g, OrderOptions{Lost: []string{"etcd"}})
		if err != nil {
			t.Fatal(err)
		}
		takes := p.Steps[0].Takes
		if got := []string{problem, fmt.Sprint(unproven), takes.Likely.String() + " " + string(takes.Source), strings.Join(edges, ", ")}; !slices.Equal(got, []string{c.problem, c.unproven, c.takes, c.edges}) {
			t.Errorf("with digest %q: %q; want %q, %q, %q, %q", c.digest, got, c.problem, c.unproven, c.takes, c.edges)
		}
	}
	r := Check(mustRead(t, "p.json", proof("sha256:aa"), "s.yaml", "services: [{name: store}, {name: other}]"), CheckOptions{})
	if len(r.Unproven) != 3 || r.Unproven[0].Why != "the runbook of its proof is not among the files" || len(r.Problems) > 0 {
		t.Errorf("without the runbook: %+v, %+v; want that told", r.Unproven, r.Problems)
	}
}

func TestSentences(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"services: [{name: a, needs: [a]}]", "a needs itself: it can never start"},
		{"services: [{name: a, managed_by: a}]", "a is managed by itself: it can never start"},
		{"services: [{name: a, needs: [x], provides: [x]}]", "a needs x, which is its own: it can never start"},
		{"services: [{name: a, needs: [b]}, {name: b, managed_by: c}, {name: c, needs: [x]}, {name: a, provides: [x]}]", "a needs b, b is managed by c, c needs x, which is a's: none of them can start first"},
		{"services: [{name: a, needs: [{any_of: [b, c]}]}, {name: b, needs: [a]}, {name: c, needs: [nobody]}]", "a needs b (c does not come either), b needs a: neither can start first"},
	} {
		r := Check(mustRead(t, "f.yaml", c.in), CheckOptions{})
		if len(r.Loops) != 1 || r.Loops[0].Sentence() != c.want {
			t.Errorf("loops of %s = %+v; want %q", c.in, r.Loops, c.want)
		}
	}
}

// Among sparse graphs, in which the loops are long and cross each other, the one reported is a shortest.
func TestShortestLoop(t *testing.T) {
	long := 0
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 6))
		n := 10 + r.IntN(20)
		var all []Service
		for i := range n {
			s := Service{Name: fmt.Sprintf("s%02d", i), Tier: NoTier, Needs: []Need{{AnyOf: []string{fmt.Sprintf("s%02d", (i+1)%n)}}}}
			if r.IntN(4) == 0 {
				s.Needs = append(s.Needs, Need{AnyOf: []string{fmt.Sprintf("s%02d", (i+n-2-r.IntN(n/2))%n)}})
			}
			all = append(all, s)
		}
		g := New(all)
		l := Check(g, CheckOptions{}).Loops
		want := reference{g}.loop(nil)
		if len(l) != 1 || len(l[0].Services) != want || !l[0].Shortest {
			t.Fatalf("seed %d: loops %+v; want one of %d of %+v", seed, l, want, all)
		}
		if want > 3 {
			long++
		}
	}
	if long < 500 {
		t.Errorf("%d graphs had no short loop; want enough to mean something", long)
	}
}

// A chain, and a ring, of a million services: nothing here may go as deep as they are long.
func TestLong(t *testing.T) {
	t.Parallel()
	const n = 1_000_000
	chain := make([]Service, n)
	for i := range chain {
		chain[i] = Service{Name: fmt.Sprintf("%07d", i), Tier: NoTier}
		if i > 0 {
			chain[i].Needs = []Need{{AnyOf: []string{chain[i-1].Name}}}
		}
	}
	r := Check(New(chain), CheckOptions{Top: 3})
	if !r.Recoverable || len(r.Waves) != n || len(r.Single) != 3 || r.Single[0].Loses != n-1 {
		t.Errorf("chain: recoverable %v in %d waves, single points %v; want true in %d, the first for all others", r.Recoverable, len(r.Waves), r.Single, n)
	}
	chain[0].Needs = []Need{{AnyOf: []string{chain[n-1].Name}}}
	r = Check(New(chain), CheckOptions{Top: 3})
	if len(r.Stuck) != n || len(r.Loops) != 1 || len(r.Loops[0].Services) != n || !r.Loops[0].Shortest {
		t.Errorf("ring: %d stuck, %d loops; want %d, and one loop of all", len(r.Stuck), len(r.Loops), n)
	}
	if s := r.Loops[0].Sentence(); len(s) > 500 || !strings.Contains(s, "999992 more") {
		t.Errorf("sentence = %q; want one that a person reads", s)
	}
	if len(r.Unlock) == 0 || r.Unlock[0].Unlocks != n {
		t.Errorf("unlock = %v; want one that brings all back", r.Unlock)
	}
}
