package container

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The log of a container is one file that the container itself appends to, so
// that it goes on whatever happens to the supervisor. It is bounded by taking
// whole blocks off its front in place (fallocate(2), FALLOC_FL_COLLAPSE_RANGE),
// which loses no line that is being written; where the file system cannot, the
// front becomes a hole instead.
//
// Beside it, log.index tells when which byte was written, so that --since works
// on plain output: 16 bytes an entry, big endian, Unix milliseconds and offset.
// Its first entry holds 0 and how many bytes were taken off the front; offsets
// count from the very first byte ever written. Entries are a second apart.

const (
	defaultLogMax = 64 << 20
	indexEntry    = 16
	maxIndex      = 4096 // entries, thinned to half when full
)

type mark struct {
	at  time.Time
	off int64
}

type logFile struct {
	f     *os.File
	max   int64
	cut   int64 // bytes taken off the front
	marks []mark
}

// openLog opens the log for appending and reads its index.
func openLog(path string, s Spec) (*logFile, error) {
	limit, err := ParseSize(s.LogMax)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		limit = defaultLogMax
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", writable(err))
	}
	l := &logFile{f: f, max: max(limit, 64<<10)}
	l.cut, l.marks = readIndex(path)
	if fi, err := f.Stat(); err == nil && len(l.marks) > 0 && l.marks[len(l.marks)-1].off-l.cut > fi.Size() {
		l.cut, l.marks = 0, nil // a cut that was not written down: the index is of no use
	}
	l.note(time.Now())
	return l, nil
}

func (l *logFile) Close() error { return l.f.Close() }

// note writes down how long the log is now, and shortens it if it is too long.
func (l *logFile) note(now time.Time) {
	fi, err := l.f.Stat()
	if err != nil {
		return
	}
	end := l.cut + fi.Size()
	if n := len(l.marks); n == 0 || l.marks[n-1].off != end {
		l.marks = append(l.marks, mark{now, end})
		if len(l.marks) > maxIndex {
			for i := range maxIndex / 2 {
				l.marks[i] = l.marks[2*i]
			}
			l.marks = append(l.marks[:maxIndex/2], l.marks[maxIndex:]...)
		}
		l.save()
	}
	var st unix.Stat_t
	if unix.Fstat(int(l.f.Fd()), &st) == nil && st.Blocks*512 > l.max {
		l.shorten(fi.Size())
	}
}

// shorten takes the oldest part off, so that three quarters of the limit stay.
func (l *logFile) shorten(size int64) {
	const block = 64 << 10 // a multiple of every file system's block
	n := (size - l.max*3/4) / block * block
	if n <= 0 || flock(l.f, unix.LOCK_EX) != nil {
		return
	}
	defer func() { _ = flock(l.f, unix.LOCK_UN) }()
	if err := unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, n); err != nil {
		_ = unix.Fallocate(int(l.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, n)
		return
	}
	l.cut += n
	for len(l.marks) > 1 && l.marks[0].off < l.cut {
		l.marks = l.marks[1:]
	}
	l.save()
}

func (l *logFile) save() {
	b := make([]byte, 0, (len(l.marks)+1)*indexEntry)
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(l.cut))
	for _, m := range l.marks {
		b = binary.BigEndian.AppendUint64(b, uint64(m.at.UnixMilli()))
		b = binary.BigEndian.AppendUint64(b, uint64(m.off))
	}
	tmp := l.f.Name() + ".index.new"
	if os.WriteFile(tmp, b, 0o600) == nil {
		_ = os.Rename(tmp, l.f.Name()+".index")
	}
}

func readIndex(logPath string) (cut int64, marks []mark) {
	f, err := os.Open(logPath + ".index")
	if err != nil {
		return 0, nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, (maxIndex+2)*indexEntry))
	if err != nil || len(b) < indexEntry {
		return 0, nil
	}
	cut = max(0, int64(binary.BigEndian.Uint64(b[8:])))
	for b = b[indexEntry:]; len(b) >= indexEntry; b = b[indexEntry:] {
		marks = append(marks, mark{time.UnixMilli(int64(binary.BigEndian.Uint64(b))), int64(binary.BigEndian.Uint64(b[8:]))})
	}
	return cut, marks
}

// LogOptions says which part of a log to read.
type LogOptions struct {
	Since  time.Time // from about this moment on: the index is a second wide
	Tail   int       // at most this many lines of what is there; negative for all
	Follow bool      // go on until the container has ended
}

// Log writes the container's output to w.
func (c *Container) Log(ctx context.Context, w io.Writer, o LogOptions) error {
	f, err := os.Open(c.LogPath())
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s keeps no log: it ran in the foreground", ErrNotFound, c.name)
	}
	if err != nil {
		return fmt.Errorf("reading log: %w", err)
	}
	defer f.Close()
	pos, err := c.logStart(f, o)
	if err != nil {
		return err
	}
	for {
		ended := c.Status().State == StateExited
		if pos, err = copyLog(w, f, c.LogPath(), pos); err != nil {
			return err
		}
		if !o.Follow || ended {
			return nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil // the operator has seen enough
		}
	}
}

// logStart finds the offset, counted from the first byte ever, to read from.
func (c *Container) logStart(f *os.File, o LogOptions) (int64, error) {
	cut, marks := readIndex(c.LogPath())
	pos := cut
	if !o.Since.IsZero() {
		for _, m := range marks {
			if !m.at.After(o.Since) {
				pos = max(pos, m.off)
			}
		}
	}
	if data, err := unix.Seek(int(f.Fd()), pos-cut, unix.SEEK_DATA); err == nil {
		pos = cut + data
	} else if errors.Is(err, unix.ENXIO) {
		fi, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return cut + fi.Size(), nil
	}
	if pos > 0 && o.Since.IsZero() { // the front was cut in the middle of a line
		line, err := bufio.NewReader(io.NewSectionReader(f, pos-cut, 64<<10)).ReadSlice('\n')
		if err == nil {
			pos += int64(len(line))
		}
	}
	if o.Tail < 0 {
		return pos, nil
	}
	start, err := tailOffset(f, pos-cut, o.Tail)
	return cut + start, err
}

// tailOffset finds where the last n lines of f begin, at from or later.
func tailOffset(f *os.File, from int64, n int) (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	end := fi.Size()
	buf := make([]byte, 64<<10)
	for at := end; at > from; {
		size := min(int64(len(buf)), at-from)
		at -= size
		if _, err := f.ReadAt(buf[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("reading log: %w", err)
		}
		for chunk := buf[:size]; ; {
			i := bytes.LastIndexByte(chunk, '\n')
			if i < 0 {
				break
			}
			if at+int64(i)+1 != end { // the newline that ends the last line does not begin one
				if n--; n <= 0 {
					return at + int64(i) + 1, nil
				}
			} else if n == 0 {
				return end, nil
			}
			chunk = chunk[:i]
		}
	}
	return from, nil
}

// copyLog writes what the log holds from pos on and returns the new position.
// The shared lock keeps the front from being cut off between the two reads.
func copyLog(w io.Writer, f *os.File, path string, pos int64) (int64, error) {
	if err := flock(f, unix.LOCK_SH); err != nil {
		return pos, fmt.Errorf("reading log: %w", err)
	}
	defer func() { _ = flock(f, unix.LOCK_UN) }()
	cut, _ := readIndex(path)
	n, err := io.Copy(w, io.NewSectionReader(f, max(0, pos-cut), 1<<62))
	return max(pos, cut) + n, err
}
