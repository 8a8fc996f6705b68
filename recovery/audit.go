package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/journal"
)

// followPause is how often the journal is looked at for new entries.
const followPause = 200 * time.Millisecond

// Audit hands the entries of the journal after a number to each; with follow also those that come, until ctx ends.
func (s Site) Audit(ctx context.Context, since uint64, follow bool, each func(journal.Entry) error) error {
	if follow {
		err := journal.Follow(ctx, s.journalPath(), since, followPause, each)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	f, err := os.Open(s.journalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the journal: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	_, err = journal.Scan(f, journal.Head{}, func(e journal.Entry) error {
		if e.Seq <= since {
			return nil
		}
		return each(e)
	})
	return err
}

// VerifyAudit checks the chain of the journal, or of a copy of it, and that it went through the checkpoints in files.
func (s Site) VerifyAudit(path string, checkpoints []string) (journal.Head, error) {
	if path == "" {
		path = s.journalPath()
	}
	var points []journal.Checkpoint
	for _, file := range checkpoints {
		text, err := readBounded(file)
		if err != nil {
			return journal.Head{}, err
		}
		p, err := journal.ParseCheckpoint(text)
		if err != nil {
			return journal.Head{}, fmt.Errorf("%w: %s: %w", ErrUsage, file, err)
		}
		points = append(points, p)
	}
	head, err := journal.VerifyAt(path, points)
	if errors.Is(err, fs.ErrNotExist) && len(points) > 0 {
		return head, fmt.Errorf("%w: a checkpoint says there was one: %w", journal.ErrTampered, err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return head, fmt.Errorf("%w: nothing was recorded here, or the record was removed: %w", ErrUsage, err)
	}
	return head, err
}

// Checkpoint is where the journal is now, to be signed and kept elsewhere.
func (s Site) Checkpoint() (journal.Checkpoint, error) {
	head, err := journal.Verify(s.journalPath())
	if err != nil {
		return journal.Checkpoint{}, err
	}
	host, err := hostname()
	return head.Checkpoint(host), err
}

// CopyAudit brings a second file up to what the journal holds.
func (s Site) CopyAudit(to string) (journal.Head, error) {
	return journal.CopyFile(s.journalPath(), to)
}

// SendAudit sends the entries after a number to syslog, and says up to which it came.
func (s Site) SendAudit(since uint64, network, address string) (uint64, error) {
	host, err := hostname()
	if err != nil {
		return since, err
	}
	return journal.SendSyslog(s.journalPath(), since, network, address, host)
}

// hostname is this host's, without what a checkpoint cannot hold.
func hostname() (string, error) {
	h, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("reading the host's name: %w", err)
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, h), nil
}
