package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// T is what [Test] needs of a test; *testing.T has it.
type T interface {
	Helper()
	Context() context.Context
	TempDir() string
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Init is called first in the TestMain of a package that uses [Test] or [Rehearse],
// for a rehearsal starts the test's program again, as the vacuum's first process and
// to look at probes. There it does not return.
func Init() {
	sandbox.Init()
	// As recovery.Vacuum.Ground starts it: --state DIR --data DIR runbook step.
	a := os.Args
	if len(a) != 7 || a[1] != "--state" || a[3] != "--data" || a[5] != "runbook" || a[6] != "step" {
		return
	}
	site := recovery.Site{Root: "/", Log: slog.New(slog.DiscardHandler)}
	site.Host.State, site.Host.Data = a[2], a[4]
	code, err := site.RunErrand(context.Background(), os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		if code = 1; errors.Is(err, sandbox.ErrUnresolved) {
			code = 7
		}
	}
	os.Exit(code)
}

// Test runs every rehearsal in a file, and fails the test with the first that does
// not pass. A runbook that a rehearsal names lies beside it. What o leaves out is
// chosen: a site in a directory of the test's own, no kit, and as Self the test's
// program, whose TestMain calls [Init]. A runbook that starts containers needs a real
// blackstart as Self.
func Test(t T, o Options, path string) {
	t.Helper()
	if err := o.fill(t); err != nil {
		t.Fatalf("preparing a rehearsal: %v", err)
	}
	files, err := readAll(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if len(files[0].Rehearsals) == 0 {
		t.Fatalf("%s has no rehearsal", path)
	}
	for _, h := range files[0].Rehearsals {
		r, err := Rehearse(t.Context(), o, files[0], h, files...)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, h.Title, err)
		}
		if r.Verdict == Pass {
			t.Logf("%s: %s, %s", r.Verdict, h.Title, r.Took.Round(time.Millisecond))
			continue
		}
		why := []string{r.Reason}
		for _, s := range r.Suggest {
			why = append(why, "this would have let through what it tried to reach: "+s)
		}
		t.Fatalf("%s: %s: %s\n%s", r.Verdict, h.Title, strings.Join(why, "\n"), r.Output)
	}
}

// fill chooses what an option leaves open.
func (o *Options) fill(t T) (err error) {
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return err
		}
	}
	if o.Catalogue == nil {
		o.Catalogue = sandbox.Catalogue{}
	}
	if o.Site.Host.Data == "" {
		dir := t.TempDir()
		o.Site.Host.Data, o.Site.Host.State = filepath.Join(dir, "data"), filepath.Join(dir, "state")
	}
	if o.Site.Root == "" {
		o.Site.Root = "/"
	}
	if o.Site.Log == nil {
		o.Site.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// readAll reads a file, and those that its rehearsals name.
func readAll(path string) ([]*runbooks.File, error) {
	f, err := runbooks.Read(path)
	if err != nil {
		return nil, err
	}
	files, have := []*runbooks.File{f}, map[string]bool{f.Wants(&runbooks.Rehearsal{}): true}
	for _, h := range f.Rehearsals {
		if want := f.Wants(h); !have[want] {
			have[want] = true
			other, err := runbooks.Read(want)
			if err != nil {
				return nil, err
			}
			files = append(files, other)
		}
	}
	return files, runbooks.Check(runbooks.Known{}, files...)
}
