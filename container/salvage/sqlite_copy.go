package salvage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// sqliteCopies are private copies of a database and of what SQLite keeps beside
// it. The latter two are nil where they are not there.
type sqliteCopies struct {
	db, journal, wal *io.SectionReader
	files            []*os.File // that have them
}

// Close frees the copies.
func (c sqliteCopies) Close() error {
	var errs []error
	for _, file := range c.files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// copySQLite copies a database below root with its journals as [copyDB] does,
// all of one moment: none of the files may change until the last is copied. With
// [errUnsettled] the copies are returned too.
func copySQLite(ctx context.Context, root, name string) (sqliteCopies, error) {
	names := [3]string{name, name + "-journal", name + "-wal"}
	for try := 1; ; try++ {
		before, err := statAll(root, names)
		if err != nil {
			return sqliteCopies{}, err
		}
		copies, err := copyAll(ctx, root, names)
		if err != nil && !errors.Is(err, errUnsettled) {
			return sqliteCopies{}, errors.Join(err, copies.Close())
		}
		after, statErr := statAll(root, names)
		if statErr != nil {
			return sqliteCopies{}, errors.Join(statErr, copies.Close())
		}
		if err == nil && !sameFiles(before, after) {
			err = fmt.Errorf("copying %s: %w", name, errUnsettled)
		}
		if err == nil || try == copyTries {
			return copies, err
		}
		if err := copies.Close(); err != nil {
			return sqliteCopies{}, err
		}
	}
}

// copyAll copies what there is of a database's files.
func copyAll(ctx context.Context, root string, names [3]string) (sqliteCopies, error) {
	var copies sqliteCopies
	var unsettled error
	for i, into := range []**io.SectionReader{&copies.db, &copies.journal, &copies.wal} {
		file, err := copyDB(ctx, root, names[i])
		switch {
		case i > 0 && errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, errUnsettled):
			unsettled = err
		case err != nil:
			return copies, err
		}
		copies.files = append(copies.files, file)
		info, err := file.Stat()
		if err != nil {
			return copies, err
		}
		*into = io.NewSectionReader(file, 0, info.Size())
	}
	return copies, unsettled
}

// statAll describes files below root, nil where there is none.
func statAll(root string, names [3]string) ([3]fs.FileInfo, error) {
	var infos [3]fs.FileInfo
	for i, name := range names {
		file, info, err := openBeneath(root, name)
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return infos, err
		}
		infos[i] = info
		if err := file.Close(); err != nil {
			return infos, err
		}
	}
	return infos, nil
}

func sameFiles(a, b [3]fs.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && (!os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}
