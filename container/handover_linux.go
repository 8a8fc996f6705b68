package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runc/libcontainer"
)

// Layers writes down which read-only directories the root filesystem is to be
// mounted from, the lowest first, before it is.
func (c *Container) Layers(dirs []string) error {
	if len(dirs) == 0 {
		return nil
	}
	c.rec.Layers = dirs
	return c.save()
}

// LowerDirs are the directories given to Layers.
func (c *Container) LowerDirs() []string { return c.rec.Layers }

// PIDs lists the processes of the container and its supervisor, on the host.
func (c *Container) PIDs() []int {
	var pids []int
	if lib, err := libcontainer.Load(c.host.State, c.name); err == nil {
		pids, _ = lib.Processes()
	}
	var l live
	if readJSON(c.path("live.json"), &l) == nil && l.Supervisor > 0 {
		pids = append(pids, l.Supervisor)
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// Revive takes charge of a container that has ended, so that it can be detached
// once more. The caller mounts its root filesystem again, and calls Retire if
// that or the start fails.
func (c *Container) Revive() error {
	lock, err := tryLock(c.path("lock"), 0)
	if err != nil {
		return fmt.Errorf("taking charge of %s: %w", c.name, err)
	}
	c.lock = lock
	for _, f := range []string{"stop.json", "exit.json"} {
		if err := os.Remove(c.path(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	c.rec.BootID = bootID()
	return c.save()
}

// Retire gives a revived container up again.
func (c *Container) Retire(why error) error {
	err := c.finish(Exit{Code: -1, Reason: why.Error(), Finished: time.Now().UTC()})
	return errors.Join(err, c.lock.Close())
}

// Tombstone is what stays of a container that was handed over.
type Tombstone struct {
	Name   string    `json:"name"`
	Buried time.Time `json:"buried"`
	Why    string    `json:"why"`
	Exit   *Exit     `json:"exit,omitempty"`
	Spec   Spec      `json:"spec"`
}

// Bury removes an ended container and leaves a tombstone.
func (c *Container) Bury(now time.Time, why string) error {
	dir := filepath.Join(c.host.Data, "tombstones")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing tombstone: %w", writable(err))
	}
	now = now.UTC()
	t := Tombstone{Name: c.name, Buried: now, Why: why, Exit: c.Status().Exit, Spec: c.rec.Spec}
	if err := writeJSON(filepath.Join(dir, c.name+"@"+now.Format("20060102T150405Z")+".json"), t, true); err != nil {
		return err
	}
	unlock, err := c.host.exclusive()
	if err != nil {
		return err
	}
	defer unlock()
	if c.lock, err = tryLock(c.path("lock"), 0); err != nil {
		return fmt.Errorf("removing %s: %w", c.name, err)
	}
	return c.Discard()
}

// Tombstones lists what was handed over under this name, the latest last.
func (h Host) Tombstones(name string) []Tombstone {
	files, _ := filepath.Glob(filepath.Join(h.Data, "tombstones", "*.json"))
	slices.Sort(files)
	var out []Tombstone
	for _, f := range files {
		var t Tombstone
		if of, _, _ := strings.Cut(filepath.Base(f), "@"); of == name && readJSON(f, &t) == nil {
			out = append(out, t)
		}
	}
	return out
}
