package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/runbooks"
)

// ErrNotHere is returned for a step that this version cannot do.
var ErrNotHere = errors.New("this kind of step cannot be done here")

// hostGround is this host.
type hostGround struct {
	site  Site
	fleet *fleet // nil: there are no other hosts
}

// Ground is this host, as a place where runbooks are run.
func (s Site) Ground() Ground { return hostGround{site: s} }

func (g hostGround) On(host string) (Ground, error) {
	if g.fleet == nil {
		return nil, fmt.Errorf("%w: on host %s", ErrNotHere, host)
	}
	return g.fleet.on(host)
}

// afterExit is how long a script's output is read on when it has ended: a program
// that it left in the background may hold it open for ever.
const afterExit = 2 * time.Second

func (g hostGround) Ready(context.Context) error { return nil }

func (g hostGround) Shell(ctx context.Context, script string, env []string, dir string, out io.Writer) (int, error) {
	c := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	c.Env, c.Dir, c.Stdout, c.Stderr, c.WaitDelay = append(os.Environ(), env...), dir, out, out, afterExit
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, errors.Join(context.Cause(ctx), g.endStep(context.WithoutCancel(ctx), env))
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	case errors.Is(err, exec.ErrWaitDelay):
		return 0, nil // it ended well, and something of it runs on
	}
	return 0, err
}

func (g hostGround) Probe(ctx context.Context, p *runbooks.Probe, env []string) error {
	switch p.Kind() {
	case runbooks.ExecProbe:
		var out limitedBuffer
		code, err := g.Shell(ctx, p.Exec, env, "", &out)
		if err == nil && code != 0 {
			err = fmt.Errorf("it ends with status %d", code)
		}
		return errors.Join(err, out.contains(err, p.Contains))
	case runbooks.LogProbe:
		return g.logHas(ctx, p)
	case runbooks.TCPProbe, runbooks.HTTPProbe, runbooks.DNSProbe, runbooks.FileProbe, runbooks.UnixProbe:
	}
	return lookAt(ctx, p)
}

// logHas looks for a text in a container's log or a file.
func (g hostGround) logHas(ctx context.Context, p *runbooks.Probe) error {
	var out limitedBuffer
	if filepath.IsAbs(p.Log) {
		f, err := os.Open(p.Log)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(&out, f); err != nil {
			return err
		}
		return out.contains(nil, p.Contains)
	}
	c, err := g.site.Host.Load(p.Log)
	if err != nil {
		return err
	}
	if err := c.Log(ctx, &out, container.LogOptions{}); err != nil {
		return err
	}
	return out.contains(nil, p.Contains)
}

// limitedBuffer keeps the end of what is written to it.
type limitedBuffer struct{ b []byte }

const keepOutput = 1 << 20 // bytes

func (l *limitedBuffer) Write(b []byte) (int, error) {
	l.b = append(l.b, b...)
	if len(l.b) > 2*keepOutput {
		l.b = append(l.b[:0], l.b[len(l.b)-keepOutput:]...)
	}
	return len(b), nil
}

func (l *limitedBuffer) contains(err error, want string) error {
	if err != nil || want == "" || bytes.Contains(l.b, []byte(want)) {
		return nil
	}
	return fmt.Errorf("%.80q is not in it", want)
}

func (g hostGround) Do(ctx context.Context, t runbooks.Task, out io.Writer) error {
	s := t.Step
	w := runbooks.With{}
	if s.With != nil {
		w = *s.With
	}
	switch s.Kind() {
	case runbooks.Fetch:
		return g.fetch(ctx, s.Fetch, w, out)
	case runbooks.Container:
		if container.Confined() {
			return g.startNested(ctx, t, out)
		}
		return g.start(ctx, s.Container, w, out)
	case runbooks.Stop:
		c, err := g.site.Host.Load(s.Stop)
		if err != nil {
			return err
		}
		if err := c.Stop(ctx, grace(w.Grace)); err != nil || !w.Remove {
			return err
		}
		return c.Remove(ctx, false)
	case runbooks.Handoff:
		until, err := container.ParseProbe(w.Until)
		if err != nil {
			return err
		}
		return g.site.Handoff(ctx, s.Handoff, HandoffOptions{Until: until, Timeout: time.Duration(s.Timeout), Grace: grace(w.Grace), StopFirst: w.StopFirst})
	case runbooks.DNS:
		return g.dns(ctx, s.DNS, w, out)
	case runbooks.Cert:
		return g.cert(ctx, *s, out)
	case runbooks.Run, runbooks.WaitFor, runbooks.Confirm, runbooks.Note:
	}
	return fmt.Errorf("%w: %s", ErrNotHere, s.Kind())
}

const defaultGrace = 10 * time.Second

func grace(d runbooks.Duration) time.Duration {
	if d == 0 {
		return defaultGrace
	}
	return time.Duration(d)
}

func (g hostGround) fetch(ctx context.Context, name string, w runbooks.With, out io.Writer) error {
	to := w.To
	if w.Unpack {
		to = Layers
	}
	f, err := g.site.Fetch(ctx, name, to, io.Discard)
	if err != nil {
		return err
	}
	if w.Mode != "" {
		mode, err := strconv.ParseUint(w.Mode, 8, 32)
		if err != nil {
			return err
		}
		if err := os.Chmod(to, os.FileMode(mode)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "%s, %s\n", to, f.Digest)
	return err
}

// startNested has this program start a recovery container where it may: the mounts
// that are made for it are not this process's.
func (g hostGround) startNested(ctx context.Context, t runbooks.Task, out io.Writer) error {
	text, err := g.site.errandText(errand{Do: &t})
	if err != nil {
		return err
	}
	said := &firstBytes{left: answerLimit}
	cmd := container.NestedCommand(g.site.errandArgs()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(text), out, said, afterExit
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting a container: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it undoes what it did
	defer stop()
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case failure(said.b.Bytes()) != "":
		return errors.New(failure(said.b.Bytes()))
	}
	return err
}

// start starts a recovery container, unless it runs already.
func (g hostGround) start(ctx context.Context, name string, w runbooks.With, out io.Writer) error {
	if w.Root != "" {
		g.site.Root = w.Root
	}
	s := g.site
	if container.Nested() {
		if err := container.Settle(); err != nil {
			return err
		}
	}
	if c, err := s.Host.Load(name); err == nil && c.Status().State == container.StateRunning {
		_, err := fmt.Fprintf(out, "%s runs already\n", name)
		return err
	}
	spec, err := g.spec(ctx, name, w)
	if err != nil {
		return err
	}
	r, err := s.Run(ctx, RunOptions{
		Spec: spec, Detach: true,
		Edit: Edit{Command: w.Command, ReplaceArgs: w.ReplaceArgs, DropArgs: w.DropArgs, Args: w.Args},
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s runs, process %d\n", r.Name, r.PID)
	return err
}

// spec is the container that a step speaks of.
func (g hostGround) spec(ctx context.Context, name string, w runbooks.With) (container.Spec, error) {
	s := g.site
	var spec container.Spec
	var err error
	switch {
	case w.Salvage != "":
		var v Salvaged
		v, err = s.Salvage(ctx, w.Salvage, SalvageOptions{Name: name, Net: w.Net, Image: w.Image})
		spec = v.Spec
	case w.Spec != "" && len(w.Spec) > 4 && w.Spec[:4] == "kit:":
		spec, err = s.KitService(w.Spec[4:])
	case w.Spec != "":
		spec, err = container.ReadSpecFile(w.Spec)
	case w.Image == "" && w.Rootfs == "":
		spec, err = s.KitService(name)
	}
	if err != nil {
		return spec, err
	}
	spec.Name = name
	for to, v := range map[*string]string{
		&spec.Net: w.Net, &spec.User: w.User, &spec.Workdir: w.Workdir,
	} {
		if v != "" {
			*to = v
		}
	}
	switch {
	case w.Rootfs != "":
		spec.Rootfs, spec.Image, spec.Layers = w.Rootfs, "", nil
	case w.Image != "" && w.Salvage == "":
		spec.Image, spec.Rootfs, spec.Layers = w.Image, "", nil
	}
	for k, v := range w.Env {
		spec.SetEnv(k + "=" + v)
	}
	for _, m := range w.Mounts {
		mount, err := container.ParseMount(m)
		if err != nil {
			return spec, err
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	if w.Memory > 0 {
		spec.Memory = strconv.FormatInt(int64(w.Memory), 10)
	}
	if w.CPUs > 0 {
		spec.CPUs = w.CPUs
	}
	if w.Restart != "" {
		spec.Restart = container.Restart(w.Restart)
	}
	if w.Health != "" {
		spec.Health = &container.Health{Check: w.Health}
	}
	return spec, nil
}
