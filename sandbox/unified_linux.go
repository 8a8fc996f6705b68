package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unifiedCgroup is a cgroup of version 2: a guarded command's, or a vacuum's, below
// which containers inside have theirs. Where the host has not mounted version 2 it
// is reached by a mount that has no place in any mount namespace, so that nothing
// is left of it.
type unifiedCgroup struct {
	root int    // of the hierarchy, as this process's cgroup namespace has it
	name string // below the root
	dir  *os.File
}

// openHierarchy opens version 2 of cgroups, or mounts it (fsopen(2)).
func openHierarchy() (root int, err error) {
	for _, at := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(at, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		if fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			return fd, nil
		}
	}
	fd, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("opening cgroup version 2: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, fmt.Errorf("opening cgroup version 2: %w", err)
	}
	if root, err = unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
		return -1, fmt.Errorf("opening cgroup version 2: %w", err)
	}
	return root, nil
}

// newUnifiedCgroup makes an empty one.
func newUnifiedCgroup(name string) (_ *unifiedCgroup, err error) {
	g := &unifiedCgroup{name: name}
	if g.root, err = openHierarchy(); err != nil {
		return nil, err
	}
	for range 3 {
		if err = unix.Mkdirat(g.root, cgroupParent, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			break
		}
		// Another vacuum's end may remove the parent in between.
		if err = unix.Mkdirat(g.root, g.name, 0o755); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err == nil {
		g.dir, err = os.Open(filepath.Join(fdPath(g.root), g.name))
	}
	if err != nil {
		_ = unix.Unlinkat(g.root, g.name, unix.AT_REMOVEDIR)
		_ = unix.Close(g.root)
		return nil, err
	}
	return g, nil
}

// procs opens the file that a process is written to, to be in the cgroup.
func (g *unifiedCgroup) procs() (*os.File, error) { return g.open("cgroup.procs", os.O_RDWR) }

func (g *unifiedCgroup) open(name string, flag int) (*os.File, error) {
	return os.OpenFile(filepath.Join(fdPath(g.root), g.name, name), flag, 0)
}

// kill ends every process of the cgroup, where the kernel offers it (Linux 5.14).
func (g *unifiedCgroup) kill() error {
	f, err := g.open("cgroup.kill", os.O_WRONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = f.WriteString("1")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("ending the cgroup's processes: %w", err)
	}
	return nil
}

// remove lets go of what outlived the command, and removes the cgroup and those
// below, with them the programs that guard it.
func (g *unifiedCgroup) remove() (released int, err error) {
	defer unix.Close(g.root)
	_ = g.dir.Close()
	for deadline := time.Now().Add(closeTimeout); ; time.Sleep(time.Millisecond) {
		n, moveErr := g.release()
		released += n
		err = removeCgroups(filepath.Join(fdPath(g.root), g.name))
		if err == nil || errors.Is(err, unix.ENOENT) {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return released, fmt.Errorf("removing the cgroup %s: %w", g.name, errors.Join(err, moveErr))
		}
	}
	if err := unix.Unlinkat(g.root, cgroupParent, unix.AT_REMOVEDIR); err != nil && err != unix.EBUSY && err != unix.ENOTEMPTY && err != unix.ENOENT {
		return released, fmt.Errorf("removing the vacuums' cgroup: %w", err)
	}
	return released, nil
}

// release moves the processes of the cgroup to this process's own.
func (g *unifiedCgroup) release() (n int, err error) {
	list, err := os.ReadFile(filepath.Join(fdPath(g.root), g.name, "cgroup.procs"))
	if err != nil || len(list) == 0 {
		return 0, err
	}
	own, err := os.OpenFile(filepath.Join(fdPath(g.root), ownCgroup(), "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	defer own.Close()
	var errs []error
	for l := range bytes.Lines(list) {
		pid := bytes.TrimSpace(l)
		switch _, err := own.Write(pid); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ESRCH): // it has ended meanwhile
			errs = append(errs, fmt.Errorf("moving process %s: %w", pid, err))
		}
	}
	return n, errors.Join(errs...)
}

// ownCgroup is where this process is in version 2 (cgroups(7)), below the root of
// its cgroup namespace.
func ownCgroup() string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	for l := range strings.Lines(string(b)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "0::"); ok && !strings.HasPrefix(path, "/..") {
			return filepath.Clean("/" + path)
		}
	}
	return "/"
}
