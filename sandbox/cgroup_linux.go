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

// removeParents removes the directories of all vacuums where there is none.
func removeParents() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroupParent, "/sys/fs/cgroup/*/" + cgroupParent} {
		dirs, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, d := range dirs {
			err := os.Remove(d)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
				errs = append(errs, fmt.Errorf("removing the vacuums' cgroup: %w", err))
			}
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
// kernel has removed the rest. It returns the directories it removed.
func Sweep() (removed []string, err error) {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroupParent + "/*", "/sys/fs/cgroup/*/" + cgroupParent + "/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("looking for cgroups: %w", err)
		}
		dirs = append(dirs, found...)
	}
	var errs []error
	for _, d := range dirs {
		parts := strings.Split(filepath.Base(d), ".")
		pid, err := strconv.Atoi(parts[0])
		st, statErr := os.Stat(d)
		if err != nil || len(parts) != 3 || statErr != nil || !st.IsDir() {
			continue
		}
		began, err := startTime(pid)
		if err == nil && began == parts[1] {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, err)
			continue
		}
		if err := removeCgroups(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a cgroup that was left: %w", err))
			continue
		}
		removed = append(removed, d)
	}
	if len(removed) > 0 {
		errs = append(errs, removeParents())
	}
	return removed, errors.Join(errs...)
}
