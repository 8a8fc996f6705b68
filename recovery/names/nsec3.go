package names

import (
	"bytes"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

const (
	// maxIterations bounds the work for one proof. Validators take a zone with more for an unsigned one (RFC 9276,
	// section 3.2).
	maxIterations = 150
	// hashText is the length of a hash as the first label of an NSEC3 record's name.
	hashText = sha1.Size * 8 / 5
)

// hashed are the NSEC3 records of a zone (RFC 5155).
type hashed struct {
	apex       []byte
	salt       []byte
	iterations int
	nodes      []uint32 // by hash
}

var lowerHex = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// sortNSEC3 keeps the NSEC3 records of zones that have them in the order of their hashes, for proofs of what is not
// there, and takes names that have nothing else out of those that can be asked for.
func (s *Set) sortNSEC3() {
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.zone == 0 || n.flags&isOccluded != 0 {
			continue
		}
		set, wire := s.set(n, dns.TypeNSEC3, 0)
		if set.count == 0 {
			continue
		}
		if s.proofAlone(n) {
			n.flags |= isProof
		}
		h := s.chain(n.zone)
		if own, _ := s.entry(n); h != nil && len(own) == 1+hashText+len(h.apex) && h.made(wire) {
			h.nodes = append(h.nodes, uint32(i))
		}
	}
	for _, h := range s.nsec3 {
		slices.SortFunc(h.nodes, func(a, b uint32) int {
			x, _ := s.entry(&s.nodes[a])
			y, _ := s.entry(&s.nodes[b])
			return bytes.Compare(x, y)
		})
		if h.iterations > maxIterations {
			s.Warnings = append(s.Warnings, fmt.Sprintf("zone %s has NSEC3 records with %d iterations; what it denies goes without proof", textName(h.apex), h.iterations))
			h.nodes = nil
		}
	}
}

// proofAlone says whether a node has nothing but NSEC3 records and their signatures.
func (s *Set) proofAlone(n *node) bool {
	_, sets := s.entry(n)
	for len(sets) > 0 {
		set, _, rest := cutSet(sets)
		if sets = rest; set.typ != dns.TypeNSEC3 && set.covered != dns.TypeNSEC3 {
			return false
		}
	}
	return true
}

// chain is what a zone's NSEC3PARAM record says (RFC 5155, section 4), or nil.
func (s *Set) chain(zone uint32) *hashed {
	if h, ok := s.nsec3[zone]; ok {
		return h
	}
	var h *hashed
	if apex := s.find(s.zones[zone].apex); apex != nil {
		_, wire := s.set(apex, dns.TypeNSEC3PARAM, 0)
		for len(wire) > 0 && h == nil {
			size := 12 + int(binary.BigEndian.Uint16(wire[10:]))
			data := wire[12:size]
			wire = wire[size:]
			if len(data) >= 5 && data[0] == dns.SHA1 && data[1] == 0 && len(data) == 5+int(data[4]) {
				h = &hashed{apex: s.zones[zone].apex, salt: data[5:], iterations: int(binary.BigEndian.Uint16(data[2:]))}
			}
		}
	}
	if s.nsec3 == nil {
		s.nsec3 = map[uint32]*hashed{}
	}
	s.nsec3[zone] = h
	return h
}

// made says whether an NSEC3 record belongs to the chain.
func (h *hashed) made(wire []byte) bool {
	data := wire[12:]
	return len(data) >= 5+len(h.salt) && data[0] == dns.SHA1 && int(binary.BigEndian.Uint16(data[2:])) == h.iterations &&
		int(data[4]) == len(h.salt) && bytes.Equal(data[5:5+len(h.salt)], h.salt)
}

// hash is a name's hash as the first label has it (RFC 5155, section 5).
func (h *hashed) hash(name []byte) (text [hashText]byte) {
	var buf [maxName + 255]byte
	sum := sha1.Sum(append(append(buf[:0], name...), h.salt...))
	for range h.iterations {
		sum = sha1.Sum(append(append(buf[:0], sum[:]...), h.salt...))
	}
	lowerHex.Encode(text[:], sum[:])
	return text
}

// speaks is the node whose NSEC3 record matches a name, with exact, or covers it.
func (s *Set) speaks(h *hashed, name []byte) (n *node, exact bool) {
	if len(h.nodes) == 0 {
		return nil, false
	}
	text := h.hash(name)
	at, exact := slices.BinarySearchFunc(h.nodes, text, func(i uint32, text [hashText]byte) int {
		own, _ := s.entry(&s.nodes[i])
		return bytes.Compare(own[1:1+hashText], text[:])
	})
	if !exact {
		at = (at + len(h.nodes) - 1) % len(h.nodes) // before the first is the last
	}
	return &s.nodes[h.nodes[at]], exact
}

// proofs3 writes the NSEC3 records for an answer (RFC 5155, sections 7.2.2 to 7.2.7). encloser is a name at or above
// the one asked for, and the names in between are not there.
func (s *Set) proofs3(h *hashed, out outcome, n, encloser *node, name []byte, q *query, w *reply) {
	p := proof{set: s, w: w}
	above, _ := s.entry(encloser)
	switch {
	case out == positive:
		p.cover(h, nextCloser(name, above))
	case out == noName:
		above = p.enclose(h, name, above)
		if len(above)+2 <= maxName {
			p.cover(h, append(append(q.wildcard[:0], 1, '*'), above...))
		}
	case n != encloser:
		p.enclose(h, name, above)
		own, _ := s.entry(n)
		p.match(h, own)
	case !p.match(h, name) && name[0] != 0:
		// Left out of the chain because it leads to unsigned delegations alone (RFC 5155, section 6).
		p.enclose(h, name, parent(name))
	}
}

// nextCloser is the name one label longer than the one above.
func nextCloser(name, above []byte) []byte {
	for {
		up := parent(name)
		if len(up) <= len(above) {
			return name
		}
		name = up
	}
}

// A proof is what has been written of one answer's NSEC3 records; each is written once.
type proof struct {
	set  *Set
	w    *reply
	done [4]*node
	n    int
}

// enclose proves which is the closest name above one that is there, from some name upwards, and returns it.
func (p *proof) enclose(h *hashed, name, above []byte) []byte {
	for len(above) > len(h.apex) {
		if _, exact := p.set.speaks(h, above); exact {
			break
		}
		above = parent(above)
	}
	p.match(h, above)
	p.cover(h, nextCloser(name, above))
	return above
}

func (p *proof) match(h *hashed, name []byte) bool {
	n, exact := p.set.speaks(h, name)
	if exact {
		p.add(n)
	}
	return exact
}

func (p *proof) cover(h *hashed, name []byte) {
	if n, exact := p.set.speaks(h, name); n != nil && !exact {
		p.add(n)
	}
}

func (p *proof) add(n *node) {
	if p.n == len(p.done) || slices.Contains(p.done[:p.n], n) {
		return
	}
	p.done[p.n] = n
	p.n++
	p.set.attach(n, dns.TypeNSEC3, p.w)
}
