package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Sweep looks for containers that nobody is in charge of and puts them right: a
// start or removal that was cut off is undone, one that ended unseen is written
// down as ended, and one that runs on without its supervisor gets a new one. It
// returns a sentence for each.
func (h Host) Sweep(ctx context.Context) ([]string, error) {
	if os.Geteuid() != 0 || !exists(filepath.Join(h.Data, "containers")) {
		return nil, nil
	}
	unlock, err := h.exclusive()
	if errors.Is(err, ErrReadOnly) {
		return nil, nil // nothing was made here, so nothing is left over
	}
	if err != nil {
		return nil, err
	}
	gone, err := filepath.Glob(filepath.Join(h.Data, "containers", ".gone.*"))
	errs := []error{err}
	for _, dir := range gone {
		errs = append(errs, os.RemoveAll(dir))
	}
	names, err := h.names()
	errs = append(errs, err)
	var orphans []*Container
	var said []string
	for _, name := range names {
		c := &Container{host: h, name: name}
		if c.lock, err = tryLock(c.path("lock"), os.O_CREATE); err != nil {
			if !errors.Is(err, errLocked) && !errors.Is(err, os.ErrNotExist) { // gone since the names were read
				errs = append(errs, fmt.Errorf("looking after %s: %w", name, err))
			}
			continue
		}
		what, adopt, err := c.sweep()
		if what != "" && err == nil {
			said = append(said, name+": "+what)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("looking after %s: %w", name, err))
		}
		if c.lock != nil {
			c.lock.Close()
			c.lock = nil
		}
		if adopt {
			orphans = append(orphans, c)
		}
	}
	unlock()
	for _, c := range orphans {
		if err := c.readopt(ctx); err != nil {
			errs = append(errs, fmt.Errorf("looking after %s: %w", c.name, err))
		}
	}
	return said, errors.Join(errs...)
}

// sweep decides for one container whose lock it holds.
func (c *Container) sweep() (what string, adopt bool, err error) {
	err = readJSON(c.path("record.json"), &c.rec)
	if err != nil || c.rec.Phase == creating || c.rec.Phase == removing {
		c.rec.Overlay, c.rec.Detached = true, true // not known for certain: both are looked for by their place
		what := "its start was cut off; what it left has been removed"
		if c.rec.Phase == removing {
			what = "its removal was cut off; it has been finished"
		}
		return what, false, c.Discard()
	}
	if c.rec.Phase == exited {
		return "", false, nil
	}
	rebooted := c.rec.BootID != bootID()
	c.lock.Close()
	c.lock = nil
	st := c.Status()
	alive := !rebooted && (st.State == StateRunning || st.State == StatePaused)
	policy := c.rec.Spec.Restart
	switch {
	case !c.rec.Detached && alive:
		return "", false, nil // ps shows it; only the operator knows whether it should end
	case c.rec.Detached && alive:
		return "its supervisor was gone while it ran on; a new one watches it", true, nil
	case c.rec.Detached && !rebooted && !c.stopWanted() && (policy == RestartAlways || policy == RestartOnFailure):
		return "it ended while its supervisor was gone; a new one starts it again", true, nil
	}
	if c.lock, err = tryLock(c.path("lock"), 0); err != nil {
		return "", false, err
	}
	if !c.rec.Detached {
		return "the command that ran it was killed and it has ended; what it left has been removed", false, c.Discard()
	}
	e := Exit{Code: -1, Reason: "it ended while its supervisor was gone", Finished: time.Now().UTC()}
	if rebooted {
		e.Reason = "the host was restarted"
	}
	return e.Reason, false, c.finish(e)
}

// readopt starts a supervisor for a container that has lost its own, and waits
// until it is in charge.
func (c *Container) readopt(ctx context.Context) error {
	own, err := os.OpenFile(c.path("supervisor.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer own.Close()
	cmd := c.superviseCmd(own, "--adopt")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting supervisor: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for !c.supervised() {
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("starting supervisor: %w", err)
		}
	}
	return cmd.Process.Release()
}
