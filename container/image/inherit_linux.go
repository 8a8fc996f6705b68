package image

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

type unixStat = syscall.Stat_t

// inherit gives directories that a layer only implies the attributes they have in the layers below. In an overlay the
// topmost directory's attributes count, so a directory made just to hold a file would turn /tmp into 0755.
//
// implied are paths relative to dir; lower are directories of the store, lowest first.
func inherit(dir string, implied, lower []string) error {
	for _, name := range implied {
		path := filepath.Join(dir, name)
		if st, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || (err == nil && !st.IsDir()) {
			continue // a later entry of the tar replaced it
		} else if err != nil {
			return err
		}
		parts := strings.Split(name, "/")
		_, cut, err := look(dir, parts)
		if err != nil {
			return err
		}
		for _, below := range slices.Backward(lower) {
			if cut {
				break
			}
			var from string
			if from, cut, err = look(below, parts); err != nil {
				return err
			}
			if from != "" {
				if err := copyAttributes(from, path); err != nil {
					return err
				}
				break
			}
		}
	}
	return nil
}

// look finds a directory in one layer, following no links. cut says that this layer hides the ones below at this path:
// because something else is in its way, or a directory above it is opaque.
func look(layer string, parts []string) (dir string, cut bool, err error) {
	at := layer
	for _, part := range parts {
		opaque, err := isOpaque(at)
		if err != nil {
			return "", false, err
		}
		cut = cut || opaque
		at = filepath.Join(at, part)
		st, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", cut, nil
		case err != nil:
			return "", false, err
		case !st.IsDir():
			return "", true, nil
		}
	}
	return at, cut, nil
}

func copyAttributes(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to, Err: err}
	}
	names, err := sysx.LListxattr(from)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return &os.PathError{Op: "listxattr", Path: from, Err: err}
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue // about that layer, not about the directory
		}
		value, err := sysx.LGetxattr(from, name)
		if err != nil {
			return &os.PathError{Op: "getxattr", Path: from, Err: err}
		}
		if err := unix.Lsetxattr(to, name, value, 0); err != nil {
			return &os.PathError{Op: "setxattr", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}
