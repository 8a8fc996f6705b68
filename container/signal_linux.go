package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// siginfoPID is si_pid of a SIGCHLD's siginfo_t (sigaction(2)): on Linux it
// follows three ints and, on 64-bit machines, four bytes of padding.
func siginfoPID(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}

// waitPID waits until a process that need not be our child has ended.
func waitPID(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil { // before Linux 5.3
		for unix.Kill(pid, 0) == nil {
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	}
	defer unix.Close(fd)
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", pid, err)
		}
		if n > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// ParseSignal reads TERM, SIGTERM or 15.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rt, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		if n, err := strconv.Atoi(rt); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("%w: unknown signal %q", ErrBadSpec, s)
}

func stopSignal(s Spec) unix.Signal {
	if sig, err := ParseSignal(s.StopSignal); err == nil {
		return sig
	}
	return unix.SIGTERM
}

// Signal sends a signal to the container's first process.
func (c *Container) Signal(sig unix.Signal) error {
	lib, err := libcontainer.Load(c.host.State, c.name)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotRunning, c.name)
	}
	if err != nil {
		return fmt.Errorf("loading state of %s: %w", c.name, err)
	}
	if err := lib.Signal(sig); errors.Is(err, libcontainer.ErrNotRunning) {
		return fmt.Errorf("%w: %s", ErrNotRunning, c.name)
	} else if err != nil {
		return fmt.Errorf("signalling %s: %w", c.name, err)
	}
	return nil
}

// signalThenKill asks the first process to end and kills it after grace.
func (c *Container) signalThenKill(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	pid := c.Status().PID
	if pid == 0 {
		return nil
	}
	if err := c.Signal(sig); errors.Is(err, ErrNotRunning) {
		return nil
	} else if err != nil {
		return err
	}
	soft, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if waitPID(soft, pid) == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := c.Signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	hard, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := waitPID(hard, pid); err != nil {
		return fmt.Errorf("killing %s: process %d does not die: %w", c.name, pid, err)
	}
	return nil
}

// wantStop tells the supervisor not to start the container again.
func (c *Container) wantStop() error { return writeJSON(c.path("stop.json"), time.Now().UTC(), false) }

func (c *Container) stopWanted() bool { return exists(c.path("stop.json")) }

// Stop ends the container: its stop signal, and SIGKILL after grace. It returns
// when the container has ended and its end is written down; a container that had
// already ended is no error.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	if st := c.Status(); st.State == StateExited {
		return nil
	}
	if err := c.wantStop(); err != nil {
		return err
	}
	if err := c.endAndTakeCharge(ctx, grace); errors.Is(err, os.ErrNotExist) {
		return nil // a foreground run removed itself
	} else if err != nil {
		return err
	}
	defer func() { c.lock.Close(); c.lock = nil }()
	if err := readJSON(c.path("record.json"), &c.rec); err != nil {
		return err
	}
	if c.rec.Phase == exited {
		return nil
	}
	return c.finish(Exit{Code: -1, Reason: "stopped; its supervisor had been killed", Finished: time.Now().UTC()})
}

// endAndTakeCharge ends the first process, also one that a start under way is
// only about to make, until nobody else is in charge of the container.
func (c *Container) endAndTakeCharge(ctx context.Context, grace time.Duration) error {
	patience := time.Now().Add(grace + 20*time.Second)
	for {
		if err := c.signalThenKill(ctx, stopSignal(c.rec.Spec), grace); err != nil {
			return err
		}
		soon, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		err := c.inCharge(soon)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || time.Now().After(patience) {
			return err
		}
	}
}

// Remove removes a container that has ended, or with force any.
func (c *Container) Remove(ctx context.Context, force bool) error {
	if st := c.Status(); st.State != StateExited {
		if !force {
			return fmt.Errorf("%w: %s", ErrRunning, c.name)
		}
		if err := c.Stop(ctx, 0); err != nil {
			return err
		}
	}
	unlock, err := c.host.exclusive()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.inCharge(ctx); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return c.Discard()
}
