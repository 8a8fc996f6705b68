package names

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// An extended error tells the client why it is told what it is told (RFC 8914).
type extendedError struct {
	code uint16
	text string
	set  bool
}

// finish writes the header and the OPT record and returns the length of the message. What did not fit is left out
// whole, and TC set.
func (w *reply) finish(q *query, rcode int, recursion bool, ede extendedError) int {
	flags := bitQR | q.flags&(0xf<<11|bitRD|bitCD) | uint16(rcode&15)
	if w.over {
		flags |= bitTC
		w.n, w.an, w.ns, w.ar = headerSize+len(q.wire), 0, 0, 0
	}
	if w.aa {
		flags |= bitAA
	}
	if recursion {
		flags |= bitRA
	}
	if q.edns {
		w.opt(q, rcode, ede)
	}
	b := w.buf
	binary.BigEndian.PutUint16(b, q.id)
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint16(b[4:], 0)
	if q.wire != nil {
		b[5] = 1
	}
	binary.BigEndian.PutUint16(b[6:], w.an)
	binary.BigEndian.PutUint16(b[8:], w.ns)
	binary.BigEndian.PutUint16(b[10:], w.ar)
	return w.n
}

func (w *reply) opt(q *query, rcode int, ede extendedError) {
	b := append(w.buf[:w.n], 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, byte(rcode>>4), 0, 0, 0, 0, 0)
	if q.do {
		b[w.n+7] = 0x80
	}
	if size := 6 + len(ede.text); ede.set && w.n+11+size <= q.size {
		b[w.n+10] = byte(size)
		b = append(b, 0, dns.EDNS0EDE, 0, byte(size-4), byte(ede.code>>8), byte(ede.code))
		b = append(b, ede.text...)
	}
	w.n = len(b)
	w.ar++
}
