package sandbox

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"
)

// up makes a vacuum that ends with the test.
func up(t testing.TB, o Options) *World {
	t.Helper()
	w, err := Up(t.Context(), o)
	if err != nil {
		t.Fatalf("Up(%+v) = %v; want a vacuum", o, err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	for _, warning := range w.Warnings() {
		t.Logf("warning: %s", warning)
	}
	return w
}

// inside runs a command and returns what it wrote and its exit code.
func inside(t testing.TB, w *World, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var out bytes.Buffer
	p, err := w.Spawn(ctx, Cmd{Args: args, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("Spawn(%q) = %v; want a process", args, err)
	}
	code, err := p.Wait()
	if err != nil {
		t.Fatalf("Wait() = %v; want an exit code of %q", err, args)
	}
	return strings.TrimRight(out.String(), "\n"), code
}

func TestExitStatus(t *testing.T) {
	w := up(t, Options{})
	for _, c := range []struct {
		script string
		out    string
		code   int
	}{
		{"echo hello; exit 0", "hello", 0},
		{"echo bad >&2; exit 7", "bad", 7},
		{"kill -9 $$", "", 137},
	} {
		if out, code := inside(t, w, "sh", "-c", c.script); out != c.out || code != c.code {
			t.Errorf("%q = %q, %d; want %q, %d", c.script, out, code, c.out, c.code)
		}
	}
}
