package graph

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// mustRead is a graph of texts, each a file with its name.
func mustRead(t testing.TB, texts ...string) *Graph {
	t.Helper()
	var files []File
	for i := 0; i < len(texts); i += 2 {
		files = append(files, File{Name: texts[i], Data: []byte(texts[i+1])})
	}
	g, err := Read(files...)
	if err != nil {
		t.Fatalf("Read() = %v; want a graph", err)
	}
	return g
}

func mustLoad(t testing.TB, names ...string) *Graph {
	t.Helper()
	var texts []string
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, n, string(b))
	}
	return mustRead(t, texts...)
}

func digestOf(text string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text))) }

// random is a small graph with everything in it: managers, alternatives, capabilities of several, given and unknown names.
func random(r *rand.Rand) *Graph {
	n := 1 + r.IntN(9)
	name := func() string {
		switch k := r.IntN(20); {
		case k < 15:
			return fmt.Sprintf("s%d", r.IntN(n))
		case k < 17:
			return fmt.Sprintf("cap%d", r.IntN(3))
		case k < 18:
			return "safe-storage:read"
		case k < 19:
			return fmt.Sprintf("s%d:read", r.IntN(n))
		}
		return "nobody"
	}
	var all []Service
	for i := range n {
		s := Service{Name: fmt.Sprintf("s%d", i), Tier: r.IntN(4) - 1}
		if r.IntN(3) == 0 {
			s.Needs = append(s.Needs, Need{AnyOf: []string{name()}, Managed: true})
		}
		for range r.IntN(3) {
			need := Need{AnyOf: []string{name()}, Provenance: Provenance(r.IntN(3))}
			for r.IntN(3) == 0 {
				need.AnyOf = append(need.AnyOf, name())
			}
			s.Needs = append(s.Needs, need)
		}
		if r.IntN(3) == 0 {
			s.Provides = append(s.Provides, fmt.Sprintf("cap%d", r.IntN(3)))
		}
		all = append(all, s)
	}
	return New(all)
}

// reference is the plainest reading of the rules, over names.
type reference struct{ g *Graph }

// meets are the services that make a name hold; given says that none has to.
func (r reference) meets(name string) (by []string, given bool) {
	for _, s := range r.g.Services {
		if s.Name == name || slices.Contains(s.Provides, name) {
			by = append(by, s.Name)
		}
	}
	if len(by) > 0 {
		return by, false
	}
	head, _, _ := strings.Cut(name, ":")
	if slices.Contains(r.g.Given, name) {
		return nil, true
	}
	if _, ok := r.g.Find(head); ok {
		return []string{head}, false
	}
	return nil, slices.Contains(r.g.Given, head)
}

func (r reference) holds(n Need, up map[string]bool) bool {
	for _, name := range n.AnyOf {
		by, given := r.meets(name)
		if given || slices.ContainsFunc(by, func(s string) bool { return up[s] }) {
			return true
		}
	}
	return false
}

// up is what can be up when what starts up is.
func (r reference) up(start map[string]bool, without string) map[string]bool {
	up := map[string]bool{}
	for s := range start {
		up[s] = true
	}
	for again := true; again; {
		again = false
		for _, s := range r.g.Services {
			if up[s.Name] || s.Name == without || slices.ContainsFunc(s.Needs, func(n Need) bool { return !n.Soft && !r.holds(n, up) }) {
				continue
			}
			up[s.Name], again = true, true
		}
	}
	return up
}

// loop is the length of a shortest loop among what is stuck; 0 if there is none.
func (r reference) loop(up map[string]bool) int {
	next := map[string][]string{}
	for _, s := range r.g.Services {
		if up[s.Name] {
			continue
		}
		for _, n := range s.Needs {
			if n.Soft || r.holds(n, up) {
				continue
			}
			for _, name := range n.AnyOf {
				by, _ := r.meets(name)
				next[s.Name] = append(next[s.Name], by...)
			}
		}
	}
	for length := 1; length <= len(r.g.Services); length++ {
		for s := range next {
			at := map[string]bool{s: true}
			for range length {
				then := map[string]bool{}
				for v := range at {
					for _, w := range next[v] {
						then[w] = true
					}
				}
				at = then
			}
			if at[s] {
				return length
			}
		}
	}
	return 0
}
