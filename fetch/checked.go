package fetch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Checked opens blobs of stores, the first that has a right one, for
// [ServeOptions]. A file is read once before it is first given out, and again
// when it has changed: another host drops whoever gives it wrong bytes.
func Checked(stores ...*Store) func(digest.Digest) (*os.File, error) {
	c := &checked{stores: stores, known: map[string]stamp{}}
	return c.open
}

type checked struct {
	stores []*Store

	mu    sync.Mutex
	known map[string]stamp // by path: files that were found right
}

// stamp tells one state of a file from the next.
type stamp struct {
	size    int64
	changed time.Time
}

func (c *checked) open(d digest.Digest) (*os.File, error) {
	var errs []error
	for _, s := range c.stores {
		f, err := s.Open(d)
		if err == nil {
			if err = c.check(f, d); err == nil {
				return f, nil
			}
			err = errors.Join(err, f.Close())
		}
		if !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return nil, fmt.Errorf("opening %s: %w", d, ErrNotFound)
}

func (c *checked) check(f *os.File, d digest.Digest) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	now := stamp{fi.Size(), fi.ModTime()}
	c.mu.Lock()
	known := c.known[f.Name()]
	c.mu.Unlock()
	if known == now {
		return nil
	}
	sum := d.Verifier()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("reading %s: %w", d, err)
	}
	if !sum.Verified() {
		return fmt.Errorf("reading %s: %w", f.Name(), ErrVerification)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c.mu.Lock()
	c.known[f.Name()] = now
	c.mu.Unlock()
	return nil
}
