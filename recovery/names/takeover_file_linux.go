package names

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// remember notes what is at a path.
func remember(root *os.Root, path string) (Change, error) {
	c := Change{Path: path, Was: "absent"}
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		if _, err := root.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		c.Made = append([]string{dir}, c.Made...)
	}
	st, err := root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		c.UID, c.GID = int(sys.Uid), int(sys.Gid)
	}
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		c.Was = "link"
		c.Target, err = root.Readlink(path)
	case st.Mode().IsRegular():
		c.Was, c.Mode = "file", uint32(st.Mode().Perm())
		c.Content, err = readBounded(root, path)
	default:
		err = fmt.Errorf("%s is neither a file nor a link", path)
	}
	return c, err
}

func readBounded(root *os.Root, path string) ([]byte, error) {
	f, err := root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResolv+1))
	if err == nil && len(data) > maxResolv {
		err = fmt.Errorf("%s: %w", path, ErrTooLarge)
	}
	return data, err
}

// put makes a path a file with a content, at once and on disk. Where a file is mounted there, as in containers, it is
// written in place.
func put(root *os.Root, path string, content []byte, mode fs.FileMode) error {
	if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), ".blackstart-"+filepath.Base(path))
	err := writeSynced(root, temp, os.O_CREATE|os.O_TRUNC, content, mode)
	if err == nil {
		err = root.Rename(temp, path)
	}
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EROFS) {
		err = writeSynced(root, path, os.O_TRUNC, content, mode)
		if e := root.Remove(temp); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return err
	}
	if err != nil {
		return err
	}
	return syncIn(root, filepath.Dir(path))
}

func writeSynced(root *os.Root, path string, flags int, content []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(path, os.O_WRONLY|syscall.O_NOFOLLOW|flags, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if flags&os.O_CREATE != 0 {
		err = errors.Join(err, f.Chmod(mode)) // whatever the umask
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func syncIn(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// restore puts back what was at a path, if what is there now is ours.
func restore(root *os.Root, c Change) error {
	now, err := remember(root, c.Path)
	if err != nil {
		return err
	}
	same := now.Was == c.Was && now.Target == c.Target && string(now.Content) == string(c.Content)
	temp := filepath.Join(filepath.Dir(c.Path), ".blackstart-"+filepath.Base(c.Path))
	if e := root.Remove(temp); e != nil && !errors.Is(e, fs.ErrNotExist) {
		return e
	}
	switch {
	case same:
		// Never changed, or put back before a crash.
	case now.Was != "absent" && hash(now.Content) != c.Ours && !torn(now, c):
		return fmt.Errorf("%s: %w", c.Path, ErrChanged)
	case c.Was == "absent":
		err = root.Remove(c.Path)
	case c.Was == "link":
		if err = root.Symlink(c.Target, temp); err == nil {
			err = root.Rename(temp, c.Path)
		}
	default:
		if err = put(root, c.Path, c.Content, fs.FileMode(c.Mode)); err == nil {
			err = root.Lchown(c.Path, c.UID, c.GID)
		}
	}
	if err != nil {
		return err
	}
	for i := len(c.Made) - 1; i >= 0; i-- {
		// Somebody else may have put something there since.
		if err := root.Remove(c.Made[i]); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	dir := filepath.Dir(c.Path)
	if _, err := root.Stat(dir); err != nil {
		return nil
	}
	return syncIn(root, dir)
}

// torn says whether a file is what a crash leaves of one that was written in place.
func torn(now, was Change) bool {
	return now.Was == "file" && (len(now.Content) == 0 || strings.HasPrefix(string(was.Content), string(now.Content)) ||
		strings.HasPrefix(string(now.Content), takeoverMark))
}

// writeTaken replaces the state file; it is on disk when this returns.
func writeTaken(path string, taken *Taken) error {
	data, err := json.MarshalIndent(taken, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".dns-takeover-")
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}
