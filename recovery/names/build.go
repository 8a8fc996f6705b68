package names

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// Build makes the Set; the Builder must not be used afterwards.
//
// Errors: ErrNoNames, ErrTooLarge.
func (b *Builder) Build() (*Set, error) {
	if b.records == 0 {
		return nil, ErrNoNames
	}
	if !b.NoPTR {
		if err := b.reverse(); err != nil {
			return nil, err
		}
	}
	b.settle()
	b.delegate()
	s := &Set{seed: b.seed, zones: b.zones}
	var scratch entry
	for i := range b.nodes {
		if err := b.write(uint32(i), s, &scratch); err != nil {
			return nil, fmt.Errorf("building the answers for %s: %w", textName(b.name(uint32(i))), err)
		}
	}
	s.table, s.nodes, s.Warnings = b.table, b.nodes, b.warn
	s.sortNSEC()
	s.sortNSEC3()
	*b = Builder{}
	return s, nil
}

// reverse adds a PTR record for every address that has none.
func (b *Builder) reverse() error {
	var name, target [maxName]byte
	for i := range uint32(len(b.nodes)) {
		own := b.name(i)
		if own[0] == 1 && own[1] == '*' {
			continue
		}
		n := copy(target[:], own)
		seen := time.Time{}
		if o := b.nodes[i].observed; o != 0 {
			seen = time.Unix(int64(o), 0)
		}
		var err error
		b.each(i, func(r raw) bool {
			if r.typ != dns.TypeA && r.typ != dns.TypeAAAA {
				return true
			}
			rev := reverseName(name[:0], r.data)
			if j, ok := b.find(rev); ok {
				have := 0
				b.each(j, func(o raw) bool {
					if bytes.Equal(o.data, target[:n]) {
						have = ptrNames
					}
					have++
					return have < ptrNames
				})
				if b.nodes[j].flags&hasPTR != 0 || have >= ptrNames {
					return true
				}
			}
			err = b.addWire(rev, dns.TypePTR, r.ttl, target[:n], 0, seen)
			// What addWire takes for data is made up here.
			j, _ := b.find(rev)
			b.nodes[j].flags &^= hasPTR
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reverseName appends the name in wire format that the PTR record of an address has.
func reverseName(name, address []byte) []byte {
	const hex = "0123456789abcdef"
	for i := len(address) - 1; i >= 0; i-- {
		c := address[i]
		if len(address) == 16 {
			name = append(name, 1, hex[c&15], 1, hex[c>>4])
			continue
		}
		at := len(name)
		name = append(name, 0)
		if c >= 100 {
			name = append(name, '0'+c/100)
		}
		if c >= 10 {
			name = append(name, '0'+c/10%10)
		}
		name = append(name, '0'+c%10)
		name[at] = byte(len(name) - at - 1)
	}
	if len(address) == 16 {
		return append(name, "\x03ip6\x04arpa\x00"...)
	}
	return append(name, "\x07in-addr\x04arpa\x00"...)
}

// settle finds the zone of each name and adds the empty names between those that have records.
func (b *Builder) settle() {
	var depths [128]bool
	for _, z := range b.zones {
		if z.apex != nil && !z.partial {
			depths[labels(z.apex)] = true
		}
	}
	for i := uint32(0); int(i) < len(b.nodes); i++ {
		name := b.name(i)
		if name[0] == 0 && b.nodes[i].flags&isApex == 0 {
			continue
		}
		for d, suffix := labels(name), name; ; d, suffix = d-1, parent(suffix) {
			if depths[d] {
				if j, ok := b.find(suffix); ok && b.nodes[j].flags&isApex != 0 {
					b.nodes[i].zone = b.nodes[j].zone
					break
				}
			}
			if d == 0 {
				break
			}
		}
		if b.nodes[i].flags&isApex == 0 && b.nodes[i].zone != 0 {
			b.node(parent(name))
		}
		if name[0] == 1 && name[1] == '*' {
			j := b.node(parent(name))
			b.nodes[j].flags |= hasWild
		}
	}
}

// delegate marks the delegations of full zones, the names with DNAME records, and what is below either.
func (b *Builder) delegate() {
	for i := range uint32(len(b.nodes)) {
		n := &b.nodes[i]
		if name := b.name(i); name[0] == 1 && name[1] == '*' {
			continue
		}
		b.each(i, func(r raw) bool {
			switch {
			case r.typ == dns.TypeNS && r.zone == n.zone && n.zone != 0 && n.flags&isApex == 0:
				n.flags |= isCut
				b.zones[n.zone].cuts = true
			case r.typ == dns.TypeDNAME && (r.zone == n.zone || n.zone == 0):
				n.flags |= isDNAME
				b.zones[n.zone].cuts = true
			}
			return true
		})
		if n.flags&isCut != 0 {
			n.flags &^= isDNAME // that would be for the servers it is delegated to
		}
	}
	for i := range uint32(len(b.nodes)) {
		n := &b.nodes[i]
		if n.zone == 0 || !b.zones[n.zone].cuts || n.flags&isApex != 0 {
			continue
		}
		for name := parent(b.name(i)); len(name) >= len(b.zones[n.zone].apex); name = parent(name) {
			if j, ok := b.find(name); ok && b.nodes[j].flags&(isCut|isDNAME) != 0 {
				n.flags |= isOccluded
				break
			}
		}
	}
}

// An entry is the records of one name, as they are gathered.
type entry struct {
	records []raw
	sets    []rrset
	wire    []byte
}

// An rrset is a run of records of one type. Signatures are apart by the type they cover.
type rrset struct {
	typ, covered uint16
	count, size  int
}

// covered is the type that a signature is for, and 0 for other records.
func (r raw) covered() uint16 {
	if r.typ == dns.TypeRRSIG && len(r.data) >= 2 {
		return binary.BigEndian.Uint16(r.data)
	}
	return 0
}

// choose gathers the records that count at a name.
func (b *Builder) choose(i uint32, e *entry) {
	e.records = e.records[:0]
	own, name := b.nodes[i].zone, b.name(i)
	loose, looseCNAME := false, false
	b.each(i, func(r raw) bool {
		z := &b.zones[r.zone]
		switch {
		case z.partial:
			if z.apex != nil && (string(name) == frozenServer || r.typ == dns.TypeNS && string(r.data) == frozenServer) {
				return true // only there to make it a zone file
			}
			loose, looseCNAME = true, looseCNAME || r.typ == dns.TypeCNAME
		case r.zone != own:
			if !isBelow(name, z.apex) {
				b.warning("%s %s is outside of the zone %s", textName(name), typeName(r.typ), textName(z.apex))
			}
			return true
		}
		e.records = append(e.records, r)
		return true
	})
	slices.Reverse(e.records)
	if loose && own != 0 {
		types := map[uint16]bool{}
		for _, r := range e.records {
			if b.zones[r.zone].partial {
				types[r.typ] = true
			}
		}
		e.records = slices.DeleteFunc(e.records, func(r raw) bool {
			return !b.zones[r.zone].partial && (looseCNAME || types[r.typ] || types[r.covered()] || r.typ == dns.TypeCNAME)
		})
	}
	b.oneAlias(name, e)
	slices.SortStableFunc(e.records, func(x, y raw) int {
		return int(x.typ)<<16 + int(x.covered()) - int(y.typ)<<16 - int(y.covered())
	})
}

const frozenServer = "\x06frozen\x0ablackstart\x07invalid\x00"

// oneAlias leaves a name either one CNAME record or others. Where resolvers disagreed when it was frozen, both are
// there, and an address is closer to what is asked for than an alias.
func (b *Builder) oneAlias(name []byte, e *entry) {
	aliases, others := 0, 0
	for _, r := range e.records {
		switch r.typ {
		case dns.TypeCNAME:
			aliases++
		case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeKEY:
		default:
			others++
		}
	}
	if aliases == 0 || aliases == 1 && others == 0 {
		return
	}
	var first []byte
	e.records = slices.DeleteFunc(e.records, func(r raw) bool {
		if r.typ != dns.TypeCNAME {
			return false
		}
		if first == nil {
			first = r.data
			return others > 0
		}
		return others > 0 || !bytes.Equal(first, r.data)
	})
	if others > 0 {
		b.warning("%s has a CNAME record and others; the CNAME is left out", textName(name))
	} else if len(e.records) < aliases {
		b.warning("%s has several CNAME records; the first is kept", textName(name))
	}
}

// write moves a name with its records into the Set's store, each record as it is in an answer: its owner's name is a
// pointer to the question.
func (b *Builder) write(i uint32, s *Set, e *entry) error {
	b.choose(i, e)
	e.sets, e.wire = e.sets[:0], e.wire[:0]
	for at := 0; at < len(e.records); {
		r := e.records[at]
		set := rrset{typ: r.typ, covered: r.covered()}
		ttl, end := r.ttl, at
		for ; end < len(e.records) && e.records[end].typ == set.typ && e.records[end].covered() == set.covered; end++ {
			ttl = min(ttl, e.records[end].ttl) // RFC 2181, section 5.2
		}
		start := len(e.wire)
		seen := map[string]bool(nil)
		if end-at > 1 {
			seen = map[string]bool{}
		}
		for _, r := range e.records[at:end] {
			if seen != nil {
				if seen[string(r.data)] {
					continue
				}
				seen[string(r.data)] = true
			}
			set.count++
			e.wire = appendRecord(e.wire, r, ttl)
		}
		if set.size = len(e.wire) - start; set.size > maxSet {
			return fmt.Errorf("%w: %s records of %d bytes", ErrTooLarge, typeName(set.typ), set.size)
		}
		if set.typ == dns.TypeSOA && b.nodes[i].flags&isApex != 0 {
			b.zones[b.nodes[i].zone].soa = negativeSOA(e.wire[start:])
		}
		e.sets = append(e.sets, set)
		at = end
	}
	name := b.name(i)
	size := 1 + len(name) + 2 + 8*len(e.sets) + len(e.wire)
	if size > chunkSize-64 {
		return fmt.Errorf("%w: records of %d bytes", ErrTooLarge, size)
	}
	at, out := s.store.alloc(size)
	out[0] = byte(len(name))
	p := 1 + copy(out[1:], name)
	binary.LittleEndian.PutUint16(out[p:], uint16(len(e.sets)))
	p += 2
	wire := e.wire
	for _, set := range e.sets {
		binary.LittleEndian.PutUint16(out[p:], set.typ)
		binary.LittleEndian.PutUint16(out[p+2:], set.covered)
		binary.LittleEndian.PutUint16(out[p+4:], uint16(set.count))
		binary.LittleEndian.PutUint16(out[p+6:], uint16(set.size))
		p += 8 + copy(out[p+8:], wire[:set.size])
		wire = wire[set.size:]
		s.records += set.count
	}
	// The name of the node is read no more: write goes through the nodes once, in order.
	n := &b.nodes[i]
	n.name = at
	n.first = 0
	if len(e.sets) > 0 {
		s.names++
		if n.observed != 0 && (s.oldest == 0 || n.observed < s.oldest) {
			s.oldest = n.observed
		}
	}
	return nil
}

func appendRecord(wire []byte, r raw, ttl uint32) []byte {
	wire = append(wire, 0xc0, 12)
	wire = binary.BigEndian.AppendUint16(wire, r.typ)
	wire = binary.BigEndian.AppendUint16(wire, dns.ClassINET)
	wire = binary.BigEndian.AppendUint32(wire, ttl)
	wire = binary.BigEndian.AppendUint16(wire, uint16(len(r.data)))
	return append(wire, r.data...)
}

// negativeSOA is an SOA record with the TTL of negative answers (RFC 2308, section 3).
func negativeSOA(wire []byte) []byte {
	soa := bytes.Clone(wire)
	ttl := min(binary.BigEndian.Uint32(soa[6:]), binary.BigEndian.Uint32(soa[len(soa)-4:]))
	binary.BigEndian.PutUint32(soa[6:], ttl)
	return soa
}
