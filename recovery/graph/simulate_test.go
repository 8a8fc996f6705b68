package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Singles and pairs agree with a plain reading of the rules; no pair that is worse than its parts is left out.
func TestSimulateAgainstReference(t *testing.T) {
	t.Parallel()
	worse := 0
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		g := withTimes(rnd, random(rnd))
		ref := reference{g}
		takes := func(n string) time.Duration { s, _ := g.Find(n); return s.Takes }
		want := map[string]string{}
		play := func(lost ...string) (down map[string]bool, done map[string]time.Duration) {
			down = ref.down(lost)
			return down, ref.finish(down, takes)
		}
		tell := func(down map[string]bool, done map[string]time.Duration) string {
			var end time.Duration
			for _, d := range done {
				end = max(end, d)
			}
			return fmt.Sprint(len(down), len(down)-len(done), end)
		}
		for i, a := range g.Services {
			downA, doneA := play(a.Name)
			want[a.Name] = tell(downA, doneA)
			for _, b := range g.Services[i+1:] {
				downB, doneB := play(b.Name)
				down, done := play(a.Name, b.Name)
				fell, stuck := map[string]bool{}, map[string]bool{}
				for s := range downA {
					fell[s] = true
					if _, ok := doneA[s]; !ok {
						stuck[s] = true
					}
				}
				for s := range downB {
					fell[s] = true
					if _, ok := doneB[s]; !ok {
						stuck[s] = true
					}
				}
				if len(down) > len(fell) || len(down)-len(done) > len(stuck) {
					want[a.Name+" and "+b.Name] = tell(down, done)
					worse++
				}
			}
		}
		sim, err := Simulate(t.Context(), g, SimulateOptions{Singles: true, Pairs: true})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for i, o := range sim.Outcomes {
			got[o.Name] = fmt.Sprint(o.Down, o.Stuck, o.Time)
			if o.Recoverable != (o.Stuck == 0) || o.Stuck > 0 && len(o.Example) != min(5, o.Stuck) || i > 0 && sim.Outcomes[i-1].Stuck < o.Stuck {
				t.Fatalf("seed %d: outcome %d = %+v", seed, i, o)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("seed %d: outcomes\n%v; want\n%v of %+v", seed, got, want, g.Services)
		}
	}
	if worse < 100 {
		t.Errorf("%d pairs were worse than their parts; want enough to mean something", worse)
	}
}

func TestSimulateIncident(t *testing.T) {
	for file, want := range map[string]string{
		"testdata/incident/before.yaml": "8 8 false; zk 8 false",
		"testdata/incident/after.yaml":  "0 0 true; power-distribution 0 true",
	} {
		g := mustLoad(t, file)
		sim, err := Simulate(t.Context(), g, SimulateOptions{Storms: []Storm{{Name: "all", All: true, Tier: NoTier}, {Name: "east", Region: "east", Tier: NoTier}, {Name: "tier 1", Tier: 1}}})
		if err != nil || len(sim.Outcomes) != 3 {
			t.Fatalf("%s: %+v, %v", file, sim, err)
		}
		i := slices.IndexFunc(sim.Outcomes, func(o Outcome) bool { return o.Name == "all" })
		j := slices.IndexFunc(sim.Outcomes, func(o Outcome) bool { return o.Name == "east" })
		all, east := sim.Outcomes[i], sim.Outcomes[j]
		one, err := Simulate(t.Context(), g, SimulateOptions{Singles: true, Top: 5})
		if err != nil || len(one.Outcomes) != 5 || one.Simulated != len(g.Services) {
			t.Fatalf("%s: %+v, %v", file, one, err)
		}
		worst := one.Outcomes[0]
		k := slices.IndexFunc(one.Outcomes, func(o Outcome) bool { return o.Name == "zk" })
		if k >= 0 {
			worst = one.Outcomes[k]
		}
		if got := fmt.Sprintf("%d %d %v; %s %d %v", all.Stuck, east.Stuck, all.Recoverable, worst.Name, worst.Stuck, worst.Recoverable); got != want {
			t.Errorf("%s: %s; want %s", file, got, want)
		}
	}
}

func TestSimulateErrors(t *testing.T) {
	g := mustLoad(t, "testdata/incident/after.yaml")
	for _, st := range []Storm{{Name: "a", Lost: []string{"x"}, Tier: NoTier}, {Name: "b", Region: "x", Tier: NoTier}, {Name: "c", Tier: 77}} {
		if _, err := Simulate(t.Context(), g, SimulateOptions{Storms: []Storm{st}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("storm %s: error = %v; want ErrInvalid", st.Name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Simulate(ctx, g, SimulateOptions{Singles: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v; want that of the context", err)
	}
}

// BenchmarkSimulate loses each of 10,000 services with 100,000 edges, alone; and each two of 300.
func BenchmarkSimulate(b *testing.B) {
	g := mustReadFiles(b, large(10_000, 10, 0))
	var some []string
	for i := range 300 {
		some = append(some, g.Services[len(g.Services)-1-i].Name)
	}
	for _, o := range []struct {
		name string
		SimulateOptions
	}{{"singles", SimulateOptions{Singles: true, Top: 10}}, {"pairs", SimulateOptions{Pairs: true, Among: some, Top: 10}}} {
		b.Run(o.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Simulate(b.Context(), g, o.SimulateOptions); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
