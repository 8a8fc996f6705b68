package journal

import (
	"fmt"
	"sync"
	"time"
)

// maxGroup bounds how many entries wait for the disk together, and their data in bytes.
const (
	maxGroup     = 512
	maxGroupData = 8 << 20
)

// Group lets many goroutines append at once: those that come while the disk is busy are written together, and wait for it
// once. Each still returns only when its own entry is on disk.
type Group struct {
	journal *Journal

	mu      sync.Mutex
	waiting []*waiter
	busy    bool
}

type waiter struct {
	entry Entry
	err   error
	done  chan struct{} // closed when entry and err are there
	lead  chan struct{} // closed when this one is to write for all
}

// NewGroup appends to an open journal, which stays the caller's to close.
func NewGroup(j *Journal) *Group { return &Group{journal: j} }

// Append is Journal.Append. Where the disk is full, everybody who waits gets the error.
func (g *Group) Append(now time.Time, kind string, who Who, data any) (Entry, error) {
	e, err := newEntry(now, kind, who, data)
	if err != nil {
		return e, err
	}
	// One that is too large must not spoil it for the others. The rest of a line is less than 64 KiB.
	if len(e.Data) > MaxLine-64<<10 {
		return e, fmt.Errorf("appending %s to journal: %w: %d bytes of data", kind, ErrTooLarge, len(e.Data))
	}
	w := &waiter{entry: e, done: make(chan struct{}), lead: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	if !g.busy {
		g.busy = true
		close(w.lead)
	}
	g.mu.Unlock()
	select {
	case <-w.done:
	case <-w.lead:
		g.write()
	}
	return w.entry, w.err
}

// write puts everybody who waits on disk, the caller among them, and makes one of those who came meanwhile the next
// to write.
func (g *Group) write() {
	g.mu.Lock()
	n, size := 0, 0
	for n < len(g.waiting) && n < maxGroup && size < maxGroupData {
		size += len(g.waiting[n].entry.Data)
		n++
	}
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	g.mu.Unlock()
	entries := make([]Entry, n)
	for i, w := range batch {
		entries[i] = w.entry
	}
	err := g.journal.appendAll(entries)
	if err != nil {
		err = fmt.Errorf("appending %d entries to journal %s: %w", n, g.journal.file.Name(), err)
	}
	for i, w := range batch {
		w.entry, w.err = entries[i], err
		close(w.done)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 {
		close(g.waiting[0].lead)
		return
	}
	g.busy = false
}
