package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Tail is Open for those who only add: of what is there it reads the last line alone, so that its cost does not grow with the
// journal. Whether the lines before it are what they were is for Verify to say.
//
// Errors: ErrTampered where the last line is no entry; then nothing has been changed.
func Tail(path string) (_ *Journal, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	j := &Journal{file: f}
	err = j.locked(syscall.LOCK_EX, func() error {
		head, err := lastHead(f)
		if err != nil {
			return err
		}
		if head.Torn > 0 {
			if err := j.truncate(head.Size); err != nil {
				return fmt.Errorf("cutting off a torn line: %w", err)
			}
			j.cut, head.Torn = head.Torn, 0
		}
		j.head = head
		if head.Seq > 0 {
			return nil
		}
		return syncDir(filepath.Dir(path)) // it may be new
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening journal %s: %w", path, err), f.Close())
	}
	return j, nil
}

// Last says where a journal ends, from its last line alone.
//
// Errors: ErrTampered where that is no entry.
func Last(path string) (Head, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Head{}, fmt.Errorf("opening journal: %w", err)
	}
	defer f.Close()
	j := &Journal{file: f}
	var head Head
	err = j.locked(syscall.LOCK_SH, func() error {
		head, err = lastHead(f)
		return err
	})
	if err != nil {
		return head, fmt.Errorf("reading journal %s: %w", path, err)
	}
	return head, nil
}

// Jot is Append without waiting for the disk: the entry is there for every process at once, and safe from a power loss after Sync, the
// next Append, or when the kernel writes it by itself.
func (j *Journal) Jot(now time.Time, kind string, who Who, data any) (Entry, error) {
	e, err := newEntry(now, kind, who, data)
	if err != nil {
		return e, err
	}
	all := []Entry{e}
	if err := j.add(all, false); err != nil {
		return e, fmt.Errorf("appending %s to journal %s: %w", kind, j.file.Name(), err)
	}
	return all[0], nil
}

// Sync waits until everything is on disk. Others may append meanwhile.
func (j *Journal) Sync() error {
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("appending to journal: %w", err)
	}
	return nil
}

// lastHead finds the last whole line. The file is locked.
func lastHead(f *os.File) (Head, error) {
	st, err := f.Stat()
	if err != nil {
		return Head{}, err
	}
	if !st.Mode().IsRegular() {
		return Head{}, errors.New("it is not a regular file")
	}
	size := st.Size()
	for n := int64(8 << 10); ; n *= 16 {
		n = min(n, size)
		end := make([]byte, n)
		if _, err := f.ReadAt(end, size-n); err != nil {
			return Head{}, err
		}
		head, found, err := endOf(end, size)
		if found || err != nil {
			return head, err
		}
		if n == size {
			return Head{Torn: size}, nil // not one line was finished
		}
		if n > 3*MaxLine {
			return Head{}, fmt.Errorf("%w: its last line is longer than %d bytes", ErrTampered, MaxLine)
		}
	}
}

// endOf finds the last whole line in the end of a file of some size; not found where it begins before that.
func endOf(end []byte, size int64) (h Head, found bool, err error) {
	rest := end
	for torn := true; ; torn = false {
		last := bytes.LastIndexByte(rest, '\n')
		if last < 0 {
			return h, false, nil
		}
		first := bytes.LastIndexByte(rest[:last], '\n') + 1
		if first == 0 && int64(len(end)) < size {
			return h, false, nil
		}
		line := rest[first:last]
		// As Scan has it: of the very last line the end may be on disk, and zeros before it.
		if torn && last == len(end)-1 && bytes.IndexByte(line, 0) >= 0 {
			if rest = rest[:first]; first == 0 {
				return Head{Torn: size}, true, nil
			}
			continue
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil || e.Seq == 0 || (e.Seq == 1) != (e.Prev == "") {
			return h, false, errors.Join(fmt.Errorf("%w: its last line is no entry", ErrTampered), err)
		}
		sum := sha256.Sum256(line)
		h = Head{Seq: e.Seq, Time: e.Time, Hash: hex.EncodeToString(sum[:])}
		h.Size = size - int64(len(end)) + int64(last) + 1
		h.Torn = size - h.Size
		return h, true, nil
	}
}
