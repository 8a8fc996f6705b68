package names

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"
)

// Files are the files that data was loaded from, and what they looked like then.
type Files struct {
	paths []string
	seen  []glance
}

// Look notes what files look like. It comes before they are loaded, so that no change goes unnoticed.
func Look(paths ...string) Files { return Files{paths, look(paths)} }

// Follow loads the data again when one of the files has changed, seen every so often and once the change has come to
// rest, and whenever something is received from again (SIGHUP, say), until the context ends. report gets the new Set,
// or the error because of which the Server keeps the data it has; it may be nil.
func (s *Server) Follow(ctx context.Context, f Files, every time.Duration, again <-chan os.Signal, load func() (*Set, error), report func(*Set, error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	files, loaded := f.paths, f.seen
	last := loaded
	for {
		select {
		case <-ctx.Done():
			return
		case <-again:
			last = look(files)
		case <-tick.C:
			now := look(files)
			settled := slices.Equal(now, last)
			last = now
			if !settled || slices.Equal(now, loaded) {
				continue
			}
		}
		loaded = last
		set, err := load()
		if err == nil && (set == nil || set.Names() == 0) {
			err = ErrNoNames
		}
		if err == nil {
			s.Swap(set)
		} else {
			set, err = nil, fmt.Errorf("loading names again, the old ones stay: %w", err)
		}
		if report != nil {
			report(set, err)
		}
	}
}

// A glance is what a file looks like from outside.
type glance struct {
	size    int64
	changed time.Time
	missing bool
}

func look(files []string) []glance {
	seen := make([]glance, 0, len(files))
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			seen = append(seen, glance{missing: true})
			continue
		}
		seen = append(seen, glance{size: st.Size(), changed: st.ModTime()})
	}
	return seen
}
