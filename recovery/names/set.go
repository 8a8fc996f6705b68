package names

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"time"

	"github.com/miekg/dns"
)

// A Set is what is known of names. It never changes and may be used by any number of goroutines.
type Set struct {
	Warnings []string // what was left out of the data and why

	seed    maphash.Seed
	store   arena
	nodes   []node
	table   []uint64
	zones   []zone
	names   int
	records int
	oldest  uint32
	nsec    map[uint32][]uint32 // by zone: the nodes with NSEC records in canonical order
	nsec3   map[uint32]*hashed  // by zone
}

// Names counts the names that have records, those made for addresses included.
func (s *Set) Names() int { return s.names }

// Records counts the records.
func (s *Set) Records() int { return s.records }

// Zones lists the full zones.
func (s *Set) Zones() []string {
	var zones []string
	for _, z := range s.zones {
		if z.apex != nil && !z.partial {
			zones = append(zones, textName(z.apex))
		}
	}
	return zones
}

// Oldest says when the oldest of the names was observed; it is zero where none says.
func (s *Set) Oldest() time.Time {
	if s.oldest == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s.oldest), 0).UTC()
}

// All goes through the names that have records, in no order.
func (s *Set) All() iter.Seq2[string, []dns.RR] {
	return func(yield func(string, []dns.RR) bool) {
		for i := range s.nodes {
			name, sets := s.entry(&s.nodes[i])
			var records []dns.RR
			for len(sets) > 0 {
				set, wire, rest := cutSet(sets)
				sets = rest
				records = append(records, unpackSet(name, set, wire)...)
			}
			if len(records) > 0 && !yield(textName(name), records) {
				return
			}
		}
	}
}

// unpackSet is the records of a set; they were packed by the Builder.
func unpackSet(name []byte, set rrset, wire []byte) []dns.RR {
	msg := make([]byte, 12, 12+len(name)+len(wire))
	msg = append(msg, name...)
	off := len(msg)
	msg = append(msg, wire...)
	records := make([]dns.RR, 0, set.count)
	for off < len(msg) {
		rr, next, err := dns.UnpackRR(msg, off)
		if err != nil {
			return records
		}
		records = append(records, rr)
		off = next
	}
	return records
}

// find returns a name's node, or nil. The name is in lower case.
func (s *Set) find(name []byte) *node {
	if s == nil {
		return nil
	}
	h := maphash.Bytes(s.seed, name)
	mask := uint64(len(s.table) - 1)
	for slot := h & mask; s.table[slot] != 0; slot = (slot + 1) & mask {
		if s.table[slot]>>32 != h>>32 {
			continue
		}
		n := &s.nodes[uint32(s.table[slot])-1]
		e := s.store.at(n.name)
		if bytes.Equal(e[1:1+int(e[0])], name) {
			return n
		}
	}
	return nil
}

// entry returns a node's name and its sets.
func (s *Set) entry(n *node) (name, sets []byte) {
	e := s.store.at(n.name)
	p := 1 + int(e[0])
	name = e[1:p]
	count := int(binary.LittleEndian.Uint16(e[p:]))
	p += 2
	end := p
	for range count {
		end += 8 + int(binary.LittleEndian.Uint16(e[end+6:]))
	}
	return name, e[p:end]
}

// cutSet takes the first of several sets.
func cutSet(sets []byte) (set rrset, wire, rest []byte) {
	set = rrset{
		typ:     binary.LittleEndian.Uint16(sets),
		covered: binary.LittleEndian.Uint16(sets[2:]),
		count:   int(binary.LittleEndian.Uint16(sets[4:])),
		size:    int(binary.LittleEndian.Uint16(sets[6:])),
	}
	return set, sets[8 : 8+set.size], sets[8+set.size:]
}

// set returns a node's set of a type.
func (s *Set) set(n *node, typ, covered uint16) (set rrset, wire []byte) {
	_, sets := s.entry(n)
	for len(sets) > 0 {
		set, wire, sets = cutSet(sets)
		if set.typ == typ && set.covered == covered {
			return set, wire
		}
	}
	return rrset{}, nil
}

// empty says whether a node has no records.
func (s *Set) empty(n *node) bool {
	e := s.store.at(n.name)
	return binary.LittleEndian.Uint16(e[1+int(e[0]):]) == 0
}
