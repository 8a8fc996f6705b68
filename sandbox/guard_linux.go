package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FromGuard is the source of what [Guard] denied.
const FromGuard Source = "guard"

// GuardOptions say what a command may reach from where it is, on the host's own
// network. Capabilities are of the kinds tcp, udp and loopback, without options
// but their name. What Deny names is denied; if Allow names anything, so is
// everything else, the host's loopback and its resolver included.
type GuardOptions struct {
	Allow, Deny []Capability
	// Cmd is run as it is: its environment unscrubbed, its streams handed over. It
	// has no TTY of its own.
	Cmd Cmd
}

// GuardResult is what became of a guarded command.
type GuardResult struct {
	Code   int       // its exit status, or 128 and the number of the signal that ended it
	Denied []Attempt // one per destination, all its processes counted together
	// Released is how many processes outlived the command. They were moved to this
	// process's own cgroup, where nothing is denied to them any more.
	Released int
}

// guardDetail is what every denied attempt has in common.
const guardDetail = "not permitted here (EPERM)"

// Guard runs a command and denies it, and whatever it starts, destinations on
// the host's own network: connecting or sending there ends with EPERM at once.
// Programs in the kernel that hang on the command's cgroup do it, so no rule of
// the host's firewall is touched, and they go with the cgroup. They stay if this
// process is killed and the command is not; [Sweep] then removes the cgroup when
// the command has ended.
//
// It is a rail for scripts that must not depend on what they repair, and no jail.
// Sockets that are neither TCP nor UDP nor, without Allow, for a ping cannot be
// made. Unix sockets are not looked at, and with them whatever daemons of the
// host do on the command's behalf; and root can leave its cgroup.
//
// It needs root, cgroup v2, which need not be mounted, and Linux 5.2. Errors
// wrap ErrBadOptions, ErrUnresolved (nothing was run), or fs.ErrNotExist and
// fs.ErrPermission for the command itself. When ctx ends, all processes are
// killed.
func Guard(ctx context.Context, o GuardOptions) (_ *GuardResult, err error) {
	rules, err := guardRules(o)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: guarding a command in place needs root", ErrUnresolved)
	}
	name, err := cgroupName()
	if err != nil {
		return nil, err
	}
	group, err := newUnifiedCgroup(name)
	if err != nil {
		return nil, fmt.Errorf("%w: making a cgroup to guard: %w", ErrUnresolved, err)
	}
	result := &GuardResult{}
	defer func() {
		released, gone := group.remove()
		result.Released, err = released, errors.Join(err, gone)
	}()
	programs, err := attachGuard(group.dir, rules, len(o.Allow) > 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnresolved, err)
	}
	defer programs.close()
	began := time.Now()
	if result.Code, err = runGuarded(ctx, o.Cmd, group); err != nil {
		return nil, err
	}
	if result.Denied, err = programs.denied(o.Deny, began, time.Now()); err != nil {
		return result, fmt.Errorf("%w: reading what was denied: %w", ErrUnresolved, err)
	}
	return result, nil
}

// guardRules are the options in the order in which they are asked.
func guardRules(o GuardOptions) ([]guardRule, error) {
	if len(o.Cmd.Args) == 0 {
		return nil, fmt.Errorf("%w: no command", ErrBadOptions)
	}
	if o.Cmd.TTY {
		return nil, fmt.Errorf("%w: a guarded command has no terminal of its own", ErrBadOptions)
	}
	if len(o.Allow)+len(o.Deny) == 0 {
		return nil, fmt.Errorf("%w: nothing to allow or to deny", ErrBadOptions)
	}
	var rules []guardRule
	for i, c := range slices.Concat(o.Deny, o.Allow) {
		switch {
		case c.Kind != KindTCP && c.Kind != KindUDP && c.Kind != KindLoopback:
			return nil, fmt.Errorf("%w: %s: a guard knows tcp, udp and loopback only", ErrBadOptions, c)
		case c.Mode != ModeAllow && c.Mode != "", c.Dark != ModeDrop && c.Dark != "", c.Latency > 0, c.Loss > 0, c.Bandwidth > 0:
			return nil, fmt.Errorf("%w: %s: a guard has no options but name", ErrBadOptions, c)
		case len(c.Ports) == 0:
			return nil, fmt.Errorf("%w: %s: no ports", ErrBadOptions, c)
		}
		rules = append(rules, rulesOf(c, i < len(o.Deny))...)
	}
	return rules, nil
}

// runGuarded starts the command in the cgroup and waits for it.
func runGuarded(ctx context.Context, c Cmd, group *unifiedCgroup) (code int, err error) {
	procs, err := group.procs()
	if err != nil {
		return 0, fmt.Errorf("%w: opening the guarded cgroup: %w", ErrUnresolved, err)
	}
	defer procs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("opening a pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args, cmd.Env, cmd.Dir = append([]string{guardName}, c.Args...), c.Env, c.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	cmd.ExtraFiles = []*os.File{w, procs}
	cmd.Cancel = func() error { return errors.Join(group.kill(), cmd.Process.Kill()) }
	cmd.WaitDelay = time.Second // what outlives the command may hold its output open
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		return 0, fmt.Errorf("starting the guarded command: %w", err)
	}
	said, readErr := io.ReadAll(io.LimitReader(r, maxInline))
	err = cmd.Wait()
	if ctx.Err() != nil {
		return 0, fmt.Errorf("running %s: %w", c.Args[0], ctx.Err())
	}
	if len(said) > 0 || readErr != nil {
		return 0, guardError(said, readErr)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, fmt.Errorf("running %s: %w", c.Args[0], err)
	}
	if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// guardError is why the command was not run.
func guardError(said []byte, err error) error {
	var f guardFailure
	if err == nil {
		err = json.Unmarshal(said, &f)
	}
	if err != nil {
		return fmt.Errorf("%w: asking how the guarded command started: %w", ErrUnresolved, err)
	}
	inside := &insideError{f.Error, unix.Errno(f.Errno)}
	if f.Unresolved {
		return fmt.Errorf("%w: %w", ErrUnresolved, inside)
	}
	return inside
}
