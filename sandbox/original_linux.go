package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const soOriginalDst = 80 // SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of linux/netfilter*.h

// OriginalDestination is where a TCP connection was going before a redirect rule
// sent it to its listener.
func OriginalDestination(c net.Conn) (netip.AddrPort, error) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("asking for the original destination: a %T has none", c)
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", err)
	}
	var to netip.AddrPort
	var failed error
	v4 := addrPort(t.LocalAddr()).Addr().Unmap().Is4()
	err = raw.Control(func(fd uintptr) {
		if v4 {
			var sa unix.RawSockaddrInet4
			if failed = getsockopt(fd, unix.SOL_IP, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); failed == nil {
				to = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), swap(sa.Port))
			}
			return
		}
		var sa unix.RawSockaddrInet6
		if failed = getsockopt(fd, unix.SOL_IPV6, unsafe.Pointer(&sa), unsafe.Sizeof(sa)); failed == nil {
			to = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), swap(sa.Port))
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for the original destination: %w", err)
	}
	return to, nil
}

func getsockopt(fd, level uintptr, p unsafe.Pointer, size uintptr) error {
	n := uint32(size)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, level, soOriginalDst, uintptr(p), uintptr(unsafe.Pointer(&n)), 0); errno != 0 {
		return errno
	}
	return nil
}

// swap turns a number in network order, as the kernel stores it.
func swap(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}

// Conntrack asks a network namespace's connection tracking what a datagram was
// meant for: a UDP socket cannot say it.
type Conntrack struct {
	mu  sync.Mutex
	f   *os.File
	seq uint32
}

// OpenConntrack opens a netfilter socket in the network namespace of the calling
// thread. The descriptor may be handed to another process for [NewConntrack].
func OpenConntrack() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("opening connection tracking: %w", err)
	}
	return fd, nil
}

// NewConntrack owns the descriptor.
func NewConntrack(fd int) *Conntrack {
	return &Conntrack{f: os.NewFile(uintptr(fd), "conntrack")}
}

// Close closes the descriptor.
func (c *Conntrack) Close() error { return c.f.Close() }

// numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet        = 1<<8 | 1 // NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_GET
	ctaTupleOrig = 1
	ctaTupleRepl = 2
	ctaTupleIP   = 1
	ctaTuplePort = 2
	nested       = 0x8000
)

// Original is where the datagrams from client that arrive at local were sent.
func (c *Conntrack) Original(local, client netip.AddrPort) (netip.AddrPort, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	to, err := c.ask(local, client)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking connection tracking about %s: %w", client, err)
	}
	return to, nil
}

func (c *Conntrack) ask(local, client netip.AddrPort) (netip.AddrPort, error) {
	// A reply goes from here to the client.
	from, to := local.Addr().Unmap(), client.Addr().Unmap()
	if from.Is4() != to.Is4() {
		return netip.AddrPort{}, errors.New("two families of addresses")
	}
	srcType, dstType, family := uint16(1), uint16(2), byte(unix.AF_INET) // CTA_IP_V4_SRC, _DST
	if from.Is6() {
		srcType, dstType, family = 3, 4, unix.AF_INET6
	}
	ip := nla(nla(nil, srcType, from.AsSlice()), dstType, to.AsSlice())
	ports := nla(nil, 1, []byte{unix.IPPROTO_UDP})
	ports = nla(ports, 2, binary.BigEndian.AppendUint16(nil, local.Port()))
	ports = nla(ports, 3, binary.BigEndian.AppendUint16(nil, client.Port()))
	body := nla([]byte{family, 0, 0, 0}, ctaTupleRepl|nested, nla(nla(nil, ctaTupleIP|nested, ip), ctaTuplePort|nested, ports))
	msg := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, ctGet)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST)
	msg = binary.NativeEndian.AppendUint32(msg, c.seq)
	msg = append(msg, 0, 0, 0, 0)
	if _, err := c.f.Write(append(msg, body...)); err != nil {
		return netip.AddrPort{}, err
	}
	buf := make([]byte, 8192)
	_ = c.f.SetReadDeadline(time.Now().Add(time.Second))
	for {
		n, err := c.f.Read(buf)
		if err != nil {
			return netip.AddrPort{}, err
		}
		if n < 20 || binary.NativeEndian.Uint32(buf[8:]) != c.seq {
			continue // the answer to an earlier question
		}
		if binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR {
			return netip.AddrPort{}, unix.Errno(-int32(binary.NativeEndian.Uint32(buf[16:])))
		}
		if a, ok := originalTuple(buf[20:n]); ok {
			return a, nil
		}
		return netip.AddrPort{}, errors.New("an answer without a destination")
	}
}

// nla appends a netlink attribute.
func nla(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// attribute finds the first netlink attribute of a kind.
func attribute(b []byte, kind uint16) []byte {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:])&0x3fff == kind {
			return b[4:n]
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil
}

// originalTuple reads the destination of a connection's first direction.
func originalTuple(b []byte) (netip.AddrPort, bool) {
	tuple := attribute(b, ctaTupleOrig)
	ip := attribute(tuple, ctaTupleIP)
	dst := attribute(ip, 2)
	if dst == nil {
		dst = attribute(ip, 4)
	}
	a, ok := netip.AddrFromSlice(dst)
	port := attribute(attribute(tuple, ctaTuplePort), 3)
	if !ok || len(port) != 2 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port)), true
}
