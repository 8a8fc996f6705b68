package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// From here on every path is below the new root, links included.

// system mounts what the kernel offers: /proc, /sys and a small /dev.
func (b *rootBuilder) system() error {
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("making %s: %w", d, err)
		}
	}
	if err := mount("proc", "/proc", "proc", tmpfsFlags|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	// A container inside gets a process namespace and its /proc; the kernel lets it
	// mount one only where it sees another, without anything mounted over parts of
	// it, and not with more rights. /run will be covered.
	const whole = "/run/proc"
	if err := os.Mkdir(whole, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making %s: %w", whole, err)
	}
	if err := mount("proc", whole, "proc", tmpfsFlags|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	// Files of the host's root may be written by the vacuum's, which is the same
	// user: sysctls must not be.
	for _, p := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"} {
		if _, err := os.Lstat(p); err != nil {
			continue
		}
		if err := mount(p, p, "bind", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, p, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("making %s read-only: %w", p, err)
		}
	}
	if err := mount("sysfs", "/sys", "sysfs", tmpfsFlags|unix.MS_NOEXEC|unix.MS_RDONLY, ""); err != nil {
		b.warnings = append(b.warnings, "/sys is empty: "+err.Error())
		if err := mount("tmpfs", "/sys", "tmpfs", tmpfsFlags|unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	return b.dev()
}

func (b *rootBuilder) dev() error {
	if err := mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, "mode=0755"); err != nil {
		return err
	}
	for name, fd := range b.devices {
		if err := attach(bind{path: "/dev/" + name, fd: fd}); err != nil {
			return err
		}
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(to, "/dev/"+name); err != nil {
			return fmt.Errorf("making /dev/%s: %w", name, err)
		}
	}
	for _, d := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", d, err)
		}
	}
	options := "newinstance,ptmxmode=0666,mode=0620"
	if b.s.Groups {
		options += ",gid=5" // tty
	}
	if err := mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, options); err != nil {
		return err
	}
	return mount("tmpfs", "/dev/shm", "tmpfs", tmpfsFlags, "mode=1777")
}

// mountParts covers each of the host's other file systems with a layer of its
// own. One that cannot be a lower layer is left out, for a plain bind would let
// its sockets through.
func (b *rootBuilder) mountParts() error {
	for i, p := range b.parts {
		if p.fd < 0 {
			continue
		}
		if !p.dir {
			if err := attach(bind{p.path, p.fd, false}); err != nil {
				return err
			}
			if err := unix.MountSetattr(unix.AT_FDCWD, p.path, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
				return fmt.Errorf("making %s read-only: %w", p.path, err)
			}
			continue
		}
		if err := b.mountOverlay(p.path, []int{p.fd}, i+1); err != nil {
			b.warnings = append(b.warnings, fmt.Sprintf("%s is empty: %v", p.path, err))
		}
	}
	return nil
}

// fresh empties what daemons and caches of the host live in.
func (b *rootBuilder) fresh() error {
	for _, d := range append([]string{"/run", "/tmp", "/var/run", "/var/tmp", "/var/cache"}, b.s.Fresh...) {
		st, err := os.Lstat(d)
		if err != nil || !st.IsDir() { // a link leads to another one of them
			continue
		}
		mode := "mode=0755"
		if filepath.Base(d) == "tmp" {
			mode = "mode=1777"
		}
		if err := mount("tmpfs", d, "tmpfs", tmpfsFlags, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir("/run/lock", 0o755); err != nil {
		return fmt.Errorf("making /run/lock: %w", err)
	}
	return os.Chmod("/run/lock", 0o1777)
}

func (b *rootBuilder) mountBinds() error {
	for _, m := range b.binds {
		if err := attach(m); err != nil {
			return err
		}
	}
	return nil
}

// attach mounts a detached copy at its path, which is made if need be.
func attach(m bind) error {
	_, err := os.Stat(m.path)
	if errors.Is(err, fs.ErrNotExist) {
		dir := filepath.Dir(m.path)
		if m.dir {
			dir = m.path
		}
		if err = os.MkdirAll(dir, 0o755); err == nil && !m.dir {
			err = os.WriteFile(m.path, nil, 0o644)
		}
	}
	if err == nil {
		err = unix.MoveMount(m.fd, "", unix.AT_FDCWD, m.path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	}
	if err != nil {
		return fmt.Errorf("binding %s: %w", m.path, err)
	}
	return unix.Close(m.fd)
}

// leave lets go of the host's mounts.
func (b *rootBuilder) leave() error {
	closeAll(append(b.layers, b.stageFD))
	for _, p := range b.parts {
		if p.dir && p.fd >= 0 {
			_ = unix.Close(p.fd)
		}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	return nil
}
