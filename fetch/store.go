package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// MaxFrame is the largest blob that is held in memory at once, in bytes: what a
// frame of ChunkLength may grow to, and then some.
const MaxFrame = 8 << 20

// partialDir is where blobs grow, out of the way of those who read the layout.
const partialDir = "blobs/.partial"

// Store keeps blobs in a directory as an OCI image layout does, in
// blobs/sha256/HEX; it may be one. Nothing in it is trusted: every blob is checked each time it
// is read, so that a write which a crash cut short costs that blob and no more.
type Store struct{ dir string }

// OpenStore makes the directory where it is missing.
func OpenStore(dir string) (*Store, error) {
	for _, d := range []string{"blobs/sha256", partialDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("opening store: %w", err)
		}
	}
	return &Store{dir}, nil
}

// ViewStore is a store that is only read.
func ViewStore(dir string) *Store { return &Store{dir} }

// Dir is where the store is.
func (s *Store) Dir() string { return s.dir }

func (s *Store) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return "", fmt.Errorf("looking for %.80q: not a sha256 digest", string(d))
	}
	return filepath.Join(s.dir, "blobs/sha256", d.Encoded()), nil
}

// Open opens a blob without checking it, for those who check it themselves.
// It returns ErrNotFound where there is none.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	p, err := s.path(d)
	if err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(p); err == nil && !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("opening %s: not a regular file", p)
	}
	f, err := os.Open(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening %s: %w", d, ErrNotFound)
	}
	return f, err
}

// Has tells whether a blob of this size is there, unchecked.
func (s *Store) Has(d digest.Digest, size int64) bool {
	p, err := s.path(d)
	if err != nil {
		return false
	}
	fi, err := os.Lstat(p)
	return err == nil && fi.Mode().IsRegular() && (size < 0 || fi.Size() == size)
}

// read fills b with a blob of that size and checks it. A damaged one is removed.
func (s *Store) read(d digest.Digest, b []byte) (err error) {
	f, err := s.Open(d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.ReadFull(f, b); err != nil {
		return fmt.Errorf("reading %s: %w", d, err)
	}
	if digest.FromBytes(b) != d {
		return errors.Join(fmt.Errorf("reading %s: %w", d, ErrVerification), os.Remove(f.Name()))
	}
	return nil
}

// Put keeps bytes that are known to have this digest.
func (s *Store) Put(d digest.Digest, b []byte) (err error) {
	p, err := s.path(d)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, partialDir), "frame-*")
	if err != nil {
		return fmt.Errorf("keeping %s: %w", d, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), p)
	}
	if err != nil {
		return fmt.Errorf("keeping %s: %w", d, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// Sweep removes what fetches that were cut short left, but not what
// they can go on from: frames half written more than an hour ago.
func (s *Store) Sweep(now time.Time) error {
	left, err := filepath.Glob(filepath.Join(s.dir, partialDir, "frame-*"))
	for _, p := range left {
		if fi, serr := os.Lstat(p); serr == nil && now.Sub(fi.ModTime()) > time.Hour {
			err = errors.Join(err, os.Remove(p))
		}
	}
	return err
}

// partial opens the file that a blob of one piece grows in.
func (s *Store) partial(d digest.Digest) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, partialDir, d.Encoded()), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("keeping %s: %w", d, err)
	}
	return f, nil
}

// adopt makes a partial file that was found right a blob. It is on disk then.
func (s *Store) adopt(d digest.Digest, f *os.File) error {
	p, err := s.path(d)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), os.Rename(f.Name(), p), syncDir(filepath.Dir(p))); err != nil {
		return fmt.Errorf("keeping %s: %w", d, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lock waits until no other process fetches this blob. waiting is called once
// with the process that does.
func (s *Store) lock(ctx context.Context, d digest.Digest, waiting func(pid string)) (unlock func(), err error) {
	p := filepath.Join(s.dir, partialDir, d.Encoded()+".lock")
	told := false
	for {
		f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("locking %s: %w", d, err)
		}
		got, err := tryLock(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", d, err), f.Close())
		}
		// The one before removed the file while it held it, so what was opened may be
		// a file that nobody else will find.
		if got && sameFile(f, p) {
			if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprint(os.Getpid()))); err != nil {
				return nil, errors.Join(fmt.Errorf("locking %s: %w", d, err), f.Close())
			}
			return func() { _, _ = os.Remove(p), f.Close() }, nil // the lock goes with the descriptor
		}
		if !got && !told {
			pid := make([]byte, 20)
			n, _ := f.ReadAt(pid, 0) // it may not have said so yet
			if told = n > 0; told {
				waiting(string(pid[:n]))
			}
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}
