package fetch

import "time"

// Report says what came from where.
type Report struct {
	// Reused is what was on this host already, in bytes.
	Reused  int64          `json:"reused"`
	Sources []SourceReport `json:"sources"`
}

// SourceReport is what one source did.
type SourceReport struct {
	URL    string `json:"url"`
	Bytes  int64  `json:"bytes"`  // that were right and used
	Pieces int    `json:"pieces"` // likewise
	Wasted int64  `json:"wasted"` // bytes that were wrong, or came too late
	// State is "used", "unused", "slow" (others came first), "down" (it failed too often in a row), "missing" (it
	// does not have what was asked for), "dropped" (it gave wrong bytes, or is another
	// server than was meant).
	State string `json:"state"`
	Error string `json:"error,omitempty"` // the last one
}

// Progress is how far a fetch is.
type Progress struct {
	Done, Total int64         // bytes as they travel; Total is 0 where it is not known
	Reused      int64         // of Done, what was on this host already
	Rate        float64       // bytes per second over the last seconds
	Left        time.Duration // to the end at this rate; 0 where it is not known
	Source      string        // where the last bytes came from
	WaitingFor  string        // process that fetches the same, while this one waits
}

// meter turns bytes into a Progress.
type meter struct {
	tell   func(Progress)
	p      Progress
	recent [8]struct {
		at   time.Time
		done int64
	}
	n int
}

// add counts bytes that came.
func (m *meter) add(now time.Time, n int64, source string, reused bool) {
	m.p.Done += n
	m.p.Source = source
	if reused {
		m.p.Reused += n
	}
	// Each slot of the ring is half a second.
	last := &m.recent[m.n%len(m.recent)]
	if now.Sub(last.at) >= time.Second/2 {
		m.n++
		m.recent[m.n%len(m.recent)] = struct {
			at   time.Time
			done int64
		}{now, m.p.Done - m.p.Reused}
	}
	oldest := m.recent[(m.n+1)%len(m.recent)]
	if oldest.at.IsZero() {
		oldest = m.recent[1]
	}
	if d := now.Sub(oldest.at).Seconds(); d > 0 && !oldest.at.IsZero() {
		m.p.Rate = float64(m.p.Done-m.p.Reused-oldest.done) / d
	}
	m.p.Left = 0
	if m.p.Rate > 0 && m.p.Total > m.p.Done {
		m.p.Left = time.Duration(float64(m.p.Total-m.p.Done) / m.p.Rate * float64(time.Second)).Round(time.Second)
	}
	if m.tell != nil {
		m.tell(m.p)
	}
}

// waiting says that another process does the work.
func (m *meter) waiting(pid string) {
	if m.tell != nil {
		p := m.p
		p.WaitingFor = pid
		m.tell(p)
	}
}
