package recovery

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
)

// HandoffOptions say when the service's own instance has taken over.
type HandoffOptions struct {
	Until     container.Probe // answered by the orchestrator's own instance
	Timeout   time.Duration   // for that instance to become healthy
	Grace     time.Duration   // between the stop signal and SIGKILL
	StopFirst bool            // stop the recovery container before, and start it again if the other does not come up
}

// steady is how many checks in a row must pass, checkEvery apart.
const (
	steady     = 3
	checkEvery = 500 * time.Millisecond
)

// Handoff gives the service back: it waits until the orchestrator's own instance
// is healthy, stops the recovery container, makes sure that nothing of it holds
// a port or lock, and removes it. A tombstone stays.
//
// Where both cannot be up at once, because they share data or ports, StopFirst
// turns the order round. Whenever the other instance is not healthy after the
// recovery container has stopped, the recovery container is started again.
func (s Site) Handoff(ctx context.Context, name string, o HandoffOptions) (err error) {
	c, err := s.Host.Load(name)
	if err != nil {
		return err
	}
	st := c.Status()
	if !st.Detached {
		return fmt.Errorf("%w: %s runs in the foreground of another terminal: stop it there", ErrUsage, name)
	}
	own := c.PIDs()
	if !o.StopFirst && st.State != container.StateExited {
		s.Log.Info("waiting for the service's own instance", "check", o.Until, "timeout", o.Timeout)
		if err := s.healthy(ctx, c, o, own); err != nil {
			return err
		}
		s.Log.Info("it is healthy; stopping the recovery container", "name", name)
	}
	if st.State != container.StateExited {
		if err := c.Stop(ctx, o.Grace); err != nil {
			return fmt.Errorf("stopping %s: %w", name, err)
		}
	}
	if o.StopFirst {
		s.Log.Info("stopped; waiting for the service's own instance", "check", o.Until, "timeout", o.Timeout)
	}
	if err := s.healthy(ctx, c, o, nil); err != nil {
		return errors.Join(err, s.startAgain(c))
	}
	if err := s.released(ctx, c, own); err != nil {
		return err
	}
	if err := c.Bury(time.Now(), "handed over to the instance that answers "+o.Until.String()); err != nil {
		return err
	}
	s.Log.Info("handed over; the recovery container is removed", "name", name)
	return nil
}

// healthy waits until the check has passed several times in a row. own are the
// recovery container's processes: an answer of theirs does not count.
func (s Site) healthy(ctx context.Context, c *container.Container, o HandoffOptions, own []int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, ErrNotHealthy)
	defer cancel()
	passed, last := 0, error(nil)
	told := time.Now()
	err := poll(ctx, checkEvery, func() bool {
		if last = o.Until.Check(ctx, hostCommand); last != nil {
			passed = 0
		} else if passed++; passed >= steady {
			return true
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			s.Log.Info("not healthy yet", "check", o.Until, "saw", last)
			s.sayWaiters(ctx, c, own)
		}
		return s.selfAnswered(ctx, o.Until, own)
	})
	if s.selfAnswered(context.WithoutCancel(ctx), o.Until, own) {
		return fmt.Errorf("%w: %s", ErrSelfAnswered, o.Until)
	}
	if errors.Is(err, ErrNotHealthy) {
		s.sayWaiters(context.WithoutCancel(ctx), c, own)
		return fmt.Errorf("%w within %s: %s: %w", ErrNotHealthy, o.Timeout, o.Until, last)
	}
	return err
}

// selfAnswered says whether the recovery container itself listens where the
// check asks.
func (s Site) selfAnswered(ctx context.Context, p container.Probe, own []int) bool {
	port, ok := p.Port()
	if !ok || len(own) == 0 {
		return false
	}
	owners, err := container.PortOwner(ctx, port)
	return err == nil && slices.ContainsFunc(owners, func(pid int) bool { return slices.Contains(own, pid) })
}

// sayWaiters tells which processes wait for a lock of the recovery container.
func (s Site) sayWaiters(ctx context.Context, c *container.Container, own []int) {
	if len(own) == 0 {
		return
	}
	found, err := s.twins(ctx, c, func(pid int) bool { return slices.Contains(own, pid) })
	if err != nil {
		return
	}
	for _, f := range found {
		if f.Waiting {
			s.Log.Warn("the service's own instance waits for what the recovery container holds: use --stop-first", "sign", f.String())
		}
	}
}

// released makes sure that no process of the recovery container is left.
func (s Site) released(ctx context.Context, c *container.Container, own []int) error {
	found, err := s.twins(ctx, c, func(pid int) bool { return !slices.Contains(own, pid) })
	if err != nil {
		return fmt.Errorf("checking what is still held: %w", err)
	}
	for _, f := range found {
		if f.Certain {
			return fmt.Errorf("%w: %s is stopped, but of it %s", container.ErrRunning, c.Name(), f)
		}
	}
	return nil
}

// startAgain starts a stopped recovery container once more, because nobody took
// over. It must happen even when the operator has lost patience.
func (s Site) startAgain(c *container.Container) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s.Log.Warn("nobody took over: starting the recovery container again", "name", c.Name())
	if err := s.revive(ctx, c); err != nil {
		return fmt.Errorf("starting %s again: %w", c.Name(), err)
	}
	return nil
}

func (s Site) revive(ctx context.Context, c *container.Container) error {
	if err := c.Revive(); err != nil {
		return err
	}
	err := s.remount(c)
	if err == nil {
		_, err = c.Detach(ctx)
	}
	if err != nil {
		return errors.Join(err, c.Retire(err))
	}
	return nil
}

func (s Site) remount(c *container.Container) error {
	lower := c.LowerDirs()
	if len(lower) == 0 {
		return nil
	}
	return image.Mount(lower, c.Upper(), c.Work(), c.Rootfs(), false)
}

// hostCommand runs the command of an exec check on the host.
func hostCommand(ctx context.Context, command string) (int, string, error) {
	out, err := exec.CommandContext(ctx, "/bin/sh", "-c", command).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}
