// Package journal keeps an append-only record of what was done: for the audit of what an operator overrode, and for
// going on where a runbook stopped.
//
// # On disk
//
// One file of JSON lines (RFC 8259, one [Entry] and a newline each, at most MaxLine bytes). An entry holds the
// SHA-256 of the line before it, without its newline, so that a changed, removed or inserted line breaks the chain
// from there on; the first entry holds "". What the chain cannot show is that lines at the end were removed: whoever
// needs that keeps a [Head] elsewhere. Every line is on disk (fsync) before Append returns.
//
// A process that is killed, or a host that loses power, leaves at most a torn last line: one without a newline, or
// with zero bytes, which JSON never holds. The next Open or Append cuts it off.
//
// Several processes may append to one file; flock(2) keeps them apart.
package journal

import (
	"encoding/json"
	"errors"
	"time"
)

// MaxLine bounds a line, in bytes with its newline.
const MaxLine = 1 << 20

// Errors of this package, wrapped.
var (
	// ErrTampered: a line is not what the chain says, or is no entry. The message names the line.
	ErrTampered = errors.New("journal has been changed")
	// ErrTooLarge: an entry would be longer than MaxLine.
	ErrTooLarge = errors.New("journal entry too large")
)

// Entry is a line of the journal.
type Entry struct {
	Seq  uint64          `json:"seq"`  // 1 and up, without gaps
	Time time.Time       `json:"time"` // as the writer was told, RFC 3339 in UTC
	Prev string          `json:"prev"` // SHA-256 of the line before, in hexadecimal
	Kind string          `json:"kind"` // such as accept-stale
	Who  Who             `json:"who"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Who is whoever did it, as far as the host knows.
type Who struct {
	UID      int    `json:"uid"`
	SudoUser string `json:"sudo_user,omitempty"` // $SUDO_USER
	SSH      string `json:"ssh,omitempty"`       // $SSH_CONNECTION: client address and port, server address and port
}

// Head says where a journal ends.
type Head struct {
	Seq  uint64    // of the last entry; 0 in an empty journal
	Time time.Time // of the last entry
	Hash string    // SHA-256 of the last line, in hexadecimal
	Size int64     // of all whole lines, in bytes
	Torn int64     // bytes of a torn line after them
}
