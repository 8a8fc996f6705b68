package names

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// A Builder collects records and makes a Set of them. It is for one goroutine. Where several sources speak of the same
// name and type, loose names go before a zone, and the deepest zone before those above it.
type Builder struct {
	// NoPTR leaves out the PTR records that Build makes for addresses which have none in the data.
	NoPTR bool

	seed    maphash.Seed
	store   arena // names and records as they come
	nodes   []node
	table   []uint64 // the upper half of a name's hash, and its node's index plus 1
	zones   []zone   // zones[0] is that of the loose names
	records int
	buf     []byte
	warn    []string
}

// A node is a name.
type node struct {
	name     ref // while building: a length byte and the name; in a Set: see entry
	first    ref // while building: the first of its records
	zone     uint32
	observed uint32 // seconds since 1970 of the oldest record, 0 if unknown
	flags    uint8
}

const (
	isApex     = 1 << iota // of a full zone
	isCut                  // a delegation: NS records below the apex
	isOccluded             // below a delegation: glue at best
	hasWild                // has a child named *
	hasPTR                 // the data has a PTR record here
	isDNAME                // what is below it is elsewhere (RFC 6672)
	isProof                // holds NSEC3 records alone: no name that can be asked for (RFC 5155, section 7.2.8)
)

type zone struct {
	apex     []byte // nil for loose names
	soa      []byte // the SOA record as in an RRset, with the TTL of negative answers
	partial  bool
	observed time.Time
	cuts     bool // there are delegations or DNAME records
}

// NewBuilder returns an empty Builder.
func NewBuilder() *Builder {
	b := &Builder{seed: maphash.MakeSeed(), table: make([]uint64, 1<<10), buf: make([]byte, 1<<16)}
	b.zones = []zone{{partial: true, soa: syntheticSOA(time.Time{})}}
	return b
}

// Warnings says what was left out of the data and why; at most 100 of them.
func (b *Builder) Warnings() []string { return b.warn }

func (b *Builder) warning(format string, args ...any) {
	if len(b.warn) < 100 {
		b.warn = append(b.warn, fmt.Sprintf(format, args...))
	}
}

// Addresses adds a loose name with its addresses. A first label of * stands for every name below the rest.
//
// Errors: ErrBadData, ErrTooLarge.
func (b *Builder) Addresses(name string, addresses []netip.Addr, ttl uint32, observed time.Time) error {
	for _, a := range addresses {
		if !a.IsValid() {
			return fmt.Errorf("adding %s: %w: no address", name, ErrBadData)
		}
		if err := b.add(addressRecord(name, a, ttl), 0, observed); err != nil {
			return fmt.Errorf("adding %s: %w", name, err)
		}
	}
	return nil
}

// Records adds records of loose names.
//
// Errors: ErrBadData, ErrTooLarge.
func (b *Builder) Records(records []dns.RR, observed time.Time) error {
	for _, rr := range records {
		if err := b.add(rr, 0, observed); err != nil {
			return fmt.Errorf("adding %s: %w", rr.Header().Name, err)
		}
	}
	return nil
}

func addressRecord(name string, a netip.Addr, ttl uint32) dns.RR {
	a = a.Unmap()
	h := dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}
	if a.Is4() {
		return &dns.A{Hdr: h, A: a.AsSlice()}
	}
	h.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: h, AAAA: a.WithZone("").AsSlice()}
}

// Layout of a record while building: next ref, zone, type, TTL, length of the data, data.
const recordHead = 16

// add packs a record and hangs it below its name.
func (b *Builder) add(rr dns.RR, zone uint32, observed time.Time) error {
	h := rr.Header()
	if h.Class != dns.ClassINET {
		return fmt.Errorf("%w: class %s", ErrBadData, dns.Class(h.Class))
	}
	if h.Name == "" {
		return fmt.Errorf("%w: a record without a name", ErrBadData)
	}
	if (h.Rrtype >= 128 && h.Rrtype <= 255) || h.Rrtype == dns.TypeOPT || h.Rrtype == 0 {
		return fmt.Errorf("%w: no record has type %s", ErrBadData, typeName(h.Rrtype))
	}
	n, err := dns.PackRR(rr, b.buf, 0, nil, false)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadData, err)
	}
	switch h.Rrtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeNS, dns.TypePTR, dns.TypeMX, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT:
	default:
		// Lengths that stand in a record are not compared with what they are of when it
		// is packed: a client could not read it.
		if _, _, err := dns.UnpackRR(b.buf[:n], 0); err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrBadData, h.Name, typeName(h.Rrtype), err)
		}
	}
	name := scanName(b.buf[:n])
	if name == 0 || name+10 > n {
		return fmt.Errorf("%w: %q is not a domain name", ErrBadData, h.Name)
	}
	if _, unknown := rr.(*dns.RFC3597); name+10 == n && !unknown && h.Rrtype != dns.TypeAPL && h.Rrtype != dns.TypeNULL {
		return fmt.Errorf("%w: %s %s without data", ErrBadData, h.Name, typeName(h.Rrtype))
	}
	lower(b.buf[:name])
	return b.addWire(b.buf[:name], h.Rrtype, h.Ttl, b.buf[name+10:n], zone, observed)
}

// addWire hangs a record below its name, which is in lower case.
func (b *Builder) addWire(name []byte, typ uint16, ttl uint32, data []byte, zone uint32, observed time.Time) error {
	if b.records++; b.records > MaxRecords {
		return fmt.Errorf("%w: more than %d records", ErrTooLarge, MaxRecords)
	}
	if len(data) > maxSet {
		return fmt.Errorf("%w: a record of %d bytes", ErrTooLarge, len(data))
	}
	i := b.node(name)
	n := &b.nodes[i]
	at, rec := b.store.alloc(recordHead + len(data))
	binary.LittleEndian.PutUint32(rec, uint32(n.first))
	binary.LittleEndian.PutUint32(rec[4:], zone)
	binary.LittleEndian.PutUint16(rec[8:], typ)
	if ttl > 1<<31-1 {
		ttl = 0 // RFC 2181, section 8
	}
	binary.LittleEndian.PutUint32(rec[10:], ttl)
	binary.LittleEndian.PutUint16(rec[14:], uint16(len(data)))
	copy(rec[recordHead:], data)
	n.first = at
	if typ == dns.TypePTR {
		n.flags |= hasPTR
	}
	if s := observed.Unix(); !observed.IsZero() && s > 0 && (n.observed == 0 || uint32(s) < n.observed) {
		n.observed = uint32(s)
	}
	return nil
}

// raw is a record while building.
type raw struct {
	zone uint32
	typ  uint16
	ttl  uint32
	data []byte
}

// each calls f for every record of a node, the last added first, until f returns false.
func (b *Builder) each(i uint32, f func(raw) bool) {
	for at := b.nodes[i].first; at != 0; {
		rec := b.store.at(at)
		n := int(binary.LittleEndian.Uint16(rec[14:]))
		r := raw{binary.LittleEndian.Uint32(rec[4:]), binary.LittleEndian.Uint16(rec[8:]), binary.LittleEndian.Uint32(rec[10:]), rec[recordHead : recordHead+n]}
		if !f(r) {
			return
		}
		at = ref(binary.LittleEndian.Uint32(rec))
	}
}

// name is a node's name.
func (b *Builder) name(i uint32) []byte {
	e := b.store.at(b.nodes[i].name)
	return e[1 : 1+int(e[0])]
}

// find returns the index of a name's node.
func (b *Builder) find(name []byte) (uint32, bool) {
	h := maphash.Bytes(b.seed, name)
	mask := uint64(len(b.table) - 1)
	for slot := h & mask; b.table[slot] != 0; slot = (slot + 1) & mask {
		if b.table[slot]>>32 == h>>32 {
			if i := uint32(b.table[slot]) - 1; bytes.Equal(b.name(i), name) {
				return i, true
			}
		}
	}
	return 0, false
}

// node returns the index of a name's node, which it makes where there is none.
func (b *Builder) node(name []byte) uint32 {
	if i, ok := b.find(name); ok {
		return i
	}
	if (len(b.nodes)+1)*4 > len(b.table)*3 {
		b.grow()
	}
	at, e := b.store.alloc(1 + len(name))
	e[0] = byte(len(name))
	copy(e[1:], name)
	i := uint32(len(b.nodes))
	b.nodes = append(b.nodes, node{name: at})
	b.insert(maphash.Bytes(b.seed, name), i)
	return i
}

func (b *Builder) insert(h uint64, i uint32) {
	mask := uint64(len(b.table) - 1)
	slot := h & mask
	for b.table[slot] != 0 {
		slot = (slot + 1) & mask
	}
	b.table[slot] = h>>32<<32 | uint64(i+1)
}

func (b *Builder) grow() {
	b.table = make([]uint64, 2*len(b.table))
	for i := range b.nodes {
		b.insert(maphash.Bytes(b.seed, b.name(uint32(i))), uint32(i))
	}
}
