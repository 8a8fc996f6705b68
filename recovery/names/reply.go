package names

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// An outcome is what the data says to a question.
type outcome uint8

const (
	unknown  outcome = iota // nothing: no zone and no loose name
	positive                // records of the type asked for, or an alias that leads out of the data
	noData                  // the name is there, the type is not
	noName                  // the name is not there, and its zone is
	referral                // the zone delegates it
	tooLong                 // a DNAME record would make it a name that cannot be
)

// rcode is what an outcome is to the client.
func (o outcome) rcode() int {
	switch o {
	case noName:
		return dns.RcodeNameError
	case tooLong:
		return dns.RcodeYXDomain // RFC 6672, section 2.2
	case unknown, positive, noData, referral:
	}
	return dns.RcodeSuccess
}

// A reply is an answer as it is written: header, question, records.
type reply struct {
	buf  []byte
	n    int
	max  int // of n, before the OPT record
	ttl  uint32
	an   uint16
	ns   uint16
	ar   uint16
	aa   bool
	over bool // something did not fit
}

// asIs is the cap on TTLs that changes none.
const asIs = ^uint32(0)

// begin makes room for the header and copies the question. Reserve bytes are kept for the OPT record.
func (w *reply) begin(q *query, buf []byte, reserve int) {
	*w = reply{buf: buf, ttl: asIs, aa: true}
	w.n = headerSize + copy(buf[headerSize:], q.wire)
	w.max = min(q.size, len(buf))
	if q.edns {
		w.max -= 11 + reserve
	}
}

// put copies records whose owner's name is at an offset of the message.
func (w *reply) put(set rrset, wire []byte, owner int, count *uint16) {
	if w.n+len(wire) > w.max || owner >= 1<<14 {
		w.over = true
		return
	}
	out := w.buf[w.n : w.n+len(wire)]
	copy(out, wire)
	w.n += len(wire)
	*count += uint16(set.count)
	if owner == headerSize && w.ttl == asIs {
		return
	}
	for len(out) > 0 {
		binary.BigEndian.PutUint16(out, 0xc000|uint16(owner))
		if binary.BigEndian.Uint32(out[6:]) > w.ttl {
			binary.BigEndian.PutUint32(out[6:], w.ttl)
		}
		out = out[12+int(binary.BigEndian.Uint16(out[10:])):]
	}
}

// resolve writes what the Set says to a question.
func (s *Set) resolve(q *query, w *reply) outcome {
	name, owner := q.asked(), headerSize
	for hop := 0; ; hop++ {
		n, up, out := s.locate(name, q)
		switch {
		case out == unknown:
			if hop > 0 {
				return positive
			}
			return unknown
		case out == referral:
			if n.flags&isDNAME != 0 {
				if name, owner = s.rename(n, name, owner, q, w); name == nil {
					return tooLong
				}
				if w.over || hop == maxChain {
					return positive
				}
				continue
			}
			if hop == 0 {
				w.aa = false
			}
			s.refer(n, name, owner, q, w)
			return referral
		case out == noName:
			s.deny(s.zone(up), name, owner, q, w)
			if q.do {
				s.proofs(noName, nil, up, name, q, w)
			}
			return noName
		}
		if s.give(n, q, owner, w) {
			if q.do && n != up {
				s.proofs(positive, n, up, name, q, w)
			}
			return positive
		}
		set, wire := s.set(n, dns.TypeCNAME, 0)
		if set.count == 0 {
			s.deny(s.zone(n), name, owner, q, w)
			if q.do {
				s.proofs(noData, n, up, name, q, w)
			}
			return noData
		}
		at := w.n
		w.put(set, wire, owner, &w.an)
		if q.do {
			s.signatures(n, dns.TypeCNAME, owner, w, &w.an)
		}
		if w.over || hop == maxChain {
			return positive
		}
		owner = at + 12
		name = q.chain[:copy(q.chain[:], wire[12:])]
		lower(name)
	}
}

// locate finds the node that speaks for a name: its own, a wildcard's, with referral that of the delegation or the
// DNAME record above it, or with noName the closest one above it.
func (s *Set) locate(name []byte, q *query) (n, encloser *node, out outcome) {
	if n := s.find(name); n != nil && n.flags&isProof == 0 {
		switch {
		case n.flags&isOccluded != 0:
			return s.cut(n, name), nil, referral
		case n.flags&isCut != 0 && q.typ != dns.TypeDS:
			return n, nil, referral
		case n.zone != 0 || !s.empty(n):
			return n, n, positive
		}
	}
	for up := name; up[0] != 0; {
		up = parent(up)
		e := s.find(up)
		if e == nil || e.flags&isProof != 0 {
			continue
		}
		if e.flags&(isCut|isOccluded|isDNAME) != 0 {
			return s.cut(e, up), nil, referral
		}
		if e.flags&hasWild != 0 {
			star := append(append(q.wildcard[:0], 1, '*'), up...)
			if n := s.find(star); n != nil && (n.zone != 0 || !s.empty(n)) {
				return n, e, positive
			}
		}
		if e.zone != 0 {
			return nil, e, noName
		}
		return nil, nil, unknown
	}
	return nil, nil, unknown
}

// cut is the uppermost delegation or DNAME record at or above a node that is or has one.
func (s *Set) cut(n *node, name []byte) *node {
	top := n
	if n.zone == 0 {
		return n
	}
	for apex := s.zone(n).apex; len(name) >= len(apex); name = parent(name) {
		if e := s.find(name); e != nil && e.flags&(isCut|isDNAME) != 0 {
			top = e
		}
	}
	return top
}

func (s *Set) zone(n *node) *zone { return &s.zones[n.zone] }

// give writes the records of the type asked for and says whether there are any.
func (s *Set) give(n *node, q *query, owner int, w *reply) bool {
	switch q.typ {
	case dns.TypeANY, dns.TypeRRSIG:
	case dns.TypeNSEC3:
		return false // for proofs alone (RFC 5155, section 7.2.8)
	default:
		set, wire := s.set(n, q.typ, 0)
		if set.count == 0 {
			return false
		}
		w.put(set, wire, owner, &w.an)
		if q.do {
			s.signatures(n, q.typ, owner, w, &w.an)
		}
		return true
	}
	// All of them over TCP, the first of them over UDP (RFC 8482, sections 4.1 and 4.4).
	_, sets := s.entry(n)
	for len(sets) > 0 {
		set, wire, rest := cutSet(sets)
		sets = rest
		if q.typ == dns.TypeRRSIG && set.typ != dns.TypeRRSIG {
			continue
		}
		w.put(set, wire, owner, &w.an)
		if q.size < dns.MaxMsgSize {
			break
		}
	}
	return w.an > 0 || w.over
}

// signatures writes the signatures of a set, as they are in the data (RFC 4035, section 3.1.1).
func (s *Set) signatures(n *node, typ uint16, owner int, w *reply, count *uint16) {
	set, wire := s.set(n, dns.TypeRRSIG, typ)
	w.put(set, wire, owner, count)
}

// deny writes the SOA record that goes with a negative answer (RFC 2308, section 3).
func (s *Set) deny(z *zone, name []byte, owner int, q *query, w *reply) {
	if z.apex != nil {
		owner += len(name) - len(z.apex)
	}
	w.put(rrset{count: 1}, z.soa, owner, &w.ns)
	if !q.do || z.apex == nil {
		return
	}
	if apex := s.find(z.apex); apex != nil {
		s.signatures(apex, dns.TypeSOA, owner, w, &w.ns)
	}
}

// refer writes a delegation and the addresses of its servers.
func (s *Set) refer(cut *node, name []byte, owner int, q *query, w *reply) {
	own, _ := s.entry(cut)
	owner += len(name) - len(own)
	set, wire := s.set(cut, dns.TypeNS, 0)
	at := w.n
	w.put(set, wire, owner, &w.ns)
	if w.over {
		return
	}
	if q.do {
		set, wire := s.set(cut, dns.TypeDS, 0)
		w.put(set, wire, owner, &w.ns)
		s.signatures(cut, dns.TypeDS, owner, w, &w.ns)
		if set.count == 0 {
			s.proofs(noData, cut, cut, own, q, w)
		}
	}
	for len(wire) > 0 {
		size := int(binary.BigEndian.Uint16(wire[10:]))
		target := q.chain[:copy(q.chain[:], wire[12:12+size])]
		lower(target)
		if n := s.find(target); n != nil {
			for _, typ := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
				set, glue := s.set(n, typ, 0)
				w.put(set, glue, at+12, &w.ar)
			}
		}
		wire, at = wire[12+size:], at+12+size
	}
}
