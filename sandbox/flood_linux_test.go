package sandbox

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFlood counts every attempt of a program that makes them as fast as it can,
// and says how fast that is.
func TestFlood(t *testing.T) {
	source, err := os.ReadFile("testdata/flood.c")
	if err != nil {
		t.Fatal(err)
	}
	program := compile(t, string(source), "-O2", "-pthread", "-static")
	for _, c := range []struct {
		name                 string
		threads, each, burst int
		udp, tcp             int
	}{
		{"calls", 4, 10000, 0, 20000, 20000},
		{"bursts", 4, 51200, 1024, 204800, 0}, // more than the packet log takes at once
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewRecord(nil)
			w := up(t, Options{Record: r, Binds: []string{filepath.Dir(program)}})
			began := time.Now()
			if out, code := inside(t, w, program, itoa(c.threads), itoa(c.each), itoa(c.burst)); code != 0 {
				t.Fatalf("flood = %q, %d; want 0", out, code)
			}
			if err := w.Close(); err != nil { // reads to the end
				t.Fatal(err)
			}
			took := time.Since(began)
			if err := r.Complete(); err != nil {
				t.Errorf("Complete() = %v; want nil", err)
			}
			got := map[string]int{}
			for _, a := range r.Attempts() {
				if a.Verdict == Blocked && len(a.Sources) == 2 {
					got[a.Proto] += a.Count
				}
			}
			if got["udp"] != c.udp || got["tcp"] != c.tcp {
				t.Errorf("%v attempts in the record, blocked, by call and packet; want %d of udp and %d of tcp", got, c.udp, c.tcp)
			}
			t.Logf("%d attempts in %v: %.0f a second", c.udp+c.tcp, took, float64(c.udp+c.tcp)/took.Seconds())
		})
	}
}
