package journal

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Scan reads a journal from the entry after head, a zero Head for the first, to its end, and checks the chain. It
// hands every entry to each, if there is one; an error of each ends it. The Head it returns is that of the last
// entry that is right.
//
// Errors: ErrTampered with the number of the line.
func Scan(r io.Reader, head Head, each func(Entry) error) (Head, error) {
	head.Torn = 0
	lines := bufio.NewReaderSize(r, MaxLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			head.Torn = int64(len(line))
			return head, nil
		case errors.Is(err, bufio.ErrBufferFull):
			rest, ended, err := skipLine(lines)
			if err != nil {
				return head, fmt.Errorf("reading journal: %w", err)
			}
			if ended {
				return head, fmt.Errorf("%w: line %d is longer than %d bytes", ErrTampered, head.Seq+1, MaxLine)
			}
			head.Torn = MaxLine + rest
			return head, nil
		case err != nil:
			return head, fmt.Errorf("reading journal: %w", err)
		}
		e, next, bad := head.check(line)
		if bad != nil {
			// Pages of a line may reach the disk in any order: its end may be there, and zeros before it.
			if bytes.IndexByte(line, 0) >= 0 {
				size := int64(len(line))
				if _, err := lines.Peek(1); errors.Is(err, io.EOF) {
					head.Torn = size
					return head, nil
				}
			}
			return head, fmt.Errorf("%w: line %d: %w", ErrTampered, head.Seq+1, bad)
		}
		head = next
		if each != nil {
			if err := each(e); err != nil {
				return head, err
			}
		}
	}
}

// skipLine reads to the end of a line, and says how long it was and whether it ended.
func skipLine(r *bufio.Reader) (n int64, ended bool, err error) {
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		switch {
		case err == nil:
			return n, true, nil
		case errors.Is(err, io.EOF):
			return n, false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return n, false, err
		}
	}
}

// check reads the line that follows head.
func (h Head) check(line []byte) (Entry, Head, error) {
	var e Entry
	text := bytes.TrimSuffix(line, []byte("\n"))
	if err := json.Unmarshal(text, &e); err != nil {
		return e, h, err
	}
	if e.Seq != h.Seq+1 {
		return e, h, fmt.Errorf("it has the number %d", e.Seq)
	}
	if e.Prev != h.Hash {
		return e, h, errors.New("it does not follow from the line before it")
	}
	sum := sha256.Sum256(text)
	return e, Head{Seq: e.Seq, Time: e.Time, Hash: hex.EncodeToString(sum[:]), Size: h.Size + int64(len(line))}, nil
}
