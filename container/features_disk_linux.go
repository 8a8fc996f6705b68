package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// nearest is the directory itself or, before its first use, the ancestor in
// which it will be made.
func nearest(dir string) (string, error) {
	for {
		st, err := os.Stat(dir)
		switch {
		case err == nil && !st.IsDir():
			return "", fmt.Errorf("%s: %w", dir, unix.ENOTDIR)
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// directoryFeatures tries to write below a directory and looks at the room
// there, in bytes and in inodes.
func directoryFeatures(name, dir string, wantBytes, wantInodes uint64) []Feature {
	write := Feature{Name: name + "-directory", Have: Yes, Need: Required, Detail: dir}
	space := Feature{Name: name + "-space", Have: Unknown, Need: Degrades}
	unwritable := "nothing can be kept there; name a writable place for the " + name + " directory"
	near, err := nearest(dir)
	if err != nil {
		write.Have, write.Detail, space.Detail = No, err.Error(), err.Error()
		return []Feature{write.missing(unwritable), space}
	}
	if near != dir {
		write.Detail += ", to be made in " + near
	}
	if err := tryWrite(near); err != nil {
		write.Have, write.Detail = No, err.Error()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(near, &st); err != nil {
		space.Detail = fmt.Sprintf("%s: %v", near, err)
		return []Feature{write.missing(unwritable), space}
	}
	free := st.Bavail * uint64(st.Bsize)
	space.Have, space.Detail = answer(free >= wantBytes), size(free)+" free"
	if st.Files > 0 { // btrfs has no fixed number
		space.Detail += fmt.Sprintf(", %d inodes", st.Ffree)
		space.Have = answer(free >= wantBytes && st.Ffree >= wantInodes)
	}
	means := fmt.Sprintf("less than %s or %d inodes: unpacking or logging may fill it; make room or name another place", size(wantBytes), wantInodes)
	return []Feature{write.missing(unwritable), space.missing(means)}
}

// tryWrite makes a file with a byte in it, so that a full disk shows too.
func tryWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".blackstart-doctor-")
	if err != nil {
		return err
	}
	_, err = f.Write([]byte{'\n'})
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

func mountFlags(dir string) Feature {
	f := Feature{Name: "data-mount", Have: Unknown, Need: Degrades}
	near, err := nearest(dir)
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	var st unix.Statfs_t
	if err := unix.Statfs(near, &st); err != nil {
		f.Detail = fmt.Sprintf("%s: %v", near, err)
		return f
	}
	var flags []string
	for _, x := range []struct {
		bit  int64
		name string
	}{{unix.ST_NOEXEC, "noexec"}, {unix.ST_NODEV, "nodev"}, {unix.ST_NOSUID, "nosuid"}} {
		if st.Flags&x.bit != 0 {
			flags = append(flags, x.name)
		}
	}
	f.Have, f.Detail = answer(len(flags) == 0), "no restricting flags"
	if len(flags) > 0 {
		f.Detail = strings.Join(flags, ", ")
	}
	return f.missing("programs, devices or set-user-ID files unpacked there may not work; mount -o remount,exec,dev,suid, or name another data directory")
}

// overlayFeature mounts a tiny overlay whose writable layer is on the data
// directory's filesystem, in a mount namespace that ends with it, and copies up
// and whites out a file.
func overlayFeature(dataDir string) Feature {
	f := Feature{Name: "overlayfs", Have: Yes, Need: Degrades, Detail: "mounted with its writable layer on the data directory's filesystem"}
	means := "images cannot be started; unpack one elsewhere and use run --rootfs DIR"
	near, err := nearest(dataDir)
	if err != nil {
		f.Have, f.Detail = Unknown, err.Error()
		return f.missing(means)
	}
	dir, err := os.MkdirTemp(near, ".blackstart-doctor-")
	if err != nil {
		f.Have, f.Detail = Unknown, err.Error()
		return f.missing(means)
	}
	err = onThread(func() error { return tryOverlay(dir) })
	switch {
	case errors.Is(err, unix.EPERM):
		f.Have, f.Detail = Unknown, err.Error()
	case err != nil:
		f.Have, f.Detail = No, err.Error()
	}
	if err := os.RemoveAll(dir); err != nil {
		f.Have, f.Detail = Unknown, err.Error()
	}
	return f.missing(means)
}

// tryOverlay changes the mount namespace of the thread it runs on.
func tryOverlay(dir string) (err error) {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, sub := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"changed", "removed"} {
		if err := os.WriteFile(filepath.Join(dir, "lower", name), []byte("old"), 0o644); err != nil {
			return err
		}
	}
	// Relative names: a colon or comma in the directory's name would end an option.
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("entering %s: %w", dir, err)
	}
	if err := unix.Mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"); err != nil {
		return fmt.Errorf("mounting overlay: %w", err)
	}
	defer func() {
		if e := unix.Unmount("merged", 0); e != nil && err == nil {
			err = fmt.Errorf("unmounting overlay: %w", e)
		}
	}()
	merged := filepath.Join(dir, "merged")
	if err := os.WriteFile(filepath.Join(merged, "changed"), []byte("new"), 0o644); err != nil {
		return fmt.Errorf("copying up: %w", err)
	}
	if err := os.Remove(filepath.Join(merged, "removed")); err != nil {
		return fmt.Errorf("whiting out: %w", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "upper", "changed")); err != nil || string(b) != "new" {
		return fmt.Errorf("copying up: %w", errors.Join(err, errors.New("the writable layer does not have the change")))
	}
	return nil
}
