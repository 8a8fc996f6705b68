package recovery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

// journalPath is the record of what operators did on this host.
func (s Site) journalPath() string { return filepath.Join(s.Host.Data, "journal.jsonl") }

// record writes down what was done, and by whom. It is on disk when record returns.
func (s Site) record(kind string, data any) (err error) {
	if err := os.MkdirAll(s.Host.Data, 0o711); err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	j, err := journal.Open(s.journalPath())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	who := journal.Who{UID: os.Getuid(), SudoUser: os.Getenv("SUDO_USER"), SSH: os.Getenv("SSH_CONNECTION")}
	_, err = j.Append(s.now(), kind, who, data)
	return err
}

// now is the clock, but never before what is known for certain: when this
// program was built, and the last entry of the journal.
func (s Site) now() time.Time {
	now := time.Now()
	floor := s.Built
	if head, err := journal.Verify(s.journalPath()); err == nil && head.Time.After(floor) {
		floor = head.Time
	}
	if now.Before(floor) {
		return floor
	}
	return now
}
