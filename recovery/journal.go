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

// errNoRecord: this host has none, and it is not for an ordinary user to begin it.
var errNoRecord = errors.New("no record is kept here")

// openJournal opens it for adding to.
func (s Site) openJournal() (*journal.Journal, error) {
	if os.Geteuid() != 0 && !exists(s.Host.Data) {
		return nil, fmt.Errorf("opening journal: %w: there is no %s", errNoRecord, s.Host.Data)
	}
	if err := os.MkdirAll(s.Host.Data, 0o711); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return journal.Tail(s.journalPath())
}

// record writes down what was done, and by whom. It is on disk when record returns.
func (s Site) record(kind string, data any) (err error) {
	j, err := s.openJournal()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	_, err = j.Append(s.nowAfter(j.Head()), kind, who(), data)
	return err
}

// now is the clock, but never before what is known for certain: when this
// program was built, and the last entry of the journal.
func (s Site) now() time.Time {
	head, err := journal.Last(s.journalPath())
	if err != nil {
		head = journal.Head{}
	}
	return s.nowAfter(head)
}

// longAfter is how long after it was built a program may be in use. An entry later than that was written by a clock that was
// wrong, and holding on to it would end every certificate and approval for years.
const longAfter = 15 * 365 * 24 * time.Hour

func (s Site) nowAfter(last journal.Head) time.Time {
	now, floor := time.Now(), s.Built
	if last.Time.After(floor) && (s.Built.IsZero() || last.Time.Before(s.Built.Add(longAfter))) {
		floor = last.Time
	}
	return later(now, floor)
}
