package names

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// maxName bounds a name in wire format (RFC 1035, section 2.3.4).
const maxName = 255

// wireName packs a name in presentation format into wire format and lower case.
func wireName(name string) ([]byte, error) {
	buf := make([]byte, maxName+1)
	n, err := dns.PackDomainName(dns.Fqdn(name), buf, 0, nil, false)
	if err != nil || n > maxName || name == "" {
		return nil, fmt.Errorf("%w: %q is not a domain name", ErrBadData, name)
	}
	lower(buf[:n])
	return buf[:n], nil
}

// textName is a name in wire format, whole and valid, in presentation format.
func textName(name []byte) string {
	s, _, err := dns.UnpackDomainName(name, 0)
	if err != nil {
		return "?"
	}
	return s
}

// lower makes a name in wire format lower case: no length byte is an ASCII letter.
func lower(name []byte) {
	for len(name) >= 8 {
		binary.LittleEndian.PutUint64(name, lower8(binary.LittleEndian.Uint64(name)))
		name = name[8:]
	}
	for i, c := range name {
		if c-'A' < 26 {
			name[i] = c | 0x20
		}
	}
}

// lower8 sets bit 5 of each of the 8 bytes that is in A-Z.
func lower8(v uint64) uint64 {
	const ones = 0x0101010101010101
	low := v & (0x7f * ones)
	above := low + (0x80-'A')*ones    // bit 7: at least A
	beyond := low + (0x80-'Z'-1)*ones // bit 7: more than Z
	return v | (above&^beyond&^v&(0x80*ones))>>2
}

// scanName returns the length in wire format of the uncompressed name that msg begins with, or 0 if it is not valid.
func scanName(msg []byte) int {
	for i := 0; i < len(msg) && i < maxName; {
		c := int(msg[i])
		if c == 0 {
			return i + 1
		}
		if c > 63 {
			return 0
		}
		i += c + 1
	}
	return 0
}

// parent returns the name without its first label; the root has none.
func parent(name []byte) []byte { return name[1+int(name[0]):] }

// labels counts a name's labels without the root's.
func labels(name []byte) int {
	n := 0
	for name[0] != 0 {
		name = parent(name)
		n++
	}
	return n
}

// isBelow says whether a name is the other one or below it; both in lower case.
func isBelow(name, above []byte) bool {
	for len(name) > len(above) {
		name = parent(name)
	}
	return string(name) == string(above)
}

// skipRecord returns the offset behind the resource record at off, where its fixed part begins, and its type.
// It returns 0 for what is no record.
func skipRecord(msg []byte, off int) (fixed, end int, typ uint16) {
	for {
		if off >= len(msg) {
			return 0, 0, 0
		}
		c := int(msg[off])
		off++
		if c == 0 {
			break
		}
		if c >= 0xc0 {
			off++
			break
		}
		if c > 63 {
			return 0, 0, 0
		}
		off += c
	}
	if off+10 > len(msg) {
		return 0, 0, 0
	}
	end = off + 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
	if end > len(msg) {
		return 0, 0, 0
	}
	return off, end, binary.BigEndian.Uint16(msg[off:])
}

// typeName is a type as people write it.
func typeName(t uint16) string { return dns.Type(t).String() }

// plainName is a name as people write it: lower case and without the last dot.
func plainName(name string) string {
	if name == "." {
		return name
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
