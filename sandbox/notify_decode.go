package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// The protocols of an Attempt that are no IP protocols.
const (
	protoUnix     = "unix"
	protoAbstract = "abstract"
	protoRaw      = "raw"
	protoPacket   = "packet"
	protoVsock    = "vsock"
	protoUnknown  = "unknown" // something was tried, and it could not be read what
)

// numbers of socketcall(2), from linux/net.h.
const (
	callSocket   = 1
	callConnect  = 3
	callSendto   = 11
	callSendmsg  = 16
	callSendmmsg = 20
)

// address families, the same on every machine.
const (
	afUnspec  = 0
	afUnix    = 1
	afInet    = 2
	afInet6   = 10
	afNetlink = 16
	afPacket  = 17
	afVsock   = 40
)

const (
	maxSockaddr = 128  // sizeof(struct sockaddr_storage)
	maxMessages = 1024 // UIO_MAXIOV, which sendmmsg cuts to
)

// sockaddr is an address as a program gave it.
type sockaddr struct {
	family int
	ip     netip.AddrPort // inet
	proto  string         // others
	dest   string
	path   string // unix: as given, perhaps relative; abstract: as /proc/net/unix shows it
}

// parseSockaddr reads a struct sockaddr. ok is false where there is nothing
// that the kernel could go to. send says that it came with a message: for those
// the kernel takes an unspecified family as IPv4 (udp_sendmsg).
func parseSockaddr(b []byte, send bool) (s sockaddr, ok bool) {
	if len(b) < 2 || len(b) > maxSockaddr {
		return sockaddr{}, false
	}
	s.family = int(binary.NativeEndian.Uint16(b))
	switch s.family {
	case afUnspec, afInet:
		if len(b) < 8 || (s.family == afUnspec && !send) {
			return sockaddr{}, false
		}
		s.family = afInet
		s.ip = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	case afInet6:
		if len(b) < 24 {
			return sockaddr{}, false
		}
		s.ip = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), binary.BigEndian.Uint16(b[2:]))
	case afUnix:
		return parseUnix(b[2:])
	case afVsock:
		if len(b) < 12 {
			return sockaddr{}, false
		}
		s.proto, s.dest = protoVsock, fmt.Sprintf("%d:%d", binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[4:]))
	case afPacket:
		if len(b) < 8 {
			return sockaddr{}, false
		}
		s.proto, s.dest = protoPacket, fmt.Sprintf("interface %d", binary.NativeEndian.Uint32(b[4:]))
	case afNetlink:
		return sockaddr{}, false // the kernel itself
	default:
		s.proto, s.dest = "family-"+strconv.Itoa(s.family), fmt.Sprintf("%x", b[2:])
	}
	return s, true
}

// parseUnix reads sun_path, as unix(7) says: a path up to its zero byte, or an
// abstract name after one.
func parseUnix(b []byte) (sockaddr, bool) {
	switch {
	case len(b) == 0 || len(b) > 108:
		return sockaddr{}, false
	case b[0] == 0:
		q := strconv.QuoteToASCII(string(b[1:]))
		return sockaddr{family: afUnix, proto: protoAbstract, dest: "@" + q[1:len(q)-1], path: strings.ReplaceAll(string(b), "\x00", "@")}, true
	}
	for i, ch := range b {
		if ch == 0 {
			b = b[:i]
			break
		}
	}
	return sockaddr{family: afUnix, proto: protoUnix, path: string(b)}, true
}

// absolute is a unix path made absolute and clean by name alone.
func absolute(cwd, p string) string {
	if !path.IsAbs(p) {
		p = path.Join(cwd, p)
	}
	return path.Clean(p)
}

// call is one system call's arguments, before its memory has been read.
type call struct {
	abi  abi
	nr   uint32
	args [6]uint64
}

// target is where a call sends to: a descriptor and an address, or for socket
// the family alone.
type target struct {
	fd       int32
	addr     []byte
	send     bool
	socket   bool
	family   int  // socket
	indirect bool // socket: by socketcall
}

var errOtherCall = errors.New("not a call the filter reports")

// targets reads what a call is about to reach. read fills its buffer from the
// program's memory; its error is returned as it is.
func (c call) targets(read func(addr uint64, b []byte) error) ([]target, error) {
	args := c.args
	nr := c.nr
	if nr == c.abi.socketcall && nr != noCall {
		// The arguments stand in memory, one word each.
		var b [24]byte
		n := map[uint64]int{callSocket: 3, callConnect: 3, callSendto: 6, callSendmsg: 3, callSendmmsg: 4}[c.args[0]]
		if n == 0 {
			return nil, errOtherCall
		}
		if err := read(c.args[1], b[:4*n]); err != nil {
			return nil, err
		}
		args = [6]uint64{}
		for i := range n {
			args[i] = uint64(binary.NativeEndian.Uint32(b[4*i:]))
		}
		nr = map[uint64]uint32{
			callSocket: c.abi.socket, callConnect: c.abi.connect, callSendto: c.abi.sendto,
			callSendmsg: c.abi.sendmsg, callSendmmsg: c.abi.sendmmsg,
		}[c.args[0]]
	}
	fd := int32(args[0])
	address := func(p, n uint64, send bool) ([]target, error) {
		n = uint64(uint32(n)) // an int to the kernel
		if p == 0 || n < 2 || n > maxSockaddr {
			return nil, nil
		}
		b := make([]byte, n)
		if err := read(p, b); err != nil {
			return nil, err
		}
		return []target{{fd: fd, addr: b, send: send}}, nil
	}
	switch nr {
	case c.abi.socket:
		return []target{{socket: true, family: int(int32(args[0])), indirect: nr != c.nr}}, nil
	case c.abi.connect:
		return address(args[1], args[2], false)
	case c.abi.sendto:
		return address(args[4], args[5], true)
	case c.abi.sendmsg:
		p, n, err := c.msghdr(args[1], read)
		if err != nil {
			return nil, err
		}
		return address(p, n, true)
	case c.abi.sendmmsg:
		// struct mmsghdr is a msghdr and an unsigned int, padded to a word.
		size := uint64(28 + 4)
		if c.abi.word == 8 {
			size = 56 + 8
		}
		var all []target
		for i := range min(uint64(uint32(args[2])), maxMessages) {
			p, n, err := c.msghdr(args[1]+i*size, read)
			if err == nil {
				var t []target
				if t, err = address(p, n, true); err == nil {
					all = append(all, t...)
					continue
				}
			}
			if len(all) > 0 {
				break // the kernel sends what stands before the bad one
			}
			return nil, err
		}
		return all, nil
	}
	return nil, errOtherCall
}

// msghdr reads msg_name and msg_namelen.
func (c call) msghdr(p uint64, read func(uint64, []byte) error) (name, n uint64, err error) {
	var b [12]byte
	if err := read(p, b[:c.abi.word+4]); err != nil {
		return 0, 0, err
	}
	if c.abi.word == 4 {
		return uint64(binary.NativeEndian.Uint32(b[:])), uint64(binary.NativeEndian.Uint32(b[4:])), nil
	}
	return binary.NativeEndian.Uint64(b[:]), uint64(binary.NativeEndian.Uint32(b[8:])), nil
}
