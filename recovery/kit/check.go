package kit

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// CheckOptions says what Check asks of a kit.
type CheckOptions struct {
	Trust     Trust
	Threshold int       // signatures by different trusted keys, at least 1
	Seen      string    // directory of what was seen before, see Remember
	Now       time.Time // the clock, but not before Floor
	Tool      string    // this program's version, see Parse
	// AcceptStale and AcceptRollback let a kit pass that is stale or rolled back. That they were needed is in
	// Checked, and belongs into the journal.
	AcceptStale    bool
	AcceptRollback bool
}

// Checked is a kit that may be used.
type Checked struct {
	Document *Document
	Digest   digest.Digest // of the document's bytes
	Signers  []Signer
	// Stale and Rollback are what was accepted, ErrStale and ErrRollback; nil for an ordinary kit.
	Stale, Rollback error
}

// Check decides whether a kit may be used, in this order: its signatures over the exact bytes, the document's form,
// keys that it or an earlier kit of its name revoked, rollback, staleness.
//
// Errors: ErrVerification, ErrNewer, ErrInvalid, ErrRollback, ErrStale. With the last two Checked is returned as
// well, so that the caller can say what was refused.
func Check(s Signed, o CheckOptions) (Checked, error) {
	c := Checked{Digest: s.Digest()}
	if _, err := Verify(s.Document, s.Signatures, o.Trust, o.Threshold, nil); err != nil {
		return c, err
	}
	var err error
	if c.Document, err = Parse(s.Document, o.Tool); err != nil {
		return c, err
	}
	seen, rollback := readSeen(o.Seen, c.Document.Name)
	revoked := append(slices.Clone(seen.Revoked), c.Document.Revoked...)
	if c.Signers, err = Verify(s.Document, s.Signatures, o.Trust, o.Threshold, revoked); err != nil {
		return c, err
	}
	if rollback == nil {
		rollback = seen.refuse(c)
	}
	if rollback != nil {
		if c.Rollback = rollback; !o.AcceptRollback {
			return c, rollback
		}
	}
	if until := c.Document.FreshUntil; !until.IsZero() && o.Now.After(until) {
		c.Stale = fmt.Errorf("%w: %s was fresh until %s, it is %s", ErrStale, c.Document.Name,
			until.Format(time.RFC3339), o.Now.UTC().Format(time.RFC3339))
		if !o.AcceptStale {
			return c, c.Stale
		}
	}
	return c, nil
}

// Floor is the earliest time that it can be now: the latest of when this program was built, when the kit was
// signed, and what the journal holds last. A clock behind it is wrong. A zero time stands for one that is not known.
func Floor(built, signedAt, lastJournal time.Time) time.Time {
	floor := built
	for _, t := range []time.Time{signedAt, lastJournal} {
		if t.After(floor) {
			floor = t
		}
	}
	return floor
}
