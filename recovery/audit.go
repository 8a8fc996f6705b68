package recovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/access"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// auditNamespace is what ssh-keygen -Y sign is told with -n, for checkpoints.
const auditNamespace = "blackstart-audit"

// ErrSignature is returned for a checkpoint that nobody who may has signed.
var ErrSignature = errors.New("not signed by anybody who counts")

// followPause is how often the journal is looked at for new entries.
const followPause = 200 * time.Millisecond

// Audit hands the entries after a number of the journal, or of a copy in a file, to each; with follow also those that come, until
// ctx ends.
func (s Site) Audit(ctx context.Context, path string, since uint64, follow bool, each func(journal.Entry) error) error {
	own := path == ""
	path = cmp.Or(path, s.journalPath())
	if follow {
		err := journal.Follow(ctx, path, since, followPause, each)
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && own {
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

// VerifyAudit checks the chain of the journal, or of a copy of it, and that it went through the checkpoints in files. signers,
// where it is not "", is a list of those of whom one has to have signed each checkpoint, in a file whose name ends in .sig.
func (s Site) VerifyAudit(path string, checkpoints []string, signers string) (journal.Head, error) {
	path = cmp.Or(path, s.journalPath())
	var may access.Signers
	if signers != "" {
		text, err := readBounded(signers)
		if err != nil {
			return journal.Head{}, err
		}
		if may, err = access.ParseSigners(text, auditNamespace); err != nil {
			return journal.Head{}, err
		}
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
		if signers != "" {
			sig, err := readBounded(file + signatureTail)
			if err != nil {
				return journal.Head{}, err
			}
			name, err := may.Verify(text, sig)
			if err != nil {
				return journal.Head{}, fmt.Errorf("%w: the checkpoint %s: %w", ErrSignature, file, err)
			}
			s.Log.Info(fmt.Sprintf("checkpoint of entry %d, %s, signed by %s", p.Seq, p.Time.Format(time.RFC3339), name))
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

// retryPause is how long a copy that could not be made is left alone.
const retryPause = 2 * time.Second

// copying does copy now and, until ctx ends, whenever the journal has grown. What fails, such as a peer that is away, is said
// once and tried again; only a copy that went another way ends it.
//
// Errors: journal.ErrTampered.
func (s Site) copying(ctx context.Context, copy func() error) error {
	tick := time.NewTicker(followPause)
	defer tick.Stop()
	var size int64 = -1
	var failed time.Time
	said := ""
	for {
		st, err := os.Stat(s.journalPath())
		grown := err == nil && st.Size() != size
		if grown && time.Since(failed) > retryPause {
			err := copy()
			switch {
			case ctx.Err() != nil:
				return nil
			case errors.Is(err, journal.ErrTampered):
				return err
			case err != nil:
				if failed = time.Now(); said != err.Error() {
					said = err.Error()
					s.Log.Warn("the copy is behind; it is tried again", "error", err)
				}
			default:
				if size, failed = st.Size(), (time.Time{}); said != "" {
					s.Log.Info("the copy is up to the record again")
				}
				said = ""
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
