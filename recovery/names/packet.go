package names

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerSize = 12
	// udpSize is the payload offered and used with EDNS0: what passes any path without fragments.
	udpSize = 1232
	// plainSize bounds a UDP message without EDNS0 (RFC 1035, section 4.2.1).
	plainSize = 512
	// hopsOption is an EDNS0 option of local use (RFC 6891, section 9) that counts how many servers of this kind a
	// query has passed, so that servers which ask each other do not go on for ever.
	hopsOption = 65313
	maxHops    = 3
)

// Bits of the header's second half-word (RFC 1035, section 4.1.1; RFC 4035, section 3).
const (
	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitCD = 1 << 4
)

// A query is one question as it came, and what the client can take. It keeps no pointers besides wire.
type query struct {
	wire     []byte // the question section as it came, case and all
	id       uint16
	flags    uint16
	typ      uint16
	class    uint16
	edns     bool
	do       bool
	hops     uint8
	size     int               // of the largest answer
	n        int               // length of name
	name     [maxName + 3]byte // with room for a type behind it
	chain    [maxName + 1]byte // a CNAME record's target, while it is followed
	wildcard [maxName + 3]byte
}

// asked is the name in lower case.
func (q *query) asked() []byte { return q.name[:q.n] }

// ignore is what parse returns for what must not be answered at all.
const ignore = -1

// parse reads a query. It returns ignore, or the RCODE to answer with; where that is FORMERR or NOTIMP there may be no
// question.
func (q *query) parse(msg []byte, tcp bool) int {
	q.wire, q.edns, q.do, q.hops, q.n, q.typ, q.class = nil, false, false, 0, 0, 0, 0
	q.size = plainSize
	if tcp {
		q.size = dns.MaxMsgSize
	}
	if len(msg) < headerSize {
		return ignore
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = binary.BigEndian.Uint16(msg[2:])
	if q.flags&bitQR != 0 {
		return ignore
	}
	if q.flags>>11&15 != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if binary.BigEndian.Uint16(msg[4:]) != 1 {
		return dns.RcodeFormatError // RFC 9619
	}
	n := scanName(msg[headerSize:])
	end := headerSize + n + 4
	if n == 0 || end > len(msg) {
		return dns.RcodeFormatError
	}
	q.wire = msg[headerSize:end]
	q.n = copy(q.name[:], msg[headerSize:headerSize+n])
	lower(q.name[:n])
	q.typ = binary.BigEndian.Uint16(msg[end-4:])
	q.class = binary.BigEndian.Uint16(msg[end-2:])
	if binary.BigEndian.Uint32(msg[6:]) == 0 && binary.BigEndian.Uint16(msg[10:]) == 0 {
		if end != len(msg) {
			return dns.RcodeFormatError
		}
		return dns.RcodeSuccess
	}
	return q.parseRest(msg, end, tcp)
}

// parseRest reads what follows the question.
func (q *query) parseRest(msg []byte, off int, tcp bool) int {
	answers := int(binary.BigEndian.Uint16(msg[6:]))
	before := answers + int(binary.BigEndian.Uint16(msg[8:]))
	records := before + int(binary.BigEndian.Uint16(msg[10:]))
	if answers != 0 || before > 1 || before == 1 && q.typ != dns.TypeIXFR {
		return dns.RcodeFormatError
	}
	rcode := dns.RcodeSuccess
	for i := range records {
		root := off < len(msg) && msg[off] == 0
		fixed, end, typ := skipRecord(msg, off)
		if end == 0 {
			return dns.RcodeFormatError
		}
		off = end
		switch {
		case typ == dns.TypeTSIG:
			return dns.RcodeNotAuth // no keys are known here (RFC 8945, section 5.2.1)
		case typ != dns.TypeOPT || i < before:
			continue
		case q.edns || !root:
			return dns.RcodeFormatError // RFC 6891, section 6.1.1
		}
		q.edns = true
		q.do = msg[fixed+6]&0x80 != 0
		if !tcp {
			q.size = min(max(plainSize, int(binary.BigEndian.Uint16(msg[fixed+2:]))), udpSize)
		}
		if msg[fixed+5] != 0 {
			rcode = dns.RcodeBadVers
		}
		if !q.options(msg[fixed+10 : end]) {
			return dns.RcodeFormatError
		}
	}
	if off != len(msg) {
		return dns.RcodeFormatError
	}
	return rcode
}

// options goes through EDNS0 options and says whether they are well formed.
func (q *query) options(opts []byte) bool {
	for len(opts) > 0 {
		if len(opts) < 4 {
			return false
		}
		n := 4 + int(binary.BigEndian.Uint16(opts[2:]))
		if n > len(opts) {
			return false
		}
		if binary.BigEndian.Uint16(opts) == hopsOption && n == 5 {
			q.hops = opts[4]
		}
		opts = opts[n:]
	}
	return true
}
