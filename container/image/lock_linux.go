package image

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// flock is a lock file that is held (flock(2)). The kernel lets go of it when the process dies.
type flock struct{ f *os.File }

// tryLock returns EWOULDBLOCK when somebody else holds the lock. Whoever holds a lock exclusively may remove its file,
// so a lock only counts while the file that was opened is still the one at path.
func tryLock(path string, how int) (*flock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: path, Err: err}
		}
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(held, now) {
			return &flock{f}, nil
		}
		f.Close()
	}
}

func (l *flock) release() error { return l.f.Close() }

// remove removes the lock file and lets go of the lock.
func (l *flock) remove() error {
	return errors.Join(os.Remove(l.f.Name()), l.f.Close())
}

// waitLock is tryLock until it succeeds or ctx ends.
func waitLock(ctx context.Context, path string, how int) (*flock, error) {
	for {
		l, err := tryLock(path, how)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return l, err
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

// pause waits a moment before the next try: flock(2) cannot wait for a lock and for a context at once.
func pause(ctx context.Context) error {
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
