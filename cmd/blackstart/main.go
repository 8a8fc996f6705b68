// Blackstart brings infrastructure back when nothing that normally runs it is
// there. See `blackstart --help`.
package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/sandbox"
)

// init is where libcontainer's second half runs: it starts this program again as
// "init" inside the new namespaces. The variable tells it from an operator who
// types that word.
func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != "" {
		debug.SetGCPercent(-1) // it lives some milliseconds, until the container's command takes its place
		libcontainer.Init()
	}
}

// beFound puts this program's directory at the end of PATH: runbooks, rehearsals and
// people in a drill call it by its name, however it was called itself.
func beFound() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	dir, path := filepath.Dir(self), os.Getenv("PATH")
	if !slices.Contains(filepath.SplitList(path), dir) {
		_ = os.Setenv("PATH", strings.TrimPrefix(path+":"+dir, ":")) // the name is a good one
	}
}

func main() {
	sandbox.Init()
	beFound()
	debug.SetGCPercent(400)        // most commands end before a collection would pay
	debug.SetMemoryLimit(96 << 20) // for those where it does
	log := slog.New(newHandler(os.Stderr))
	quietLibraries()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	app := newApp(log)
	err := app.RunContext(ctx, permute(app, os.Args))
	code := report(os.Stderr, err)
	stop()
	os.Exit(code)
}
