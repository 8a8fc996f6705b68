package salvage

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where a layer is not simply what an overlay mount of root's shows.
const (
	// composefsBlob is beside a layer whose diff has files named by their content.
	composefsBlob = "composefs-data/composefs.blob"
	// mountProgramFlag says that fuse-overlayfs mounted the layers.
	mountProgramFlag = "overlay/.has-mount-program"
	// overrideAttr has a file's true owner and mode, in a rootless store.
	overrideAttr = "user.containers.override_stat"
	// userOpaqueAttr hides a lower directory, for mounts without privileges.
	userOpaqueAttr = "user.overlay.opaque"
)

// checkPlain returns an error for layers that an overlay mount would show wrongly:
// with files again that were deleted, or with other owners. Only stores that were
// used without root or through fuse-overlayfs are looked through.
func (s *storageStore) checkPlain(dirs []string) error {
	program := isFileBeneath(s.path, mountProgramFlag)
	for _, dir := range dirs {
		if hasAttr(dir, overrideAttr) {
			return fmt.Errorf("directory %s: owners and modes are in %s: %w", dir, overrideAttr, ErrIncomplete)
		}
		var stat syscall.Stat_t
		if err := syscall.Lstat(dir, &stat); err != nil {
			return fmt.Errorf("directory %s: %w: %w", dir, ErrIncomplete, err)
		}
		if !program && stat.Uid == 0 {
			continue
		}
		err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case strings.HasPrefix(entry.Name(), whiteoutPrefix):
				return fmt.Errorf("file %s: a whiteout of fuse-overlayfs", file)
			case entry.IsDir() && hasAttr(file, userOpaqueAttr):
				return fmt.Errorf("directory %s: hides another by %s", file, userOpaqueAttr)
			}
			return nil
		})
		if err != nil {
			return errors.Join(ErrIncomplete, err)
		}
	}
	return nil
}

func hasAttr(file, name string) bool {
	_, err := unix.Lgetxattr(file, name, nil)
	return err == nil
}
