package salvage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxDatabase bounds the copy of a database, in bytes. A busy node's metadata
// is tens of megabytes.
const maxDatabase = 1 << 30

// copyTries is how often a database that changes under the copy is copied again.
const copyTries = 5

// errUnsettled marks a copy of a database that kept changing while it was
// copied. The copy is returned all the same: most of its records are readable.
var errUnsettled = errors.New("database changed during every copy")

// copyDB copies a database file below root into a temporary file that has no
// name any more, so nothing is left behind even by kill -9, and returns it open
// for reading. The original is never locked: a hung daemon holds its lock for
// ever. Close the file to free the space.
//
// With [errUnsettled] the file is returned too.
func copyDB(ctx context.Context, root, name string) (*os.File, error) {
	src, before, err := openBeneath(root, name)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	dst, err := namelessFile()
	if err != nil {
		return nil, err
	}
	for range copyTries {
		if err := ctx.Err(); err != nil {
			_ = dst.Close()
			return nil, err
		}
		if before.Size() > maxDatabase {
			_ = dst.Close()
			return nil, fmt.Errorf("copying %s: %d bytes is more than the %d allowed", src.Name(), before.Size(), maxDatabase)
		}
		if err := copyOnce(dst, src, before.Size()); err != nil {
			_ = dst.Close()
			return nil, fmt.Errorf("copying %s: %w", src.Name(), err)
		}
		after, err := src.Stat()
		if err != nil {
			_ = dst.Close()
			return nil, err
		}
		settled, err := sameHead(dst, src)
		if err != nil {
			_ = dst.Close()
			return nil, fmt.Errorf("copying %s: %w", src.Name(), err)
		}
		if settled && after.Size() == before.Size() && after.ModTime().Equal(before.ModTime()) {
			return dst, nil
		}
		before = after
	}
	return dst, fmt.Errorf("copying %s: %w", src.Name(), errUnsettled)
}

// copyOnce makes dst hold the first size bytes of src. Between two files on one
// file system the standard library uses copy_file_range, which shares the blocks
// where the file system can.
func copyOnce(dst, src *os.File, size int64) error {
	if err := dst.Truncate(0); err != nil {
		return err
	}
	for _, file := range []*os.File{dst, src} {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	_, err := io.CopyN(dst, src, size)
	if errors.Is(err, io.EOF) { // shrunk meanwhile: the caller compares the sizes
		return nil
	}
	return err
}

// sameHead compares the beginning of two files, where both bbolt (the meta
// pages' transaction number) and SQLite (the change counter) count their
// writes. A file's time alone has too coarse a tick.
func sameHead(a, b io.ReaderAt) (bool, error) {
	var heads [2][32 << 10]byte
	var lengths [2]int
	for i, file := range []io.ReaderAt{a, b} {
		n, err := file.ReadAt(heads[i][:], 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		lengths[i] = n
	}
	return bytes.Equal(heads[0][:lengths[0]], heads[1][:lengths[1]]), nil
}

// namelessFile creates a temporary file and unlinks it. Where the usual place is
// full or read-only, memory has to do.
func namelessFile() (*os.File, error) {
	var problems []error
	for _, dir := range []string{os.TempDir(), "/dev/shm", "/run"} {
		file, err := os.CreateTemp(dir, "blackstart-*.db")
		if err == nil {
			err = os.Remove(file.Name())
			if err == nil {
				return file, nil
			}
			_ = file.Close()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return nil, fmt.Errorf("creating a private copy: %w", errors.Join(problems...))
}
