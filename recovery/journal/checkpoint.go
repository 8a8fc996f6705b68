package journal

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// checkpointFormat is the first line of a checkpoint, so that a signature of something else never fits.
const checkpointFormat = "blackstart-journal-checkpoint/1"

// Checkpoint is where a journal was at some time: what is to be signed, printed, and kept elsewhere. From it any later change
// of what was before is found, and that lines at the end were removed.
type Checkpoint struct {
	Origin string // whose journal: a host's name, of visible ASCII without spaces
	Seq    uint64
	Hash   string
	Time   time.Time
}

// Checkpoint names the place of a head.
func (h Head) Checkpoint(origin string) Checkpoint {
	return Checkpoint{Origin: origin, Seq: h.Seq, Hash: h.Hash, Time: h.Time}
}

// Text is the document to be signed: five lines, the format, the origin, the number, the hash and the time (RFC 3339).
func (c Checkpoint) Text() []byte {
	return fmt.Appendf(nil, "%s\n%s\n%d\n%s\n%s\n", checkpointFormat, c.Origin, c.Seq, c.Hash, c.Time.UTC().Format(time.RFC3339Nano))
}

// ParseCheckpoint reads what Text wrote, and nothing else.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	var c Checkpoint
	lines := strings.Split(string(text), "\n")
	if len(text) > 1024 || len(lines) != 6 || lines[0] != checkpointFormat {
		return c, fmt.Errorf("reading checkpoint: want the five lines of %s", checkpointFormat)
	}
	var err1, err2 error
	c.Origin, c.Hash = lines[1], lines[3]
	c.Seq, err1 = strconv.ParseUint(lines[2], 10, 64)
	c.Time, err2 = time.Parse(time.RFC3339Nano, lines[4])
	if err := errors.Join(err1, err2); err != nil {
		return c, fmt.Errorf("reading checkpoint: %w", err)
	}
	if string(c.Text()) != string(text) || !origin(c.Origin) {
		return c, errors.New("reading checkpoint: it is not written as a checkpoint is")
	}
	return c, nil
}

// origin says whether a name may be an origin, and part of a file's name.
func origin(s string) bool {
	return s != "" && len(s) <= 128 && s[0] != '.' && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// VerifyAt is Verify, and checks that the journal went through each of the checkpoints.
//
// Errors: ErrTampered with the number of the checkpoint that it does not fit, or that it does not reach any more.
func VerifyAt(path string, points []Checkpoint) (Head, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Head{}, fmt.Errorf("opening journal: %w", err)
	}
	defer f.Close()
	want := map[uint64]string{}
	for _, p := range points {
		if have, ok := want[p.Seq]; ok && have != p.Hash {
			return Head{}, fmt.Errorf("verifying journal %s: %w: two checkpoints of entry %d differ", path, ErrTampered, p.Seq)
		}
		want[p.Seq] = p.Hash
	}
	j := &Journal{file: f}
	var head Head
	err = j.locked(syscall.LOCK_SH, func() error {
		var err error
		head, err = Scan(f, Head{}, func(e Entry) error { return differs(want, e.Seq-1, e.Prev) })
		if err != nil {
			return err
		}
		if err := differs(want, head.Seq, head.Hash); err != nil {
			return err
		}
		for seq := range want {
			if seq > head.Seq {
				return fmt.Errorf("%w: it ends with entry %d, and there is a checkpoint of entry %d", ErrTampered, head.Seq, seq)
			}
		}
		return nil
	})
	if err != nil {
		return head, fmt.Errorf("verifying journal %s: %w", path, err)
	}
	return head, nil
}

func differs(want map[uint64]string, seq uint64, hash string) error {
	if w, ok := want[seq]; ok && w != hash {
		return fmt.Errorf("%w: entry %d is not what its checkpoint says", ErrTampered, seq)
	}
	return nil
}
