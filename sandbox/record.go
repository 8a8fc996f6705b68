package sandbox

import (
	"bufio"
	"container/list"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrIncomplete is wrapped by every reason why a record cannot be relied on. A
// run with such a record is unresolved, whatever its command said.
var ErrIncomplete = errors.New("the record is not complete")

const (
	maxLines   = 8192    // attempts kept in memory; older ones go to the stream
	maxKnown   = 1 << 18 // destinations remembered for the comparison with packets
	maxReasons = 20      // differences and losses listed
	maxFlows   = 256     // connections of one destination told apart
	settle     = 5 * time.Second
)

// Record collects attempts from every source into one entry per process,
// destination and verdict. All methods may be called from any goroutine.
//
// The sources meet like this. A system call ([FromSyscall]) counts an attempt
// that is still open. A dark packet or a relay's report ([FromPacket],
// [FromRelay]) settles one open attempt at the same destination, as Blocked or
// Allowed. What nobody settled stayed Inside. So a system call must be added
// before it is let go, and everything else after.
type Record struct {
	mu     sync.Mutex
	stream *bufio.Writer // nil: nothing is written
	err    error         // the first error of the stream
	seed   maphash.Seed
	nextID int

	procs   map[procKey]*attempts
	dests   map[destKey]*destination
	recent  *list.List // of *attempts, the least recently seen first
	lines   int
	known   map[uint64]struct{}
	reasons []string
	more    int // reasons beyond maxReasons
	blind   bool
}

type destKey struct {
	host  int
	proto string
	dest  string
}

// raw is the key under which a raw socket's sendto to the same address counts.
func (k destKey) raw() destKey {
	ip, err := netip.ParseAddrPort(k.dest)
	if err == nil {
		k.dest = ip.Addr().String()
	}
	k.proto = protoRaw
	return k
}

type procKey struct {
	destKey
	pid int // the host's
	exe string
}

// attempts is one process at one destination: at most one line per verdict, the
// open one under "".
type attempts struct {
	key     procKey
	lines   map[Verdict]*line
	element *list.Element
}

type line struct {
	Attempt
	dirty   bool
	written bool
}

// destination knows who tried it, the latest last.
type destination struct {
	by    []*attempts
	flows map[uint64]*attempts
}

// NewRecord makes an empty record. Flush appends changed entries to stream as
// JSON lines; nil means that nothing is written.
func NewRecord(stream io.Writer) *Record {
	r := &Record{
		seed: maphash.MakeSeed(), recent: list.New(),
		procs: map[procKey]*attempts{}, dests: map[destKey]*destination{}, known: map[uint64]struct{}{},
	}
	if stream != nil {
		r.stream = bufio.NewWriterSize(stream, 64<<10)
	}
	return r
}

// Add takes one observation. It must carry Proto, Destination, Host, First and
// one source. Count is how many attempts it stands for: 1, or 0 for news of an
// attempt added before (bytes carried, an outcome). Verdict may be empty for a
// system call that nobody has judged yet.
func (r *Record) Add(a Attempt) {
	if a.Last.IsZero() {
		a.Last = a.First
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Proto == protoUnknown {
		r.lose(string(a.source()) + ": " + a.Detail)
		return
	}
	key := destKey{a.Host, a.Proto, a.Destination}
	var p *attempts
	switch source := a.source(); {
	case a.via[1] != "":
		var exe string
		var pid int
		if by := r.who(destKey{a.Host, a.via[0], a.via[1]}, 0, false); by != nil {
			l := by.any()
			a.PID, a.HostPID, a.Executable, a.Command, a.Container = l.PID, l.HostPID, l.Executable, l.Command, l.Container
			pid, exe = l.HostPID, l.Executable
		}
		p = r.at(procKey{key, pid, exe})
	case source == FromSyscall:
		p = r.at(procKey{key, a.HostPID, a.Executable})
		r.know(key)
	default:
		if source == FromPacket && a.Verdict == "" {
			a.Count = 0
		}
		p = r.who(key, a.flow, source == FromRelay && a.Count == 0)
		if p == nil && source == FromPacket {
			p = r.who(key.raw(), 0, false) // a raw socket writes its own headers
		}
		if p == nil {
			if source == FromPacket && (a.Verdict == Blocked || r.isKnown(key)) {
				return // reported when it left its program, or written already
			}
			p = r.at(procKey{destKey: key})
		}
		if d := r.dests[p.key.destKey]; a.flow != 0 && a.Verdict == Blocked {
			if d.flows[a.flow] == p {
				a.Count = 0
			} else if len(d.flows) >= maxFlows {
				clear(d.flows)
			}
			d.flows[a.flow] = p
		}
		a = p.settle(a, source)
	}
	r.recent.MoveToBack(p.element)
	r.merge(p, a)
	r.spill()
}

func (a Attempt) source() Source {
	if len(a.Sources) == 0 {
		return ""
	}
	return a.Sources[0]
}

// settle turns an observation about a destination into what is to be merged
// into one process's entry, and takes the attempt from the open ones.
func (p *attempts) settle(a Attempt, source Source) Attempt {
	open := p.lines[""]
	if source == FromPacket && a.Verdict == "" {
		// Something left its program; whether it arrives is not known yet.
		for _, v := range []Verdict{"", Allowed, Inside, Blocked} {
			if p.lines[v] != nil {
				a.Verdict = v
				break
			}
		}
		return a
	}
	if a.Count == 0 {
		return a
	}
	if open == nil || open.Count == 0 {
		// The system call was judged when it was made, or was not seen.
		if l := p.lines[a.Verdict]; l != nil {
			a.Count = 0
		} else if other := p.any(); other != nil && len(p.lines) > 0 {
			a.PID, a.HostPID, a.Executable, a.Command, a.Container = other.PID, other.HostPID, other.Executable, other.Command, other.Container
		}
		return a
	}
	open.Count--
	open.dirty = true
	a.Count, a.First = 1, later(open.First, a.First, open.Count > 0)
	a.PID, a.HostPID, a.Executable, a.Command, a.Container = open.PID, open.HostPID, open.Executable, open.Command, open.Container
	a.Sources = append(slices.Clone(open.Sources), a.Sources...)
	a.Packets, open.Packets = a.Packets+open.Packets, 0
	return a
}

func later(open, seen time.Time, more bool) time.Time {
	if more {
		return seen
	}
	return open
}

// who finds the process behind something seen at a destination: the one whose
// flow it was, else the latest with an open attempt, else the latest.
func (r *Record) who(k destKey, flow uint64, settled bool) *attempts {
	d := r.dests[k]
	if d == nil || len(d.by) == 0 {
		return nil
	}
	if p := d.flows[flow]; p != nil && flow != 0 {
		return p
	}
	p := d.by[len(d.by)-1]
	for i := len(d.by) - 1; i >= max(0, len(d.by)-64); i-- {
		l := d.by[i].lines[""]
		if settled {
			l = d.by[i].lines[Allowed]
		}
		if l != nil && l.Count > 0 {
			p = d.by[i]
			break
		}
	}
	return p
}

func (r *Record) at(k procKey) *attempts {
	p := r.procs[k]
	d := r.dests[k.destKey]
	if d == nil {
		d = &destination{flows: map[uint64]*attempts{}}
		r.dests[k.destKey] = d
	}
	if p == nil {
		p = &attempts{key: k, lines: map[Verdict]*line{}}
		p.element = r.recent.PushBack(p)
		r.procs[k] = p
	} else if n := len(d.by); d.by[n-1] != p {
		d.by = slices.DeleteFunc(d.by, func(o *attempts) bool { return o == p })
	} else {
		return p
	}
	d.by = append(d.by, p)
	return p
}

func (p *attempts) any() *line {
	for _, l := range p.lines {
		return l
	}
	return &line{}
}

// merge adds an observation to its line.
func (r *Record) merge(p *attempts, a Attempt) {
	l := p.lines[a.Verdict]
	if l == nil {
		r.nextID++
		l = &line{Attempt: a}
		l.Proto, l.Destination = p.key.proto, p.key.dest
		l.ID, l.Count, l.Sent, l.Received, l.Packets, l.Sources = r.nextID, 0, 0, 0, 0, nil
		p.lines[a.Verdict] = l
		r.lines++
	}
	l.dirty = true
	l.Count += a.Count
	l.Sent += a.Sent
	l.Received += a.Received
	l.Packets += a.Packets
	if a.First.Before(l.First) {
		l.First = a.First
	}
	if a.Last.After(l.Last) {
		l.Last = a.Last
	}
	for _, s := range a.Sources {
		if !slices.Contains(l.Sources, s) {
			l.Sources = append(l.Sources, s)
		}
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&l.Name, a.Name}, {&l.Capability, a.Capability}, {&l.Detail, a.Detail}} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if a.Outcome != "" {
		l.Outcome = a.Outcome
	}
}

// spill writes and forgets the least recently seen, so that memory is bounded.
func (r *Record) spill() {
	for r.lines > maxLines {
		p := r.recent.Remove(r.recent.Front()).(*attempts)
		if r.stream == nil {
			r.lose("more attempts than fit in memory, and no file to write them to")
		}
		for _, l := range p.lines {
			r.write(l)
		}
		r.lines -= len(p.lines)
		delete(r.procs, p.key)
		d := r.dests[p.key.destKey]
		d.by = slices.DeleteFunc(d.by, func(o *attempts) bool { return o == p })
		if len(d.by) == 0 {
			delete(r.dests, p.key.destKey)
		} else {
			clear(d.flows)
		}
	}
}

func (r *Record) hash(k destKey) uint64 { return maphash.Comparable(r.seed, k) }

func (r *Record) know(k destKey) {
	if len(r.known) >= maxKnown {
		r.lose(fmt.Sprintf("more than %d destinations", maxKnown))
		return
	}
	r.known[r.hash(k)] = struct{}{}
}

func (r *Record) isKnown(k destKey) bool {
	_, ok := r.known[r.hash(k)]
	return ok
}

// Lost says that a source missed something or could not be opened; the record is
// incomplete from then on.
func (r *Record) Lost(source Source, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blind = r.blind || source == FromPacket
	r.lose(string(source) + ": " + reason)
}

func (r *Record) lose(reason string) {
	switch {
	case slices.Contains(r.reasons, reason):
	case len(r.reasons) < maxReasons:
		r.reasons = append(r.reasons, reason)
	default:
		r.more++
	}
}

// Complete compares the packets the kernel logged with the system calls that
// were seen, and says what was lost. Its errors wrap ErrIncomplete. Call it when
// every source has been read to its end.
func (r *Record) Complete() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	reasons, more := slices.Clone(r.reasons), r.more
	if r.err != nil {
		reasons = append(reasons, r.err.Error())
	}
	for p := range r.all() {
		if p.key.pid != 0 || p.key.exe != "" {
			continue
		}
		for _, l := range p.lines {
			if slices.Contains(l.Sources, FromPacket) && !slices.Contains(l.Sources, FromSyscall) && !r.isKnown(p.key.destKey) {
				if len(reasons) < maxReasons {
					reasons = append(reasons, fmt.Sprintf("a %s packet to %s came from no system call that was seen", l.Proto, l.Destination))
				} else {
					more++
				}
			}
		}
	}
	if more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	if len(reasons) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrIncomplete, strings.Join(reasons, "; "))
}

func (r *Record) all() func(yield func(*attempts) bool) {
	return func(yield func(*attempts) bool) {
		for e := r.recent.Front(); e != nil; e = e.Next() {
			if !yield(e.Value.(*attempts)) {
				return
			}
		}
	}
}

// final is a line as people get it: what is still open stayed inside, unless
// packets could not be watched and nobody can tell.
func (r *Record) final(l *line) Attempt {
	a := l.Attempt
	a.Sources = slices.Clone(a.Sources)
	if a.Verdict == "" {
		a.Verdict = Inside
		if r.blind {
			a.Verdict = Blocked
		}
	}
	if a.Verdict == Blocked && a.Outcome == "" {
		a.Outcome = Silent
	}
	return a
}

// Attempts returns the entries in memory, in the order they were first seen.
func (r *Record) Attempts() []Attempt {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Attempt
	for p := range r.all() {
		for _, l := range p.lines {
			if l.Count > 0 || l.Verdict != "" {
				out = append(out, r.final(l))
			}
		}
	}
	slices.SortFunc(out, func(a, b Attempt) int {
		if c := a.First.Compare(b.First); c != 0 {
			return c
		}
		return a.ID - b.ID
	})
	return out
}

// Flush appends every entry that changed since it was last written. Open
// attempts wait until they are a few seconds old. A line with count 0 withdraws
// an earlier line with its id.
func (r *Record) Flush(now time.Time) error { return r.flush(now.Add(-settle)) }

func (r *Record) flush(openBefore time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.all() {
		for _, l := range p.lines {
			if l.Verdict != "" || l.Last.Before(openBefore) {
				r.write(l)
			}
		}
	}
	if r.stream != nil && r.err == nil {
		r.err = r.stream.Flush()
	}
	return r.err
}

func (r *Record) write(l *line) {
	if r.stream == nil || !l.dirty || r.err != nil || (l.Verdict == "" && l.Count == 0 && !l.written) {
		return
	}
	b, err := json.Marshal(r.final(l))
	if err == nil {
		_, err = r.stream.Write(append(b, '\n'))
	}
	if err != nil {
		r.err = fmt.Errorf("writing the record: %w", err)
		return
	}
	l.dirty, l.written = false, true
}

// Close writes what is not written yet. It does not close the stream.
func (r *Record) Close() error { return r.flush(time.Unix(1<<40, 0)) }
