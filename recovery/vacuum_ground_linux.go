package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// vacuumGround is a vacuum as a place where runbooks are run: every step is done by
// a program inside.
type vacuumGround struct {
	v     *Vacuum
	self  string   // this program, inside
	names []string // of the hosts, in the vacuum's order
	host  int
}

// Ground is the vacuum as a place where runbooks are run, on the host with the
// number 0 unless a step names others. self is this program, by a path that is
// visible inside; names are what the runbook calls the hosts, in their order.
func (v *Vacuum) Ground(self string, names []string) Ground {
	return vacuumGround{v: v, self: self, names: names}
}

// On is the same on another host.
func (g vacuumGround) On(host string) (Ground, error) {
	i := slices.Index(g.names, host)
	if i < 0 || i >= len(g.v.hosts) {
		return nil, fmt.Errorf("%w: %w: host %s, in a vacuum of %d", sandbox.ErrUnresolved, ErrNotHere, host, len(g.v.hosts))
	}
	g.host = i
	return g, nil
}

func (g vacuumGround) Ready(context.Context) error { return nil }

func (g vacuumGround) Shell(ctx context.Context, script string, env []string, dir string, out io.Writer) (int, error) {
	return g.spawn(ctx, sandbox.Cmd{Args: []string{"/bin/sh", "-eu", "-c", script}, Env: append(os.Environ(), env...), Dir: dir, Stdout: out, Stderr: out})
}

func (g vacuumGround) spawn(ctx context.Context, c sandbox.Cmd) (int, error) {
	p, err := g.v.Spawn(ctx, g.host, c)
	if err != nil {
		return 0, err
	}
	code, err := p.Wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return code, err
}

func (g vacuumGround) Probe(ctx context.Context, p *runbooks.Probe, env []string) error {
	return g.errand(ctx, errand{Probe: p, Env: inJSON(env)}, io.Discard)
}

// Do has the step done from inside, so that it reaches what the conditions let it reach,
// and no more.
func (g vacuumGround) Do(ctx context.Context, t runbooks.Task, out io.Writer) error {
	t.Env = nil
	return g.errand(ctx, errand{Do: &t}, out)
}

// errand has this program do something inside.
func (g vacuumGround) errand(ctx context.Context, e errand, out io.Writer) (err error) {
	e.Vacuum = true
	text, err := g.v.site.errandText(e)
	if err != nil {
		return err
	}
	said := &firstBytes{left: answerLimit}
	code, err := g.spawn(ctx, sandbox.Cmd{Args: g.v.site.errandArgs(g.self), Env: os.Environ(), Stdin: bytes.NewReader(text), Stdout: out, Stderr: said})
	switch {
	case err != nil || code == 0:
		return err
	case code == unresolvedStatus:
		return fmt.Errorf("%w: %s", sandbox.ErrUnresolved, failure(said.b.Bytes()))
	case failure(said.b.Bytes()) == "":
		return fmt.Errorf("it ended with status %d", code)
	}
	return errors.New(failure(said.b.Bytes()))
}

// unresolvedStatus is what this program exits with where it could not be told.
const unresolvedStatus = 7
