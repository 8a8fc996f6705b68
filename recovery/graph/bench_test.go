package graph

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// large writes files that declare services with ten needs each, all on services below; of each hundred needs one has an
// alternative. Without a loop if loops is 0.
func large(services, needs, loops int) []File {
	r := rand.New(rand.NewPCG(1, 2))
	var files []File
	for i := 0; i < services; {
		var b bytes.Buffer
		b.WriteString("services:\n")
		for ; i < services && b.Len() < 1<<20; i++ {
			fmt.Fprintf(&b, "  - {name: service-%06d, tier: %d, owner: team-%d, runbook: r/%d.yaml, needs: [", i, 9*i/services, i%500, i)
			for j := range needs {
				if j > 0 {
					b.WriteString(", ")
				}
				if i == 0 {
					b.WriteString("hardware")
					continue
				}
				// Most needs are close by, as in a real stack.
				to := r.IntN(i)
				if j%2 == 0 {
					to = max(0, i-1-r.IntN(2000))
				}
				if r.IntN(100) == 0 {
					fmt.Fprintf(&b, "{any_of: [service-%06d, service-%06d]}", to, r.IntN(i))
				} else {
					fmt.Fprintf(&b, "service-%06d", to)
				}
			}
			b.WriteString("]")
			if i < loops {
				fmt.Fprintf(&b, ", managed_by: service-%06d", services-1-i)
			}
			b.WriteString("}\n")
		}
		files = append(files, File{Name: fmt.Sprintf("repo%d/graph.yaml", len(files)), Data: b.Bytes()})
	}
	return files
}

// BenchmarkCheck reads and checks 100,000 services with 1,000,000 edges; heap-MB is what the process had from the system.
func BenchmarkCheck(b *testing.B) {
	for _, loops := range []int{0, 10} {
		b.Run("loops="+strconv.Itoa(loops), func(b *testing.B) {
			files := large(100_000, 10, loops)
			for b.Loop() {
				g, err := Read(files...)
				if err != nil {
					b.Fatal(err)
				}
				if r := Check(g, CheckOptions{}); r.Recoverable != (loops == 0) {
					b.Fatalf("recoverable = %v", r.Recoverable)
				}
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/(1<<20), "heap-MB")
		})
	}
}

func BenchmarkRead(b *testing.B) {
	files := large(100_000, 10, 0)
	for b.Loop() {
		if _, err := Read(files...); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOthers gives the same edges to tsort(1), and to Graphviz's acyclic(1) and tred(1) where they are there.
// tred compares with nothing here: it removes edges, and is quadratic; it gets a hundredth of them.
func BenchmarkOthers(b *testing.B) {
	dir := b.TempDir()
	for _, c := range []struct {
		tool     string
		services int
		args     []string
	}{{"tsort", 100_000, nil}, {"acyclic", 100_000, []string{"-n"}}, {"tred", 1000, nil}} {
		b.Run(fmt.Sprintf("%s/%d", c.tool, c.services), func(b *testing.B) {
			if _, err := exec.LookPath(c.tool); err != nil {
				b.Skip(err)
			}
			g := mustReadFiles(b, large(c.services, 10, 0))
			path := filepath.Join(dir, c.tool)
			var text strings.Builder
			if c.tool == "tsort" {
				for _, s := range g.Services {
					for _, n := range s.Needs {
						fmt.Fprintf(&text, "%s %s\n", n.AnyOf[0], s.Name)
					}
				}
			} else {
				text.WriteString("digraph {\n")
				for _, s := range g.Services {
					for _, n := range s.Needs {
						fmt.Fprintf(&text, "%q -> %q\n", s.Name, n.AnyOf[0])
					}
				}
				text.WriteString("}\n")
			}
			if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				cmd := exec.Command(c.tool, append(c.args, path)...)
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %.200s", err, out)
				}
			}
		})
	}
}

func mustReadFiles(t testing.TB, files []File) *Graph {
	t.Helper()
	g, err := Read(files...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
