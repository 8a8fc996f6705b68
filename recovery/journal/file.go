package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Journal is a journal that is open for appending. It may be used by several goroutines.
type Journal struct {
	mu   sync.Mutex
	file *os.File
	head Head
	cut  int64
}

// Open opens a journal, and begins one where there is none; the directory has to exist. It checks the whole chain
// and cuts off a torn last line: Cut says how much. Close it after use.
//
// Errors: ErrTampered; then nothing has been changed.
func Open(path string) (_ *Journal, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	j := &Journal{file: f}
	err = j.locked(syscall.LOCK_EX, func() error {
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			return errors.Join(err, fmt.Errorf("%s is not a regular file", path))
		}
		return errors.Join(j.catchUp(), syncDir(filepath.Dir(path)))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal %s: %w", path, err), f.Close())
	}
	return j, nil
}

// Verify checks the whole chain of a journal without changing it. A torn last line is not an error: Head says
// how long it is.
func Verify(path string) (Head, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Head{}, fmt.Errorf("opening journal: %w", err)
	}
	defer f.Close()
	j := &Journal{file: f}
	var head Head
	err = j.locked(syscall.LOCK_SH, func() error {
		head, err = Scan(f, Head{}, nil)
		return err
	})
	if err != nil {
		return head, fmt.Errorf("verifying journal %s: %w", path, err)
	}
	return head, nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }

// Cut is how many bytes of torn lines this Journal has cut off so far.
func (j *Journal) Cut() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cut
}

// Head is where the journal ended when it was last read or appended to.
func (j *Journal) Head() Head {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.head
}

// Append adds an entry and returns it with its number once it is on disk. data is encoded as JSON; nil for none.
// After an error, such as a full disk, the journal is as it was before.
//
// Errors: ErrTooLarge; ErrTampered where another process has written something else than entries.
func (j *Journal) Append(now time.Time, kind string, who Who, data any) (Entry, error) {
	e, err := newEntry(now, kind, who, data)
	if err != nil {
		return e, err
	}
	all := []Entry{e}
	if err := j.appendAll(all); err != nil {
		return e, fmt.Errorf("appending %s to journal %s: %w", kind, j.file.Name(), err)
	}
	return all[0], nil
}

// newEntry is an entry that has no place in the journal yet.
func newEntry(now time.Time, kind string, who Who, data any) (Entry, error) {
	e := Entry{Time: now.UTC(), Kind: kind, Who: who}
	if kind == "" {
		return e, errors.New("appending to journal: an entry needs a kind")
	}
	if data != nil {
		raw, err := json.Marshal(data)
		if err != nil {
			return e, fmt.Errorf("appending to journal: %w", err)
		}
		e.Data = raw
	}
	return e, nil
}

// appendAll numbers entries and puts them at the end, all or none, with one wait for the disk.
func (j *Journal) appendAll(all []Entry) error { return j.add(all, true) }

func (j *Journal) add(all []Entry, wait bool) error {
	return j.locked(syscall.LOCK_EX, func() error {
		if err := j.catchUp(); err != nil {
			return err
		}
		head := j.head
		var lines []byte
		for n := range all {
			e := &all[n]
			e.Seq, e.Prev = head.Seq+1, head.Hash
			line, err := json.Marshal(e)
			if err != nil {
				return err
			}
			line = append(line, '\n')
			if len(line) > MaxLine {
				return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(line), MaxLine)
			}
			if _, head, err = head.check(line); err != nil {
				return err
			}
			lines = append(lines, line...)
		}
		if err := j.write(lines, wait); err != nil {
			return err
		}
		j.head = head
		return nil
	})
}

// Read returns the entries after the number since, after checking all of the chain.
func (j *Journal) Read(since uint64) ([]Entry, error) {
	var all []Entry
	err := j.locked(syscall.LOCK_SH, func() error {
		_, err := Scan(io.NewSectionReader(j.file, 0, 1<<62), Head{}, func(e Entry) error {
			if e.Seq > since {
				all = append(all, e)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading journal %s: %w", j.file.Name(), err)
	}
	return all, nil
}

// locked does something while the file is locked; the kernel lets go of the lock if the process dies.
func (j *Journal) locked(how int, do func() error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		err := syscall.Flock(int(j.file.Fd()), how)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("locking: %w", err)
		}
	}
	err := do()
	return errors.Join(err, syscall.Flock(int(j.file.Fd()), syscall.LOCK_UN))
}

// catchUp reads what other processes have appended, and cuts off a torn line: nobody can still be writing it, for
// this process holds the lock.
func (j *Journal) catchUp() error {
	st, err := j.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() < j.head.Size {
		return fmt.Errorf("%w: it has become shorter than line %d", ErrTampered, j.head.Seq)
	}
	if st.Size() == j.head.Size {
		return nil
	}
	head, err := Scan(io.NewSectionReader(j.file, j.head.Size, st.Size()-j.head.Size), j.head, nil)
	if err != nil {
		return err
	}
	if head.Torn > 0 {
		if err := j.truncate(head.Size); err != nil {
			return fmt.Errorf("cutting off a torn line: %w", err)
		}
		j.cut += head.Torn
		head.Torn = 0
	}
	j.head = head
	return nil
}

// write puts lines at the end, as a whole or not at all, and waits for the disk if asked to.
func (j *Journal) write(lines []byte, wait bool) error {
	_, err := j.file.WriteAt(lines, j.head.Size)
	if err == nil && wait {
		err = j.file.Sync()
	}
	if err != nil {
		return errors.Join(err, j.truncate(j.head.Size))
	}
	return nil
}

func (j *Journal) truncate(size int64) error {
	if err := j.file.Truncate(size); err != nil {
		return err
	}
	return j.file.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
