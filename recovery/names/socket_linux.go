package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reusePort: several sockets share an address, and the kernel spreads clients over them.
const reusePort = true

const (
	batch     = 64   // datagrams read, answered and written at once
	querySize = 2048 // of a query over UDP
	// receiveBuffer is what the kernel keeps of a socket's queries, in bytes.
	receiveBuffer = 8 << 20
)

// A socket is one of the UDP sockets of an address, with all that answering from it needs.
type socket struct {
	server *Server
	conn   *net.UDPConn
	at     netip.AddrPort
	limit  limiter
	counts counts
	q      query
	w      reply
	in     []mmsghdr
	out    []mmsghdr
	slots  []slot
	wild   bool // the address answered from has to be told
}

// A slot is one datagram of a batch and its answer.
type slot struct {
	from     unix.RawSockaddrInet6 // or Inet4, which is shorter
	inVec    unix.Iovec
	outVec   unix.Iovec
	control  [64]byte
	query    [querySize]byte
	answer   [udpSize]byte
	_padding [16]byte
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// newSocket opens a UDP socket. The first of an address does without SO_REUSEPORT for a moment, so that it cannot
// steal queries from somebody else who listens there.
func (s *Server) newSocket(ctx context.Context, at netip.AddrPort, again bool) (*socket, error) {
	control := func(_, _ string, c syscall.RawConn) error {
		var err error
		set := func(fd uintptr) {
			on := func(level, opt int) {
				if err == nil {
					err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), level, opt, 1))
				}
			}
			if again {
				on(unix.SOL_SOCKET, unix.SO_REUSEPORT)
			}
			if at.Addr().IsUnspecified() {
				if at.Addr().Is4() {
					on(unix.IPPROTO_IP, unix.IP_PKTINFO)
				} else {
					on(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
					// A dual-stack socket gets IPv4 queries with the IPv4 kind of information.
					on(unix.IPPROTO_IP, unix.IP_PKTINFO)
				}
			}
			// A burst waits rather than get lost: beyond what the host allows if we may, else as much as it does.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
			}
		}
		return errors.Join(c.Control(set), err)
	}
	l := net.ListenConfig{Control: control}
	p, err := l.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, err
	}
	conn := p.(*net.UDPConn)
	if !again {
		raw, err := conn.SyscallConn()
		if err == nil {
			err = errors.Join(raw.Control(func(fd uintptr) {
				err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			}), err)
		}
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	rate := s.o.Rate
	if at.Addr().Unmap().IsLoopback() {
		rate = 0
	}
	return &socket{server: s, conn: conn, at: at, limit: newLimiter(rate), wild: at.Addr().IsUnspecified()}, nil
}

// prepare points the kernel's structures at the slots.
func (u *socket) prepare() {
	u.in, u.out, u.slots = make([]mmsghdr, batch), make([]mmsghdr, batch), make([]slot, batch)
	for i := range u.slots {
		b := &u.slots[i]
		b.inVec.Base = &b.query[0]
		b.inVec.SetLen(len(b.query))
		b.outVec.Base = &b.answer[0]
		u.in[i].hdr.Name = (*byte)(unsafe.Pointer(&b.from))
		u.in[i].hdr.Iov = &b.inVec
		u.in[i].hdr.SetIovlen(1)
		u.rearm(i)
	}
}

// rearm resets what the kernel has written into a header.
func (u *socket) rearm(i int) {
	h := &u.in[i].hdr
	h.Namelen = unix.SizeofSockaddrInet6
	h.Flags = 0
	if u.wild {
		h.Control = &u.slots[i].control[0]
		h.SetControllen(len(u.slots[i].control))
	}
}

// serve answers until the socket is closed.
func (u *socket) serve(ctx context.Context) error {
	raw, err := u.conn.SyscallConn()
	if err != nil {
		return err
	}
	u.prepare()
	var got int
	var errno syscall.Errno
	// Neither of the two system calls waits, so the scheduler is not told of them: it would give the processor's place
	// away in the middle of a burst, which is where the slowest answers come from.
	receive := func(fd uintptr) bool {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&u.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
		got, errno = int(n), e
		return e != unix.EAGAIN
	}
	var first, last int
	transmit := func(fd uintptr) bool {
		n, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&u.out[first])), uintptr(last-first), unix.MSG_DONTWAIT, 0, 0)
		errno = e
		if e == 0 {
			first += int(n)
		}
		return e != unix.EAGAIN
	}
	for {
		errno = 0
		if err := raw.Read(receive); err != nil {
			return ignoreClosed(err)
		}
		if errno != 0 {
			if errno == unix.EINTR || ctx.Err() == nil && transient(errno) {
				continue
			}
			return fmt.Errorf("receiving: %w", errno)
		}
		first, last = 0, u.answer(ctx, got)
		for first < last {
			errno = 0
			if err := raw.Write(transmit); err != nil {
				return ignoreClosed(err)
			}
			if errno != 0 && errno != unix.EINTR {
				first++ // this client cannot be reached; the others can
				u.counts.add(countUnsent, 1)
			}
		}
	}
}

// transient says whether an error of receiving is about one datagram and not about the socket.
func transient(e syscall.Errno) bool {
	return e == unix.ECONNREFUSED || e == unix.ENOMEM || e == unix.ENOBUFS || e == unix.EHOSTUNREACH || e == unix.ENETUNREACH
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// answer goes through a batch of queries and returns how many answers there are to send.
func (u *socket) answer(ctx context.Context, got int) int {
	s := u.server
	set := s.set.Load()
	var now uint32
	if u.limit.rate != 0 {
		now = seconds()
	}
	last := 0
	for i := range got {
		h, b := &u.in[i], &u.slots[i]
		n := int(h.n)
		client := b.client()
		truncated := h.hdr.Flags&unix.MSG_TRUNC != 0
		var v verdict
		switch permitted := u.limit.take(client, now); {
		case truncated || permitted == drop:
			u.counts.add(countDropped, 1)
		case permitted == slip:
			if u.q.parse(b.query[:n], false) == 0 {
				u.w.begin(&u.q, b.answer[:], 0)
				u.w.over, u.w.aa = true, false
				v = verdict{n: u.w.finish(&u.q, 0, false, extendedError{}), from: fromError}
				u.counts.add(countSlipped, 1)
			}
		default:
			v = s.handle(set, &u.q, &u.w, b.query[:n], b.answer[:], client, false)
			u.counts.query(&v)
			if v.forward {
				u.forward(ctx, b, n, client)
			} else if s.o.SampleEvery != 0 && u.counts.sampled(s.o.SampleEvery) {
				s.sample(&u.q, netip.AddrPortFrom(client, b.port()), false, v)
			}
		}
		if v.n > 0 {
			o := &u.out[last]
			o.hdr = h.hdr
			b.outVec.SetLen(v.n)
			o.hdr.Iov = &b.outVec
			o.hdr.Flags = 0
			if u.wild {
				// What the kernel said of the way in is what it needs for the way out: the address and the interface.
			} else {
				o.hdr.Control = nil
				o.hdr.SetControllen(0)
			}
			last++
		}
		u.rearm(i)
	}
	return last
}

// client is the address a datagram came from.
func (b *slot) client() netip.Addr {
	if b.from.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(&b.from)).Addr)
	}
	return netip.AddrFrom16(b.from.Addr).Unmap()
}

func (b *slot) port() uint16 {
	p := (*[2]byte)(unsafe.Pointer(&b.from.Port)) // the same place for both families
	return uint16(p[0])<<8 | uint16(p[1])
}
