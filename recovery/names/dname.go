package names

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// rename writes a DNAME record and the CNAME record that it makes of a name below it, and returns what the name becomes
// and where that is in the message (RFC 6672, section 3.2). The name is nil where it would be too long.
func (s *Set) rename(n *node, name []byte, owner int, q *query, w *reply) ([]byte, int) {
	above, _ := s.entry(n)
	kept := len(name) - len(above) // bytes of the name that stay
	_, wire := s.set(n, dns.TypeDNAME, 0)
	target := wire[12 : 12+int(binary.BigEndian.Uint16(wire[10:]))]
	ttl := binary.BigEndian.Uint32(wire[6:])
	w.put(rrset{count: 1}, wire[:12+len(target)], owner+kept, &w.an) // one alone may be there (section 2.4)
	if q.do {
		s.signatures(n, dns.TypeDNAME, owner+kept, w, &w.an)
	}
	if kept+len(target) > maxName {
		return nil, 0
	}
	var alias [12 + maxName]byte
	binary.BigEndian.PutUint16(alias[2:], dns.TypeCNAME)
	binary.BigEndian.PutUint16(alias[4:], dns.ClassINET)
	binary.BigEndian.PutUint32(alias[6:], ttl)
	binary.BigEndian.PutUint16(alias[10:], uint16(kept+len(target)))
	alias[0], alias[1] = 0xc0, headerSize
	end := 12 + copy(alias[12:], name[:kept])
	end += copy(alias[end:], target)
	at := w.n
	w.put(rrset{count: 1}, alias[:end], owner, &w.an)
	name = q.chain[:copy(q.chain[:], alias[12:end])]
	lower(name)
	return name, at + 12
}
