package recovery

import (
	"context"
	"encoding/json"
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
	data  string   // of the site, inside
	names []string // of the hosts, in the vacuum's order
	host  int
}

// Ground is the vacuum as a place where runbooks are run, on the host with the
// number 0 unless a step names others. self is this program, by a path that is
// visible inside; names are what the runbook calls the hosts, in their order.
func (v *Vacuum) Ground(self string, names []string) Ground {
	return vacuumGround{v: v, self: self, data: v.site.Host.Data, names: names}
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
	one := *p
	one.Within, one.Hold = runbooks.DefaultWithin, runbooks.DefaultWithin // no duration is zero there, and none counts
	raw, err := json.Marshal(one)
	if err != nil {
		return err
	}
	var said limitedBuffer
	code, err := g.spawn(ctx, sandbox.Cmd{Args: []string{g.self, "--data", g.data, "runbook", "probe", string(raw)}, Env: append(os.Environ(), env...), Stdout: &said, Stderr: &said})
	if err == nil && code != 0 {
		err = errors.New(firstLine(said.b))
	}
	return err
}

func firstLine(b []byte) string {
	for i, c := range b {
		if c == '\n' {
			b = b[:i]
			break
		}
	}
	const prefix = "blackstart: "
	if len(b) > len(prefix) && string(b[:len(prefix)]) == prefix {
		b = b[len(prefix):]
	}
	if len(b) == 0 {
		return "it is not true"
	}
	return string(b)
}

func (g vacuumGround) Do(ctx context.Context, t runbooks.Task, out io.Writer) error {
	s := t.Step
	if s.Kind() != runbooks.Fetch {
		return fmt.Errorf("%w: %w: a %s step in a vacuum", sandbox.ErrUnresolved, ErrNotHere, s.Kind())
	}
	// From inside, so that it reaches what the conditions let it reach, and no more.
	args := []string{g.self, "--data", g.data, "fetch", "get", s.Fetch}
	switch {
	case s.With != nil && s.With.Unpack:
		args = append(args, "--unpack")
	case s.With != nil:
		args = append(args, "-o", s.With.To)
	}
	code, err := g.spawn(ctx, sandbox.Cmd{Args: args, Stdout: out, Stderr: out})
	if err == nil && code != 0 {
		err = fmt.Errorf("it ended with status %d", code)
	}
	if err == nil && s.With != nil && s.With.Mode != "" {
		code, err = g.spawn(ctx, sandbox.Cmd{Args: []string{"chmod", s.With.Mode, s.With.To}, Env: os.Environ(), Stdout: out, Stderr: out})
		if err == nil && code != 0 {
			err = fmt.Errorf("chmod ended with status %d", code)
		}
	}
	return err
}
