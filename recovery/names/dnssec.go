package names

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// sortNSEC keeps the names of a signed zone that have NSEC records in canonical order, for proofs of what is not
// there. Signatures and proofs are passed on as they are in the data; nothing is signed or validated here.
func (s *Set) sortNSEC() {
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.zone == 0 || n.flags&isOccluded != 0 {
			continue
		}
		if set, _ := s.set(n, dns.TypeNSEC, 0); set.count > 0 {
			if s.nsec == nil {
				s.nsec = map[uint32][]uint32{}
			}
			s.nsec[n.zone] = append(s.nsec[n.zone], uint32(i))
		}
	}
	for _, list := range s.nsec {
		slices.SortFunc(list, func(a, b uint32) int {
			x, _ := s.entry(&s.nodes[a])
			y, _ := s.entry(&s.nodes[b])
			return canonical(x, y)
		})
	}
}

// canonical compares names in lower case in canonical order (RFC 4034, section 6.1).
func canonical(a, b []byte) int {
	var at, bt [128]uint8 // where labels begin
	i, j := starts(a, &at), starts(b, &bt)
	for i > 0 && j > 0 {
		i, j = i-1, j-1
		x, y := a[at[i]:], b[bt[j]:]
		if c := bytes.Compare(x[1:1+x[0]], y[1:1+y[0]]); c != 0 {
			return c
		}
	}
	return i - j
}

func starts(name []byte, at *[128]uint8) int {
	n := 0
	for off := 0; name[off] != 0; off += 1 + int(name[off]) {
		at[n] = uint8(off)
		n++
	}
	return n
}

// before is the name with an NSEC record that is the name asked for or the last one before it.
func (s *Set) before(zone uint32, name []byte) *node {
	list := s.nsec[zone]
	at, exact := slices.BinarySearchFunc(list, name, func(i uint32, name []byte) int {
		own, _ := s.entry(&s.nodes[i])
		return canonical(own, name)
	})
	if !exact {
		if at == 0 {
			return nil // the apex is the first
		}
		at--
	}
	return &s.nodes[list[at]]
}

// prove writes the NSEC record that speaks of a name, with its signatures, unless it is the one written before.
func (s *Set) prove(zone uint32, name []byte, w *reply, already *node) *node {
	n := s.before(zone, name)
	if n == nil || n == already {
		return already
	}
	s.attach(n, dns.TypeNSEC, w)
	return n
}

// attach writes a node's records of a type and their signatures into the authority section.
func (s *Set) attach(n *node, typ uint16, w *reply) {
	own, _ := s.entry(n)
	at := w.n
	for i := range 2 {
		set, wire := s.set(n, typ, 0)
		if i == 1 {
			set, wire = s.set(n, dns.TypeRRSIG, typ)
		}
		for len(wire) > 0 {
			size := 12 + int(binary.BigEndian.Uint16(wire[10:]))
			if w.n == at {
				w.putNamed(own, wire[:size], &w.ns)
			} else {
				w.put(rrset{typ: set.typ, count: 1}, wire[:size], at, &w.ns)
			}
			wire = wire[size:]
		}
	}
}

// putNamed copies one record with its owner's name in full.
func (w *reply) putNamed(name, wire []byte, count *uint16) {
	if w.n+len(name)+len(wire)-2 > w.max {
		w.over = true
		return
	}
	w.n += copy(w.buf[w.n:], name)
	w.n += copy(w.buf[w.n:], wire[2:])
	*count++
}

// proofs writes what proves a negative answer, or an answer from a wildcard, to a client that wants to know (RFC 4035,
// section 3.1.3).
func (s *Set) proofs(out outcome, n, encloser *node, name []byte, q *query, w *reply) {
	if encloser == nil || encloser.zone == 0 {
		return
	}
	zone := encloser.zone
	if h := s.nsec3[zone]; h != nil {
		s.proofs3(h, out, n, encloser, name, q, w)
		return
	}
	if s.nsec == nil {
		return
	}
	var done *node
	if out == noData {
		own, _ := s.entry(n)
		done = s.prove(zone, own, w, done)
	}
	if out == noName || n != encloser {
		done = s.prove(zone, name, w, done)
	}
	if out == noName {
		up, _ := s.entry(encloser)
		if len(up)+2 <= maxName {
			s.prove(zone, append(append(q.wildcard[:0], 1, '*'), up...), w, done)
		}
	}
}
