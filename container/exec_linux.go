package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// ExecOptions is a further process for a running container. What is empty is as
// the container's first process has it.
type ExecOptions struct {
	Args                  []string
	Env                   []string
	User                  string
	Workdir               string
	Terminal              bool
	Stdin, Stdout, Stderr *os.File
}

// Exec runs a process inside the container and returns its exit status. When ctx
// ends first, the process is killed.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (int, error) {
	if len(o.Args) == 0 {
		return 0, fmt.Errorf("%w: no command to run", ErrBadSpec)
	}
	lib, err := libcontainer.Load(c.host.State, c.name)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return 0, fmt.Errorf("%w: %s", ErrNotRunning, c.name)
	}
	if err != nil {
		return 0, fmt.Errorf("loading state of %s: %w", c.name, err)
	}
	if st, err := lib.Status(); err != nil || st != libcontainer.Running {
		return 0, errors.Join(fmt.Errorf("%w: %s is %s", ErrNotRunning, c.name, st), err)
	}
	conf, err := c.OCI()
	if err != nil {
		return 0, err
	}
	p := conf.Process
	p.Args, p.Env, p.Terminal = o.Args, mergeEnv(p.Env, o.Env), o.Terminal
	if o.Workdir != "" {
		p.Cwd = o.Workdir
	}
	if o.User != "" {
		pid := c.Status().PID
		if err := setUser(conf, fmt.Sprintf("/proc/%d/root", pid), o.User); err != nil {
			return 0, err
		}
	}
	lp, err := libProcess(p, false)
	if err != nil {
		return 0, err
	}
	if !o.Terminal {
		lp.Stdin, lp.Stdout, lp.Stderr = reader(o.Stdin), writer(o.Stdout), writer(o.Stderr)
		if err := lib.Run(lp); err != nil {
			return 0, fmt.Errorf("starting %s: %w", o.Args[0], err)
		}
		return waitStatus(ctx, lp, nil)
	}
	tty, err := newTerminal(o.Stdin, o.Stdout)
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	lp.ConsoleSocket = tty.child
	lp.ConsoleHeight, lp.ConsoleWidth = tty.size()
	if err := lib.Run(lp); err != nil {
		return 0, fmt.Errorf("starting %s: %w", o.Args[0], err)
	}
	if err := tty.attach(); err != nil {
		_ = lp.Signal(unix.SIGKILL)
		return 0, errors.Join(err, ignoreState(lp))
	}
	return waitStatus(ctx, lp, tty)
}

func ignoreState(lp *libcontainer.Process) error {
	_, err := lp.Wait()
	return err
}

// waitStatus passes signals on to a process until it ends.
func waitStatus(ctx context.Context, lp *libcontainer.Process, tty *terminal) (int, error) {
	stop := forward(ctx, func(sig unix.Signal) { _ = lp.Signal(sig) }, tty)
	defer stop()
	state, err := lp.Wait()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if state == nil {
		return 0, err
	}
	if ws := state.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}
