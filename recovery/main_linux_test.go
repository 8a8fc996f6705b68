package recovery

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
)

// TestMain makes this program the one that does steps in other places.
func TestMain(m *testing.M) {
	if i := slices.Index(os.Args, "step"); i < 6 || os.Args[i-1] != "runbook" {
		os.Exit(m.Run())
	}
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	s := Site{Host: container.Host{State: os.Args[2], Data: os.Args[4]}}
	code, err := s.RunErrand(context.Background(), os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "blackstart: "+err.Error()+"\n  next: nothing")
		os.Exit(1)
	}
	os.Exit(code)
}
