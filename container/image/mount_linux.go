package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// ErrUpper says that upper or work cannot be that of an overlay: they lie on an overlay themselves, on a filesystem
// without trusted extended attributes (NFS, FAT, FUSE, tmpfs of some kernels), or on two different filesystems.
var ErrUpper = errors.New("cannot be written through an overlay")

// Mount mounts an overlay of the directories lower, lowest first, on the directory target. Changes go to upper; work is
// an empty directory on the same filesystem. With readonly nothing can be changed, and upper and work may both be "".
// Paths may hold any byte. Kernels from 4.19 work; up to 500 layers from 6.5 on, about 200 before.
//
// The kernel's own words are in the error where it gives any. Errors: ErrUpper, unix.Errno.
func Mount(lower []string, upper, work, target string, readonly bool) error {
	o, err := newOverlay(lower, upper, work, readonly)
	if err != nil {
		return fmt.Errorf("mounting overlay on %s: %w", target, err)
	}
	if target, err = filepath.Abs(target); err != nil {
		return fmt.Errorf("mounting overlay: %w", err)
	}
	if upper == "" && len(lower) == 1 {
		err = bind(o.lower[0], target) // overlayfs wants two layers
	} else if err = o.mount(target); errors.Is(err, errNoLayerOption) {
		err = o.mountOptions(target)
	}
	if err != nil {
		return fmt.Errorf("mounting overlay on %s: %w", target, err)
	}
	return nil
}

// Unmount undoes Mount. It is no error when nothing is mounted there (any more); it is one when the mount is in use.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		if mounted, mountErr := mountinfo.Mounted(target); mountErr == nil && !mounted {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", target, err)
	}
	return nil
}

type overlay struct {
	lower       []string // absolute, lowest first
	upper, work string   // absolute or ""
	readonly    bool
	user        bool // it keeps its marks in user attributes: those of the trusted kind are not for a user namespace
}

func newOverlay(lower []string, upper, work string, readonly bool) (overlay, error) {
	o := overlay{readonly: readonly}
	if len(lower) == 0 || len(lower) > maxLayers {
		return o, fmt.Errorf("%w: %d layers, want 1 to %d", ErrLimit, len(lower), maxLayers)
	}
	if (upper == "") != (work == "") || (upper == "" && !readonly) {
		return o, fmt.Errorf("%w: upper %q with work %q", unix.EINVAL, upper, work)
	}
	for _, l := range lower {
		abs, err := filepath.Abs(l)
		if err != nil {
			return o, err
		}
		o.lower = append(o.lower, abs)
	}
	if upper == "" {
		return o, nil
	}
	var err error
	if o.upper, err = filepath.Abs(upper); err != nil {
		return o, err
	}
	if o.work, err = filepath.Abs(work); err != nil {
		return o, err
	}
	o.user, err = checkUpper(o.upper, o.work)
	return o, err
}

// checkUpper asks the filesystem beforehand. The kernel answers most of it with EINVAL, and a lack of extended attributes
// not before the first directory is removed. user is what overlay.user is.
func checkUpper(upper, work string) (user bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(upper, &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: upper, Err: err}
	}
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return false, fmt.Errorf("%s %w: it lies on an overlay itself", upper, ErrUpper)
	}
	var u, w unix.Stat_t
	if err := errors.Join(unix.Stat(upper, &u), unix.Stat(work, &w)); err != nil {
		return false, fmt.Errorf("looking at %s and %s: %w", upper, work, err)
	}
	if u.Dev != w.Dev {
		return false, fmt.Errorf("%s %w: %s is on another filesystem", upper, ErrUpper, work)
	}
	for _, kind := range []string{"trusted", "user"} {
		user = kind == "user"
		probe := kind + ".overlay.probe"
		err = unix.Setxattr(work, probe, []byte("y"), 0)
		if err == nil {
			err = unix.Removexattr(work, probe)
		}
		switch {
		case errors.Is(err, unix.EPERM) && !user:
		case errors.Is(err, unix.ENOTSUP):
			return user, fmt.Errorf("%s %w: its filesystem has no %s extended attributes", upper, ErrUpper, kind)
		case err != nil:
			return user, &os.PathError{Op: "setxattr", Path: work, Err: err}
		default:
			return user, nil
		}
	}
	return user, nil
}

func bind(from, target string) error {
	if err := unix.Mount(from, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(err, unix.Unmount(target, unix.UMOUNT_NOFOLLOW))
	}
	return nil
}

// mountOptions is for kernels before 6.5: all options in one string of less than a page. When the paths do not fit, or
// have bytes with a meaning in it, they are given as numbers of open files.
func (o overlay) mountOptions(target string) error {
	options := o.options(func(path string) string { return path })
	if len(options) >= os.Getpagesize() || strings.ContainsAny(strings.Join(o.paths(), ""), `:,\`) {
		fds := map[string]string{}
		for _, path := range o.paths() {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open", Path: path, Err: err}
			}
			defer unix.Close(fd)
			fds[path] = fmt.Sprintf("/proc/self/fd/%d", fd)
		}
		options = o.options(func(path string) string { return fds[path] })
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("%w: %d layers, more than this kernel takes", ErrLimit, len(o.lower))
	}
	var flags uintptr
	if o.readonly {
		flags = unix.MS_RDONLY
	}
	return unix.Mount("overlay", target, "overlay", flags, options)
}

func (o overlay) paths() []string {
	if o.upper == "" {
		return o.lower
	}
	return slices.Concat(o.lower, []string{o.upper, o.work})
}

func (o overlay) options(say func(path string) string) string {
	var lower []string
	for _, l := range slices.Backward(o.lower) {
		lower = append(lower, say(l))
	}
	options := "index=off,lowerdir=" + strings.Join(lower, ":")
	if o.upper != "" {
		options += ",upperdir=" + say(o.upper) + ",workdir=" + say(o.work)
	}
	if o.user {
		options += ",userxattr"
	}
	return options
}
