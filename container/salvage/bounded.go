package salvage

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// beneath resolves name below root the way chroot(2) would: an absolute
// symbolic link starts again at root and ".." stops there. The result is a path
// as the caller sees it. It need not exist.
func beneath(root, name string) (string, error) {
	path, err := securejoin.SecureJoin(root, name)
	if err != nil {
		return "", fmt.Errorf("resolving %s beneath %s: %w", name, root, err)
	}
	return path, nil
}

// openBeneath opens a regular file below root for reading. A link that leads
// out of root is resolved as by [beneath]; a pipe or device is refused without
// being opened for long enough to block.
func openBeneath(root, name string) (*os.File, fs.FileInfo, error) {
	path, err := beneath(root, name)
	if err != nil {
		return nil, nil, err
	}
	rel, err := filepath.Rel(root, path)
	if err != nil {
		return nil, nil, fmt.Errorf("resolving %s beneath %s: %w", name, root, err)
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	file, err := dir.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("opening %s: not a regular file but %s", path, info.Mode().Type())
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// readBounded reads a regular file below root, resolved as by [openBeneath]. A
// file of more than max bytes is an error.
func readBounded(root, name string, max int64) ([]byte, error) {
	file, _, err := openBeneath(root, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file.Name(), err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("reading %s: more than %d bytes", file.Name(), max)
	}
	return data, nil
}

// isDirBeneath reports whether name below root is a directory.
func isDirBeneath(root, name string) bool {
	path, err := beneath(root, name)
	if err != nil {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// isFileBeneath reports whether name below root is a regular file.
func isFileBeneath(root, name string) bool {
	path, err := beneath(root, name)
	if err != nil {
		return false
	}
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular()
}
