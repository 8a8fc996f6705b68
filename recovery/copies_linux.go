package recovery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

// Copy is a place that the record is kept in as well: every command that changes something brings it up to the record.
type Copy struct {
	// To is file:/PATH, best on another disk; syslog:/PATH of a socket, syslog:IP:PORT over UDP or syslog+tcp:IP:PORT; or peer:IP:PORT,
	// where access log receive listens.
	To       string `json:"to"`
	Identity string `json:"identity,omitempty"` // the directory that certs issue or certs enroll wrote; for a peer
	Origin   string `json:"origin,omitempty"`   // as Site.PushAudit takes it; for a peer
}

// CopyState says how far a copy is: Entries is how many it had at Reached.
type CopyState struct {
	Copy
	Entries uint64    `json:"entries"`
	Reached time.Time `json:"reached,omitzero"`
	copyFailure
}

// copyFailure tells of the last attempt to bring a copy up to the record, if that came to nothing.
type copyFailure struct {
	Failed  time.Time `json:"failed,omitzero"`
	Problem string    `json:"problem,omitempty"`
	Differs bool      `json:"differs,omitempty"` // it says something else than the record
}

// failedCopy is that, as an error.
type failedCopy copyFailure

func (f failedCopy) Error() string {
	return "tried in vain at " + f.Failed.Format(time.TimeOnly) + ": " + f.Problem
}

func (f failedCopy) Is(err error) bool { return f.Differs && err == journal.ErrTampered }

// ErrNoCopy is returned for a copy that is not kept.
var ErrNoCopy = errors.New("no copy is kept there")

func (s Site) copiesDir() string { return filepath.Join(s.Host.Data, "copies") }

func (s Site) copyDir(to string) string {
	sum := sha256.Sum256([]byte(to))
	return filepath.Join(s.copiesDir(), hex.EncodeToString(sum[:8]))
}

// KeepCopy makes a copy of the record, and from then on every command does. One that is kept already is kept with what is new
// in c.
func (s Site) KeepCopy(ctx context.Context, c Copy) (CopyState, error) {
	kind, _, err := c.target()
	if err != nil {
		return CopyState{}, err
	}
	if (kind == "peer") != (c.Identity != "") {
		return CopyState{}, fmt.Errorf("%w: an identity goes with a peer, and a peer with an identity", ErrUsage)
	}
	if c.Identity != "" {
		if c.Identity, err = filepath.Abs(c.Identity); err != nil {
			return CopyState{}, err
		}
	}
	dir := s.copyDir(c.To)
	before, err := readCopy(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return CopyState{}, err
	}
	state := CopyState{Copy: c, Entries: before.Entries, Reached: before.Reached}
	if state.Entries, err = s.copyTo(ctx, state); err != nil {
		return state, err
	}
	state.Reached = s.now()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return state, fmt.Errorf("keeping the copy in mind: %w", err)
	}
	return state, saveCopy(dir, state)
}

// ForgetCopy brings a copy up to the record for the last time, if it answers, and then leaves it as it is.
//
// Errors: ErrNoCopy.
func (s Site) ForgetCopy(ctx context.Context, to string) error {
	dir := s.copyDir(to)
	if !exists(dir) {
		return fmt.Errorf("%w: %s", ErrNoCopy, to)
	}
	ctx, cancel := context.WithTimeout(ctx, copyPatience)
	defer cancel()
	if err := s.bring(ctx, dir); err != nil {
		s.Log.Warn("the copy does not say that it is kept no more", "error", err)
	}
	// Renamed first: another command may be about to write a note there.
	gone := filepath.Join(s.copiesDir(), "."+filepath.Base(dir))
	if err := errors.Join(os.RemoveAll(gone), os.Rename(dir, gone), os.RemoveAll(gone)); err != nil {
		return fmt.Errorf("forgetting a copy: %w", err)
	}
	_ = os.Remove(s.copiesDir()) // fails, as it should, while there are others
	return nil
}

// Copies are the copies that are kept, by name. One whose notes cannot be read is an error and hides none of the others.
func (s Site) Copies() ([]CopyState, error) {
	list, err := os.ReadDir(s.copiesDir())
	all := []CopyState{}
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	errs := []error{err}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), ".") { // being forgotten
			continue
		}
		c, err := readCopy(filepath.Join(s.copiesDir(), d.Name()))
		switch {
		case err == nil:
			all = append(all, c)
		case !errors.Is(err, fs.ErrNotExist): // else it is being kept or forgotten right now
			errs = append(errs, err)
		}
	}
	slices.SortFunc(all, func(a, b CopyState) int { return cmp.Compare(a.To, b.To) })
	return all, errors.Join(errs...)
}

const (
	copyNotes  = "copy.json"
	copyFailed = "failed.json" // of its own, for whoever waits in vain for a copy cannot have its lock
)

func readCopy(dir string) (CopyState, error) {
	var c CopyState
	b, err := readBounded(filepath.Join(dir, copyNotes))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return c, fmt.Errorf("reading which copies are kept: %w", err)
	}
	b, err = readBounded(filepath.Join(dir, copyFailed))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c.copyFailure)
	}
	if err != nil {
		return c, fmt.Errorf("reading what became of a copy: %w", err)
	}
	return c, nil
}

func saveCopy(dir string, c CopyState) error {
	c.copyFailure = copyFailure{}
	if err := writeJSONFile(filepath.Join(dir, copyNotes), c); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, copyFailed)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func writeJSONFile(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = writeFile(path, bytes.NewReader(append(b, '\n')))
	return err
}

// target is where a copy goes: "file", a network or "peer", and the path or address.
func (c Copy) target() (kind, address string, err error) {
	kind, address, _ = strings.Cut(c.To, ":")
	switch {
	case kind == "file" && filepath.IsAbs(address):
		return kind, address, nil
	case kind == "syslog" && filepath.IsAbs(address):
		return "unixgram", address, nil
	case kind == "syslog":
		kind = "udp"
	case kind == "syslog+tcp":
		kind = "tcp"
	case kind != "peer":
		return "", "", fmt.Errorf("%w: a copy is file:/PATH, syslog:/PATH, syslog:IP:PORT, syslog+tcp:IP:PORT or peer:IP:PORT, and not %q", ErrUsage, c.To)
	}
	if _, err := netip.ParseAddrPort(address); err != nil {
		return "", "", fmt.Errorf("%w: a copy at %q: want IP:PORT", ErrUsage, c.To)
	}
	return kind, address, nil
}

// copyTo brings one copy up to the record, and says how many entries it has then.
func (s Site) copyTo(ctx context.Context, c CopyState) (uint64, error) {
	kind, address, err := c.target()
	if err != nil {
		return c.Entries, err
	}
	switch kind {
	case "file":
		if c.Entries > 0 && !exists(address) {
			return c.Entries, fmt.Errorf("%s is gone: is its disk mounted?", address)
		}
		head, err := s.CopyAudit(address)
		return head.Seq, err
	case "peer":
		peer, err := netip.ParseAddrPort(address)
		if err != nil {
			return c.Entries, err
		}
		head, err := s.PushAudit(ctx, peer, c.Identity, c.Origin)
		return head.Seq, err
	}
	return s.SendAudit(c.Entries, kind, address)
}

// bring does copyTo under the lock of one copy, which another command may have.
func (s Site) bring(ctx context.Context, dir string) error {
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // only its lock is used
	for unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	c, err := readCopy(dir)
	if err != nil {
		return err
	}
	entries, err := s.copyTo(ctx, c)
	if err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, noteFailure(dir, s.now(), err))
		}
		return err
	}
	if entries == c.Entries && c.Failed.IsZero() {
		return nil
	}
	c.Entries, c.Reached = entries, s.now()
	return saveCopy(dir, c)
}

func noteFailure(dir string, now time.Time, problem error) error {
	return writeJSONFile(filepath.Join(dir, copyFailed), copyFailure{now, problem.Error(), errors.Is(problem, journal.ErrTampered)})
}
