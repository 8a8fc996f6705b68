package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// skeleton copies a directory that has mounts below: its links and small files
// as they are, its directories as skeletons or as parts. The directory is one
// that was opened before the stage covered anything.
func (b *rootBuilder) skeleton(dir *os.File, path string) error {
	entries, err := dir.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if len(entries) > maxEntries {
		return fmt.Errorf("reading %s: it has a mount below and more than %d entries", path, maxEntries)
	}
	if err := copyOwner(int(dir.Fd()), "", filepath.Join(b.root(), path)); err != nil {
		return err
	}
	for _, e := range entries {
		if err := b.bone(dir, filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

const (
	maxEntries = 4096     // of a directory in the skeleton
	maxCopied  = 64 << 10 // bytes of a file that is copied there
)

// bone copies one entry of a directory of the skeleton.
func (b *rootBuilder) bone(dir *os.File, path string) error {
	name, to := filepath.Base(path), filepath.Join(b.root(), path)
	dirfd := int(dir.Fd())
	fail := func(err error) error { return fmt.Errorf("copying %s: %w", path, err) }
	if kind := b.mounts[path]; isServed(kind) { // not even looked at: its server may be gone
		b.warnings = append(b.warnings, fmt.Sprintf("%s is empty: it is %s, whose files come from a server", path, kind))
		if err := os.Mkdir(to, 0o755); err != nil {
			return fail(err)
		}
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return nil // gone meanwhile, or the user may not look
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err == nil {
			err = os.Symlink(string(buf[:n]), to)
		}
		if err != nil {
			return fail(err)
		}
		return nil
	case unix.S_IFDIR:
		if err := os.Mkdir(to, 0o755); err != nil {
			return fail(err)
		}
		if slices.Contains(covered[:], path) || slices.Contains(b.s.Fresh, path) || slices.Contains(apparitions[:], b.mounts[path]) {
			return nil
		}
		fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.EACCES && !b.parents[path] {
			fd, err = unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			b.warnings = append(b.warnings, fmt.Sprintf("%s is empty: %v", path, err))
			return nil
		}
		switch {
		case b.parents[path]:
			sub := os.NewFile(uintptr(fd), path)
			defer sub.Close()
			return b.skeleton(sub, path)
		case empty(fd): // it needs no layer
			defer unix.Close(fd)
			return copyOwner(fd, "", to)
		}
		b.parts = append(b.parts, part{path, fd, true})
		return nil
	case unix.S_IFREG:
		if _, mounted := b.mounts[path]; !mounted && st.Size <= maxCopied {
			if err := copyFile(dirfd, name, to, st); err == nil {
				return nil
			}
		}
		if err := os.WriteFile(to, nil, 0o644); err != nil {
			return fail(err)
		}
		fd, err := unix.OpenTree(dirfd, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fail(err)
		}
		b.parts = append(b.parts, part{path, fd, false})
	}
	return nil // sockets, pipes and devices are the host's alone
}

func copyFile(dirfd int, name, to string, st unix.Stat_t) error {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxCopied))
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return err
	}
	_ = os.Lchown(to, int(st.Uid), int(st.Gid)) // an id that is not mapped becomes the vacuum's root
	return unix.Chmod(to, st.Mode&0o7777)
}

func empty(dirfd int) bool {
	b := make([]byte, 1024)
	n, err := unix.ReadDirent(dirfd, b)
	if err != nil {
		return false
	}
	_, count, _ := unix.ParseDirent(b[:n], 1, nil)
	return count == 0
}
