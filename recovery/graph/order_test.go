package graph

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// down is what falls with a loss.
func (r reference) down(lost []string) map[string]bool {
	down := map[string]bool{}
	for _, l := range lost {
		down[l] = true
	}
	for again := true; again; {
		again = false
		for _, s := range r.g.Services {
			up := map[string]bool{}
			for _, o := range r.g.Services {
				up[o.Name] = !down[o.Name]
			}
			for _, n := range s.Needs {
				known := slices.ContainsFunc(n.AnyOf, func(name string) bool { by, _ := r.meets(name); return len(by) > 0 })
				if !down[s.Name] && !n.Managed && known && !r.holds(n, up) {
					down[s.Name], again = true, true
				}
			}
		}
	}
	return down
}

// finish is when each service is back; those that never are have none.
func (r reference) finish(down map[string]bool, takes func(string) time.Duration) map[string]time.Duration {
	const never = time.Duration(1) << 60
	done := map[string]time.Duration{}
	for _, s := range r.g.Services {
		if down[s.Name] {
			done[s.Name] = never
		}
	}
	for range len(down) + 1 {
		for name := range down {
			s, _ := r.g.Find(name)
			start := time.Duration(0)
			for _, n := range s.Needs {
				first := never
				for _, alt := range n.AnyOf {
					by, given := r.meets(alt)
					if given {
						first = 0
					}
					for _, b := range by {
						first = min(first, done[b])
					}
				}
				start = max(start, first)
			}
			if start < never {
				done[name] = min(done[name], start+takes(name))
			}
		}
	}
	for s, d := range done {
		if d == never || !down[s] {
			delete(done, s)
		}
	}
	return done
}

func withTimes(r *rand.Rand, g *Graph) *Graph {
	for i := range g.Services {
		g.Services[i].Takes = time.Duration(1+r.IntN(5)) * time.Minute
	}
	return g
}

// The plan brings back exactly what can be, every service after all that it needs, and as early as that allows.
func TestOrderAgainstReference(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5000) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		g := withTimes(rnd, random(rnd))
		ref := reference{g}
		lost := []string{g.Services[rnd.IntN(len(g.Services))].Name, g.Services[0].Name}
		if rnd.IntN(4) == 0 {
			lost = nil
		}
		p, err := Order(g, OrderOptions{Lost: lost})
		if err != nil {
			t.Fatal(err)
		}
		all := lost
		if lost == nil {
			for _, s := range g.Services {
				all = append(all, s.Name)
			}
		}
		down := ref.down(all)
		want := ref.finish(down, func(n string) time.Duration { s, _ := g.Find(n); return s.Takes })
		if len(p.Steps) != len(want) || len(p.Stuck) != len(down)-len(want) {
			t.Fatalf("seed %d, lost %v: %d steps, stuck %v; want %v of %v in %+v", seed, lost, len(p.Steps), p.Stuck, want, down, g.Services)
		}
		up := map[string]bool{}
		for _, s := range g.Services {
			up[s.Name] = !down[s.Name]
		}
		var end time.Duration
		for wave := 1; wave <= p.Waves; wave++ {
			before := map[string]bool{}
			for k, v := range up {
				before[k] = v
			}
			for _, s := range p.Steps {
				if s.Wave != wave {
					continue
				}
				service, _ := g.Find(s.Service)
				for _, n := range service.Needs {
					if !ref.holds(n, before) {
						t.Fatalf("seed %d: %s in wave %d needs %s, which is not up", seed, s.Service, wave, n)
					}
				}
				if s.Finish != want[s.Service] || s.Finish-s.Start != service.Takes {
					t.Fatalf("seed %d: %s from %s to %s; want the end at %s", seed, s.Service, s.Start, s.Finish, want[s.Service])
				}
				if (s.Because == "") != slices.Contains(all, s.Service) {
					t.Fatalf("seed %d: %s because of %q, of lost %v", seed, s.Service, s.Because, lost)
				}
				up[s.Service] = true
				end = max(end, s.Finish)
			}
		}
		var critical time.Duration
		for _, c := range p.Critical {
			s, _ := g.Find(c)
			critical += s.Takes
		}
		if critical != end {
			t.Fatalf("seed %d: critical path %v takes %s; want %s", seed, p.Critical, critical, end)
		}
		if (len(p.Loops) > 0) && len(p.Stuck) == 0 {
			t.Fatalf("seed %d: loops %v, and nothing is stuck", seed, p.Loops)
		}
	}
}

func TestOrderIncident(t *testing.T) {
	g := mustLoad(t, "testdata/incident/after.yaml")
	p, err := Order(g, OrderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(p.Critical, " > "), "power-distribution > network-fabric > meta-root > zelos-region > meta-region > cluster-scheduler > identity > blob-store > web"; got != want {
		t.Errorf("critical path = %s; want %s", got, want)
	}
	if p.Time.Low >= p.Time.Likely || p.Time.Likely >= p.Time.High || p.Time.Likely < 90*time.Minute || p.Time.Likely > 3*time.Hour {
		t.Errorf("time = %+v; want a spread about the 98 minutes of the path and more", p.Time)
	}
	again, _ := Order(g, OrderOptions{})
	if again.Time != p.Time {
		t.Errorf("the same graph gives %+v, and %+v", again.Time, p.Time)
	}

	// Losing the scheduler alone leaves what it manages running, and losing what it needs takes it down.
	p, _ = Order(g, OrderOptions{Lost: []string{"cluster-scheduler"}})
	if len(p.Steps) != 1 {
		t.Errorf("steps for the scheduler = %+v; want one", p.Steps)
	}
	p, _ = Order(g, OrderOptions{Lost: []string{"zelos-region"}, Alone: true})
	if len(p.Steps) != 1 {
		t.Errorf("steps for zelos alone = %+v; want one", p.Steps)
	}
	p, _ = Order(mustLoad(t, "testdata/incident/before.yaml"), OrderOptions{Lost: []string{"zk"}})
	if len(p.Loops) != 1 || !strings.HasPrefix(p.Loops[0].Sentence(), "zk is managed by cluster-scheduler, ") {
		t.Errorf("before, zk lost: loops %+v; want that of zk", p.Loops)
	}
	if _, err := p.Runbook("r", "zk"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a runbook for what never comes back: %v; want ErrInvalid", err)
	}
	if _, err := Order(g, OrderOptions{Lost: []string{"coordination"}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "did you mean zelos-region?") {
		t.Errorf("error = %v; want a hint at the provider", err)
	}
	if _, err := Order(g, OrderOptions{Region: "west"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("error = %v; want one for the region", err)
	}
	p, err = Order(g, OrderOptions{Region: "east"})
	if err != nil || len(p.Steps) != len(g.Services) {
		t.Errorf("region: %d steps, %v; want %d", len(p.Steps), err, len(g.Services))
	}
}

func TestEstimates(t *testing.T) {
	g := mustRead(
		t, "a.yaml", "services: [{name: measured}, {name: once}, {name: expected, takes: 8m}, {name: allowed}, {name: unknown}]\n---\nrehearsal: r\nservice: allowed\nwithin: 4m\n",
		"p.json", `{"service": "measured", "at": "2026-03-01T00:00:00Z", "runs": ["30s", "10s", "20s"]}`,
		"q.json", `{"service": "measured", "at": "2026-03-02T00:00:00Z", "took": "60s"}`,
		"r.json", `{"service": "once", "at": "2026-03-02T00:00:00Z", "took": "60s"}`,
	)
	p, err := Order(g, OrderOptions{Guess: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range p.Steps {
		got[s.Service] = fmt.Sprintf("%s %s %s %s %d", s.Takes.Low, s.Takes.Likely, s.Takes.High, s.Takes.Source, s.Takes.Runs)
	}
	for s, want := range map[string]string{
		"measured": "10s 25s 1m0s measured 4", "once": "45s 1m0s 1m30s measured 1", "expected": "4m0s 8m0s 16m0s expected 0",
		"allowed": "2m0s 4m0s 8m0s expected 0", "unknown": "30s 1m0s 2m0s guessed 0",
	} {
		if got[s] != want {
			t.Errorf("estimate of %s = %s; want %s", s, got[s], want)
		}
	}
	if p.Guessed != 1 || p.Time.Likely < 7*time.Minute || p.Time.High > 16*time.Minute {
		t.Errorf("guessed %d, time %+v; want 1, and about 8m", p.Guessed, p.Time)
	}
}

func TestRunbook(t *testing.T) {
	g := mustRead(t, "a/g.yaml", `services:
  - {name: "it's ${HOME}; rm", runbook: "b'; rm -rf x.yaml", takes: 90s}
  - {name: b, needs: ["it's ${HOME}; rm"], owner: me}
`, "a/c.yaml", "runbook: c\nservice: c\nsteps: [{name: x, run: y}, {name: z, confirm: sure?}]\n")
	p, err := Order(g, OrderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Runbook("all of it", "everything")
	if err != nil {
		t.Fatal(err)
	}
	_, doc, _ := strings.Cut(string(b), "\n")
	want := `runbook: "all of it"
service: "everything"
summary: "Brings 3 services back in 2 waves. The end waits for it's $${HOME}; rm > b."
steps:
  - name: "bring back c"
    needs: []
    confirm: "The runbook of c asks questions. Run it at another terminal: blackstart runbook run 'a/c.yaml'. Is it done?"
    takes: 10m
  - name: "bring back it's $${HOME}; rm"
    needs: []
    run: "blackstart runbook run --go-on 'a/b'\\''; rm -rf x.yaml'"
    timeout: 1h
    takes: 1m30s
  - name: "bring back b"
    needs: ["bring back it's $${HOME}; rm"]
    confirm: "There is no runbook for b of me. Is it back?"
    takes: 10m
`
	if doc != want {
		t.Errorf("runbook:\n%s\nwant:\n%s", doc, want)
	}
	r := &report{}
	if docs := full(b, r); len(r.errs) > 0 || len(docs) != 1 {
		t.Errorf("the runbook does not read: %v", r.errs)
	}
	if again := mustRead(t, "all.yaml", string(b)); again.Services[0].Runbook != "all.yaml" {
		t.Errorf("the runbook as input = %+v", again.Services)
	}
}
