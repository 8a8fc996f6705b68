package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// logged is one packet as NFLOG hands it over.
type logged struct {
	prefix string
	hasUID bool // it belongs to a program
	uid    uint32
	hasSeq bool
	seq    uint32
	packet []byte // headers, from the network layer on
}

// attributes of an NFLOG message, from linux/netfilter/nfnetlink_log.h, and the
// messages' types from linux/netfilter/nfnetlink.h.
const (
	nfulaPayload = 9
	nfulaPrefix  = 10
	nfulaUID     = 11
	nfulaSeq     = 12

	ulogPacket = 4 << 8 // NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
)

// parseNFLOG reads the netlink messages of one datagram. Whatever is cut short
// or of another type is left out.
func parseNFLOG(b []byte) []logged {
	var out []logged
	for len(b) >= 16 {
		n := binary.NativeEndian.Uint32(b)
		if n < 16 || uint64(n) > uint64(len(b)) {
			break
		}
		if msg := b[16:n]; binary.NativeEndian.Uint16(b[4:]) == ulogPacket && len(msg) >= 4 {
			out = append(out, parseLogged(msg[4:]))
		}
		b = b[min(uint64(len(b)), (uint64(n)+3)&^3):]
	}
	return out
}

func parseLogged(b []byte) logged {
	var l logged
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			break
		}
		v := b[4:n]
		switch binary.NativeEndian.Uint16(b[2:]) & 0x3fff {
		case nfulaPayload:
			l.packet = v
		case nfulaPrefix:
			l.prefix = string(bytes.TrimRight(v, "\x00"))
		case nfulaUID:
			if len(v) == 4 {
				l.hasUID, l.uid = true, binary.BigEndian.Uint32(v)
			}
		case nfulaSeq:
			if len(v) == 4 {
				l.hasSeq, l.seq = true, binary.BigEndian.Uint32(v)
			}
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return l
}

// attempt is the packet as an observation, if it belongs to a program. In the
// input hook a packet has lost its owner, so a dark one always counts.
func (l logged) attempt(now time.Time) (Attempt, bool) {
	h, ok := parsePacket(l.packet)
	if !ok {
		return Attempt{}, false
	}
	a := Attempt{
		Proto: h.proto, Destination: Endpoint(h.dst), Count: 1, Packets: 1, First: now,
		Sources: []Source{FromPacket}, flow: h.flow,
	}
	switch l.prefix {
	case prefixDark:
		a.Verdict, a.Packets = Blocked, 0
	case prefixOut:
		if !l.hasUID {
			return Attempt{}, false
		}
	default:
		return Attempt{}, false
	}
	return a, true
}

// header is what a packet says about where it goes.
type header struct {
	proto string
	dst   netip.AddrPort // port 0 where the protocol has none
	flow  uint64         // tcp: source port and sequence number; else 0
}

// parsePacket reads an IPv4 (RFC 791) or IPv6 (RFC 8200) packet's headers.
func parsePacket(b []byte) (header, bool) {
	if len(b) == 0 {
		return header{}, false
	}
	var dst netip.Addr
	var next byte
	first := true // the fragment that holds the upper header
	switch b[0] >> 4 {
	case 4:
		hl := int(b[0]&15) * 4
		if hl < 20 || len(b) < hl {
			return header{}, false
		}
		dst, next = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		first = binary.BigEndian.Uint16(b[6:])&0x1fff == 0
		b = b[hl:]
	case 6:
		if len(b) < 40 {
			return header{}, false
		}
		dst, next = netip.AddrFrom16([16]byte(b[24:40])), b[6]
		b, next, first = skipExtensions(b[40:], next)
	default:
		return header{}, false
	}
	h := header{proto: protoName(int(next)), dst: netip.AddrPortFrom(dst, 0)}
	if hasPorts(next) && first && len(b) >= 8 {
		h.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(b[2:]))
		if next == 6 {
			h.flow = 1<<48 | uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[4:]))
		}
	}
	return h, true
}

// skipExtensions walks IPv6 extension headers: hop-by-hop, routing, destination
// options, fragment and authentication.
func skipExtensions(b []byte, next byte) ([]byte, byte, bool) {
	first := true
	for range 16 {
		n := 0
		switch next {
		case 0, 43, 60:
			if len(b) >= 8 {
				n = (int(b[1]) + 1) * 8
			}
		case 44:
			if len(b) >= 8 {
				n = 8
				first = first && binary.BigEndian.Uint16(b[2:])>>3 == 0
			}
		case 51:
			if len(b) >= 8 {
				n = (int(b[1]) + 2) * 4
			}
		default:
			return b, next, first
		}
		if n == 0 || n > len(b) {
			return nil, next, first
		}
		next, b = b[0], b[n:]
	}
	return nil, next, first
}

// hasPorts says that a protocol's header begins with two ports.
func hasPorts(protocol byte) bool {
	switch protocol {
	case 6, 17, 33, 132, 136: // TCP, UDP, DCCP, SCTP, UDP-Lite
		return true
	}
	return false
}

// protoName names an IP protocol number. Linux has one more for Multipath TCP
// (RFC 8684), whose packets are TCP's.
func protoName(n int) string {
	switch n {
	case 1, 58:
		return "icmp"
	case 6, 262:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	case 33:
		return "dccp"
	case 136:
		return "udplite"
	}
	return fmt.Sprintf("ip-%d", n)
}
