package names

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// frozenTTL is the TTL of answers that stand in for upstream's (RFC 8767, section 4), so that clients soon ask again.
const frozenTTL = 30

// reasonSize bounds the text of an extended error.
const reasonSize = 200

// worker is what answering one query needs, besides the buffer.
type worker struct {
	q query
	w reply
}

// A buffer holds the largest message, with its length in front as over TCP.
type buffer [2 + dns.MaxMsgSize]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

var workers = sync.Pool{New: func() any { return new(worker) }}

// ask has a query answered that upstream has a say in, from a goroutine of its own. send is called at most once, with an
// answer that is not empty and gone once it returns.
func (s *Server) ask(ctx context.Context, msg []byte, tcp bool, send func([]byte, *query, verdict)) {
	answer := func(overload bool) {
		j := workers.Get().(*worker)
		defer workers.Put(j)
		if j.q.parse(msg, tcp) == dns.RcodeSuccess {
			s.knowing(ctx, j, overload, send)
		}
	}
	select {
	case s.pending <- struct{}{}:
	default:
		// So many wait that upstream can be taken for dead.
		s.counts.add(countOverload, 1)
		answer(true)
		return
	}
	s.waiting.Go(func() {
		defer func() { <-s.pending }()
		answer(false)
	})
}

// errOverload: upstream was not asked.
var errOverload = errors.New("too many queries wait for upstream")

// knowing answers a query from upstream if what it says holds against the data, else from the data. The buffer is
// held only while it is written, not while upstream is waited for.
func (s *Server) knowing(ctx context.Context, j *worker, overload bool, send func([]byte, *query, verdict)) {
	q, set := &j.q, s.set.Load()
	err := errOverload
	var m *dns.Msg
	if !overload {
		out := s.known(set, j)
		limit := s.o.Timeout
		if out == unknown || out == referral {
			limit *= 4
		}
		m, err = s.up.ask(ctx, q, limit, func(m *dns.Msg) bool { return credible(m, q.typ, out) })
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	var v verdict
	if err == nil {
		v = s.relay(m, q, b[:])
	} else {
		v = s.standIn(set, j, b[:], err)
	}
	s.counts.query(&v)
	send(b[:v.n], q, v)
}

// known is what the data says to a question.
func (s *Server) known(set *Set, j *worker) outcome {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	out, _ := s.local(set, &j.q, &j.w, b[:], 0)
	return out
}

// standIn answers from the data because upstream did not.
func (s *Server) standIn(set *Set, j *worker, buf []byte, err error) verdict {
	q, w := &j.q, &j.w
	out, from := s.local(set, q, w, buf, 6+reasonSize)
	reason := reason(err)
	if out != unknown && out != referral {
		rcode, code := out.rcode(), dns.ExtendedErrorCodeStaleAnswer
		if out == noName {
			code = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
		}
		if from == fromData {
			from = fromFrozen
		}
		w.aa = false
		w.lowerTTL(q)
		text := fmt.Sprintf("frozen%s; %s", set.age(q.asked(), time.Now()), reason)
		n := w.finish(q, rcode, true, extendedError{code, text[:min(len(text), reasonSize)], true})
		return verdict{n: n, rcode: rcode, from: from}
	}
	s.missing.add(q)
	w.begin(q, buf, 0)
	w.aa = false
	n := w.finish(q, dns.RcodeServerFailure, true, extendedError{dns.ExtendedErrorCodeNoReachableAuthority, reason, true})
	return verdict{n: n, rcode: dns.RcodeServerFailure, from: fromNothing}
}

// credible says whether upstream's answer holds against what the data says. A denial of what the data knows does not.
func credible(m *dns.Msg, typ uint16, out outcome) bool {
	denied := m.Rcode == dns.RcodeNameError
	if !denied && typ != dns.TypeANY {
		denied = true
		for _, rr := range m.Answer {
			if rr.Header().Rrtype == typ {
				denied = false
				break
			}
		}
	}
	switch out {
	case positive:
		return !denied
	case noData:
		return m.Rcode != dns.RcodeNameError
	case unknown, noName, referral, tooLong:
	}
	return true
}

// relay makes upstream's message an answer to the client's question.
func (s *Server) relay(m *dns.Msg, q *query, buf []byte) verdict {
	asked := textName(q.wire[:q.n])
	own := func(records []dns.RR) {
		for _, rr := range records {
			if h := rr.Header(); strings.EqualFold(h.Name, asked) {
				h.Name = asked
			}
		}
	}
	own(m.Answer)
	own(m.Ns)
	var ede []dns.EDNS0
	if o := m.IsEdns0(); o != nil {
		for _, opt := range o.Option {
			if opt.Option() == dns.EDNS0EDE {
				ede = append(ede, opt)
			}
		}
	}
	m.Extra = deleteOPT(m.Extra)
	m.Question[0].Name = asked
	m.Id = q.id
	m.RecursionDesired = q.flags&bitRD != 0
	m.CheckingDisabled = q.flags&bitCD != 0
	m.RecursionAvailable = true
	m.AuthenticatedData = false // nothing was validated here
	m.Authoritative = false
	if q.edns {
		m.SetEdns0(udpSize, q.do)
		o := m.IsEdns0()
		o.Option = ede
	}
	m.Compress = true
	m.Truncate(q.size)
	raw, err := m.PackBuffer(buf)
	if err != nil || len(raw) > len(buf) {
		var w reply
		w.begin(q, buf, 0)
		w.aa = false
		return verdict{n: w.finish(q, dns.RcodeServerFailure, true, extendedError{}), rcode: dns.RcodeServerFailure, from: fromNothing}
	}
	return verdict{n: copy(buf, raw), rcode: m.Rcode, from: fromUpstream}
}

func deleteOPT(records []dns.RR) []dns.RR {
	var kept []dns.RR
	for _, rr := range records {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// lowerTTL caps the TTLs of an answer that is already written.
func (w *reply) lowerTTL(q *query) {
	off := headerSize + len(q.wire)
	for off < w.n {
		fixed, end, _ := skipRecord(w.buf[:w.n], off)
		if end == 0 {
			return
		}
		if w.buf[fixed+4] != 0 || w.buf[fixed+5] != 0 || w.buf[fixed+6] != 0 || w.buf[fixed+7] > frozenTTL {
			copy(w.buf[fixed+4:], []byte{0, 0, 0, frozenTTL})
		}
		off = end
	}
}

// age says when a name was observed, for people: " 2026-03-01T12:00:00Z, 3d4h ago".
func (s *Set) age(name []byte, now time.Time) string {
	seen := uint32(0)
	if n := s.find(name); n != nil && n.observed != 0 {
		seen = n.observed
	} else if s != nil {
		seen = s.oldest
	}
	if seen == 0 {
		return ""
	}
	t := time.Unix(int64(seen), 0).UTC()
	text := " " + t.Format(time.RFC3339)
	if d := now.Sub(t); d >= 0 { // else this host's clock is wrong
		text += ", " + ageText(d) + " ago"
	}
	return text
}

// ageText is a duration in its two largest units.
func ageText(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s >= 86400:
		return fmt.Sprintf("%dd%dh", s/86400, s%86400/3600)
	case s >= 3600:
		return fmt.Sprintf("%dh%dm", s/3600, s%3600/60)
	case s >= 60:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	}
	return fmt.Sprintf("%ds", s)
}
