package salvage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// sqliteFiles are private copies of a database and of what SQLite keeps beside
// it. The latter two are nil where they are not there.
type sqliteFiles struct{ db, journal, wal *os.File }

// Close frees the copies.
func (f sqliteFiles) Close() error {
	var errs []error
	for _, file := range []*os.File{f.db, f.journal, f.wal} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// copySQLite copies a database below root with its journals as [copyDB] does,
// all of one moment: none of the files may change until the last is copied. With
// [errUnsettled] the copies are returned too.
func copySQLite(ctx context.Context, root, name string) (sqliteFiles, error) {
	names := [3]string{name, name + "-journal", name + "-wal"}
	for try := 1; ; try++ {
		before, err := statAll(root, names)
		if err != nil {
			return sqliteFiles{}, err
		}
		files, err := copyAll(ctx, root, names)
		if err != nil && !errors.Is(err, errUnsettled) {
			return sqliteFiles{}, errors.Join(err, files.Close())
		}
		after, statErr := statAll(root, names)
		if statErr != nil {
			return sqliteFiles{}, errors.Join(statErr, files.Close())
		}
		if err == nil && !sameFiles(before, after) {
			err = fmt.Errorf("copying %s: %w", name, errUnsettled)
		}
		if err == nil || try == copyTries {
			return files, err
		}
		if err := files.Close(); err != nil {
			return sqliteFiles{}, err
		}
	}
}

// copyAll copies what there is of a database's files.
func copyAll(ctx context.Context, root string, names [3]string) (sqliteFiles, error) {
	var files sqliteFiles
	var unsettled error
	for i, into := range []**os.File{&files.db, &files.journal, &files.wal} {
		file, err := copyDB(ctx, root, names[i])
		switch {
		case i > 0 && errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, errUnsettled):
			unsettled = err
		case err != nil:
			return files, err
		}
		*into = file
	}
	return files, unsettled
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
