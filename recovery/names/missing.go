package names

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
)

// maxMissing bounds the names kept of those that could not be answered.
const maxMissing = 4096

// missing counts names that could not be answered. When it is full, a rare one makes room for a new one.
type missing struct {
	mu    sync.Mutex
	count map[string]*uint64 // by name in wire format and type
}

// Missed is a name that was asked for and could not be answered.
type Missed struct {
	Name  string
	Type  string
	Count uint64 // at least so often
}

// add counts a question. Under a flood some are not counted, so that nobody waits here.
func (m *missing) add(q *query) {
	if !m.mu.TryLock() {
		return
	}
	defer m.mu.Unlock()
	if m.count == nil {
		m.count = map[string]*uint64{}
	}
	k := binary.BigEndian.AppendUint16(q.name[:q.n:q.n+2], q.typ)
	if c, ok := m.count[string(k)]; ok {
		*c++
		return
	}
	if len(m.count) >= maxMissing {
		// The rarest of a few goes: a map's order is random.
		rarest, least, tries := "", ^uint64(0), 8
		for k, c := range m.count {
			if *c < least {
				rarest, least = k, *c
			}
			if tries--; tries == 0 {
				break
			}
		}
		delete(m.count, rarest)
	}
	one := uint64(1)
	m.count[string(k)] = &one
}

// Missing lists the names that neither the data nor upstream could answer, the most wanted first.
func (s *Server) Missing() []Missed {
	s.missing.mu.Lock()
	list := make([]Missed, 0, len(s.missing.count))
	for k, c := range s.missing.count {
		list = append(list, Missed{textName([]byte(k[:len(k)-2])), typeName(binary.BigEndian.Uint16([]byte(k[len(k)-2:]))), *c})
	}
	s.missing.mu.Unlock()
	slices.SortFunc(list, func(a, b Missed) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Type, b.Type))
	})
	return list
}

// WriteMissing writes names as ParseNames reads them, so that they can be frozen for the next time.
func WriteMissing(w io.Writer, list []Missed) error {
	b := bufio.NewWriter(w)
	for _, m := range list {
		fmt.Fprintf(b, "%s\t# %s, asked for %d times\n", m.Name, m.Type, m.Count)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing the list of missing names: %w", err)
	}
	return nil
}
