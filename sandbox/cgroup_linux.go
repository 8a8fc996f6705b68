package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"golang.org/x/sys/unix"
)

// cgroupParent holds every vacuum's cgroup, below the root of each hierarchy. A
// name there begins with the supervisor's process number and start time, so
// that whoever comes next can tell what was left.
const cgroupParent = "blackstart-vacuum"

type cgroup struct{ m cgroups.Manager }

// cgroupName is a new one, of which [Sweep] knows whose it was.
func cgroupName() (string, error) {
	self, err := startTime(os.Getpid())
	return fmt.Sprintf("%s/%d.%s.%s", cgroupParent, os.Getpid(), self, rand.Text()[:8]), err
}

// newCgroup limits a process and all that it will start.
func newCgroup(name string, memory int64, cpus float64, pid int) (*cgroup, error) {
	r := &cgroups.Resources{Memory: memory, MemorySwap: memory, SkipDevices: true}
	if memory == 0 {
		r.MemorySwap = 0
	}
	if cpus > 0 {
		r.CpuPeriod = 100000
		r.CpuQuota = max(1000, int64(cpus*100000))
	}
	m, err := manager.New(&cgroups.Cgroup{Path: "/" + name, Resources: r})
	if err != nil {
		return nil, err
	}
	c := &cgroup{m}
	for range 3 {
		// Another vacuum's end may remove the parent in between.
		if err = m.Apply(pid); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err == nil {
		err = m.Set(r)
	}
	if err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

func (c *cgroup) remove() error {
	if err := c.m.Destroy(); err != nil {
		return fmt.Errorf("removing the vacuum's cgroup: %w", err)
	}
	return removeParents()
}

// removeCgroups removes a cgroup without processes, and those below.
func removeCgroups(dir string) error {
	err := os.Remove(dir)
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	entries, readErr := os.ReadDir(dir)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeCgroups(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if readErr != nil {
		return readErr
	}
	return os.Remove(dir)
}

// cgroupParents are the directories of all vacuums that may be there, in every
// hierarchy.
func cgroupParents() ([]string, error) {
	const root = "/sys/fs/cgroup"
	all := []string{filepath.Join(root, cgroupParent)}
	hierarchies, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for cgroups: %w", err)
	}
	for _, h := range hierarchies {
		if h.IsDir() {
			all = append(all, filepath.Join(root, h.Name(), cgroupParent))
		}
	}
	return all, nil
}

// removeParents removes the directories of all vacuums where there is none.
func removeParents() error {
	parents, err := cgroupParents()
	errs := []error{err}
	for _, d := range parents {
		err := unix.Rmdir(d)
		if err != nil && err != unix.ENOENT && err != unix.EBUSY && err != unix.ENOTEMPTY {
			errs = append(errs, fmt.Errorf("removing the vacuums' cgroup %s: %w", d, err))
		}
	}
	return errors.Join(errs...)
}

// startTime is when a process began, in clock ticks after boot: with its number
// it names one process (proc_pid_stat(5), field 22).
func startTime(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", fmt.Errorf("looking at process %d: %w", pid, err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 {
		return "", fmt.Errorf("looking at process %d: a stat file of %d fields", pid, len(f))
	}
	return f[19], nil
}

// Sweep removes what supervisors left that were killed: their cgroups, for the
// kernel has removed the rest. It returns the directories it removed. One that
// cannot be removed, for a guarded process is still in it, is an error and keeps
// none of the others.
func Sweep() (removed []string, err error) {
	parents, err := cgroupParents()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, parent := range parents {
		left, err := os.ReadDir(parent)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("looking for cgroups: %w", err))
		}
		for _, d := range left {
			dead, err := ofDead(d)
			if err != nil {
				errs = append(errs, err)
			}
			if !dead {
				continue
			}
			dir := filepath.Join(parent, d.Name())
			switch err := removeSoon(dir); {
			case err == nil:
				removed = append(removed, dir)
			case !errors.Is(err, fs.ErrNotExist): // else somebody was quicker
				errs = append(errs, fmt.Errorf("removing %s, which was left: %w", dir, err))
			}
		}
	}
	if len(removed) > 0 {
		errs = append(errs, removeParents())
	}
	return removed, errors.Join(errs...)
}

// removeSoon removes a cgroup as soon as the kernel lets it: a vacuum's processes
// take a moment to die after its supervisor.
func removeSoon(dir string) error {
	for deadline := time.Now().Add(250 * time.Millisecond); ; time.Sleep(5 * time.Millisecond) {
		if err := removeCgroups(dir); !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
	}
}

// ofDead says that a cgroup is a vacuum's whose supervisor is gone.
func ofDead(d fs.DirEntry) (bool, error) {
	parts := strings.Split(d.Name(), ".")
	pid, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) != 3 || !d.IsDir() {
		return false, nil
	}
	began, err := startTime(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	return err == nil && began != parts[1], err
}
