package image

import (
	"bytes"
	"os/exec"
	"testing"
)

// run runs a program of the host and returns what it prints.
func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q = %v; want success\n%s%s", name, args, err, out, stderr.Bytes())
	}
	return out
}
