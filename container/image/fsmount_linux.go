package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errNoLayerOption says that this kernel has no mount API that takes overlay layers one by one, or takes not these.
var errNoLayerOption = errors.New("no lowerdir+ option")

// mount uses the mount API of Linux 5.2 with overlayfs's lowerdir+ of Linux 6.5: one call for each layer, no escaping,
// and an explanation for what fails.
//
// index=off: an upper directory may be used again over other layers, which salvaged ones are. What else overlayfs can do
// is left to the kernel's defaults, as the directories may come from another runtime that used them.
func (o overlay) mount(target string) (err error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // EPERM is what an old seccomp profile says
		return errNoLayerOption
	} else if err != nil {
		return fmt.Errorf("asking the kernel for overlayfs: %w", err)
	}
	defer unix.Close(fd)
	if err := o.configure(fd); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		words := kernelWords(fd)
		if errors.Is(err, unix.EINVAL) && words == "" {
			// Kernels from 5.2 to 6.4 take any option and refuse it here, without a word.
			return errNoLayerOption
		}
		return fmt.Errorf("%w%s", err, words)
	}
	var attr int
	if o.readonly {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("%w%s", err, kernelWords(fd))
	}
	defer unix.Close(mnt)
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func (o overlay) configure(fd int) error {
	for _, path := range o.paths() {
		// The call takes strings of up to 255 bytes, and upperdir and workdir have a backslash for an escape.
		if len(path) > 255 || strings.Contains(path, `\`) {
			return errNoLayerOption
		}
	}
	type option struct{ key, value string }
	options := []option{{"source", "overlay"}, {"index", "off"}}
	for _, l := range slices.Backward(o.lower) {
		options = append(options, option{"lowerdir+", l})
	}
	if o.upper != "" {
		options = append(options, option{"upperdir", o.upper}, option{"workdir", o.work})
	}
	if o.user {
		if err := unix.FsconfigSetFlag(fd, "userxattr"); err != nil {
			return fmt.Errorf("userxattr: %w%s", err, kernelWords(fd))
		}
	}
	for _, p := range options {
		err := unix.FsconfigSetString(fd, p.key, p.value)
		if p.key == "lowerdir+" && errors.Is(err, unix.EINVAL) {
			if words := kernelWords(fd); words == "" || strings.Contains(words, "Unknown parameter") {
				return errNoLayerOption
			} else {
				return fmt.Errorf("adding layer %s: %w%s", p.value, err, words)
			}
		}
		if err != nil {
			return fmt.Errorf("setting %s to %s: %w%s", p.key, p.value, err, kernelWords(fd))
		}
	}
	if o.readonly {
		return unix.FsconfigSetFlag(fd, "ro")
	}
	return nil
}

// kernelWords reads what the kernel has to say about a failed mount (fsopen(2)): lines like "e overlay: reason".
func kernelWords(fd int) string {
	var words []string
	buf := make([]byte, 1024)
	for range 16 {
		n, err := unix.Read(fd, buf)
		if err != nil || n <= 0 {
			break
		}
		words = append(words, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, "; ") + ")"
}
