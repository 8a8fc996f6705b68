package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// CopyFile brings a second file, best on another disk, up to what a journal holds. It may be missing, shorter or torn: what
// lacks is appended, and on disk when this returns. A copy that went another way is left as it is.
//
// Errors: ErrTampered where journal and copy differ, with the first entry that does.
func CopyFile(journal, to string) (Head, error) {
	head, err := copyFile(journal, to)
	if err != nil {
		return head, fmt.Errorf("copying journal %s to %s: %w", journal, to, err)
	}
	return head, nil
}

func copyFile(journal, to string) (_ Head, err error) {
	c, err := Open(to)
	if err != nil {
		return Head{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for {
		after := c.Head()
		lines, err := linesAfter(journal, after, copyChunk)
		if err != nil || len(lines) == 0 {
			return after, err
		}
		if head, err := c.extend(after, lines); err != nil {
			return head, err
		}
	}
}

// copyChunk is how much is copied at once, in bytes, give or take a line.
const copyChunk = 4 << 20

// linesAfter gives whole lines of a journal after a head, about limit bytes of them, after checking that the journal goes through
// it. Whoever takes them checks that they follow.
func linesAfter(journal string, after Head, limit int) ([]byte, error) {
	f, err := os.OpenFile(journal, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	j := &Journal{file: f}
	var lines []byte
	err = j.locked(syscall.LOCK_SH, func() error {
		at, err := scanTo(f, after.Seq)
		if err != nil {
			return err
		}
		if at.Seq != after.Seq || at.Hash != after.Hash {
			return fmt.Errorf("%w: the copy has an entry %d that is not this journal's", ErrTampered, after.Seq)
		}
		lines, err = readLines(f, at.Size, limit)
		return err
	})
	return lines, err
}

// scanTo is the head at an entry.
func scanTo(f *os.File, seq uint64) (Head, error) {
	stop := errors.New("there")
	if seq == 0 {
		return Head{}, nil
	}
	var at Head
	h, err := Scan(io.NewSectionReader(f, 0, 1<<62), Head{}, func(e Entry) error {
		if e.Seq == seq {
			return stop
		}
		return nil
	})
	if err != nil && !errors.Is(err, stop) {
		return at, err
	}
	return h, nil
}

// readLines reads whole lines from an offset.
func readLines(f *os.File, from int64, limit int) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b := make([]byte, min(st.Size()-from, int64(limit)+MaxLine))
	if _, err := f.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:bytes.LastIndexByte(b, '\n')+1], nil
}

// extend appends lines as they are, after checking that they follow.
func (j *Journal) extend(after Head, lines []byte) (Head, error) {
	err := j.locked(syscall.LOCK_EX, func() error {
		if err := j.catchUp(); err != nil {
			return err
		}
		if j.head.Seq != after.Seq || j.head.Hash != after.Hash {
			return fmt.Errorf("%w: it has grown meanwhile", errBehind)
		}
		next, err := Scan(bytes.NewReader(lines), j.head, nil)
		if err != nil {
			return err
		}
		if next.Torn > 0 {
			return fmt.Errorf("%w: what was sent ends within a line", ErrTampered)
		}
		if len(lines) == 0 {
			return nil
		}
		if err := j.write(lines, true); err != nil {
			return err
		}
		j.head = next
		return nil
	})
	return j.Head(), err
}

// errBehind: somebody else wrote the copy; asking again settles it.
var errBehind = errors.New("the copy is not where it was")

// Follow hands every entry after since to each, and those that come, until ctx ends. It looks every pause.
func Follow(ctx context.Context, path string, since uint64, pause time.Duration, each func(Entry) error) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("following journal: %w", err)
	}
	defer f.Close()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	var head Head
	for {
		st, err := f.Stat()
		if err != nil {
			return fmt.Errorf("following journal: %w", err)
		}
		if st.Size() < head.Size {
			return fmt.Errorf("following journal %s: %w: it has become shorter than line %d", path, ErrTampered, head.Seq)
		}
		// A line that is being written has no end yet; the next look finds it whole.
		if head, err = Scan(io.NewSectionReader(f, head.Size, st.Size()-head.Size), head, func(e Entry) error {
			if e.Seq <= since {
				return nil
			}
			return each(e)
		}); err != nil {
			return fmt.Errorf("following journal %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Shout says on stderr and in the kernel's log (/dev/kmsg, level "critical") what must not go unnoticed, such as a record that cannot be
// kept because the disk is full. It needs no disk. What could not be reached is an error; the other one has heard it.
func Shout(stderr io.Writer, kmsg, text string) error {
	text = fmt.Sprintf("blackstart: %.800q", text)
	_, err := fmt.Fprintln(stderr, text)
	f, kerr := os.OpenFile(kmsg, os.O_WRONLY|syscall.O_NOFOLLOW, 0)
	if kerr == nil {
		_, kerr = f.WriteString("<2>" + text + "\n")
		kerr = errors.Join(kerr, f.Close())
	}
	return errors.Join(err, kerr)
}
