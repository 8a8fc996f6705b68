package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the vacuum's rules log, to the netlink group nflogGroup. One rule sees
// every packet that opens something: in the output hook before nat has rewritten
// its destination (a filter chain at priority mangle, -150; `ct direction
// original ct state new`), with prefixOut. A second one, right before the drop
// or reject in the input hook, says with prefixDark that nothing will take it.
// Both copy nflogHeaders bytes of the packet (snaplen) and queue one by one
// (qthreshold 1).
const (
	nflogGroup   = 1
	nflogHeaders = 128
	prefixOut    = "out"
	prefixDark   = "dark"
)

// From linux/netfilter/nfnetlink_log.h.
const (
	msgConfig  = 1
	cfgCmd     = 1
	cfgMode    = 2
	cfgQthresh = 5
	cfgFlags   = 6
	cmdBind    = 1
	copyPacket = 2
	flagSeq    = 1
)

// nflogBuffer is the socket's receive buffer in bytes: about 20,000 packets,
// two seconds of the busiest program.
const nflogBuffer = 16 << 20

// openNFLOG opens a socket that receives what the rules of this thread's
// network namespace log to a group. Call it inside the vacuum and pass the descriptor out;
// it needs CAP_NET_ADMIN over the namespace.
func openNFLOG(group uint16) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, fmt.Errorf("opening the packet log: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
			fd = -1
		}
	}()
	// Forced needs CAP_NET_ADMIN in the host's user namespace; without, the
	// kernel's limit applies and an overflow is noticed.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, nflogBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, nflogBuffer); err != nil {
			return -1, fmt.Errorf("sizing the packet log: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, fmt.Errorf("binding the packet log: %w", err)
	}
	for _, c := range []struct {
		attrs []byte
		doing string
	}{
		{nlAttr(cfgCmd, []byte{cmdBind}), "binding the packet log to its group"},
		{nlAttr(cfgMode, append(binary.BigEndian.AppendUint32(nil, nflogHeaders), copyPacket, 0)), "asking for packet headers"},
		{nlAttr(cfgQthresh, binary.BigEndian.AppendUint32(nil, 1)), "asking for packets one by one"},
		// A sequence number per group shows packets lost before the socket.
		{nlAttr(cfgFlags, binary.BigEndian.AppendUint16(nil, flagSeq)), "asking for sequence numbers"},
	} {
		if err := nflogConfigure(fd, group, c.attrs); err != nil {
			return -1, fmt.Errorf("%s: %w", c.doing, err)
		}
	}
	return fd, nil
}

func nlAttr(kind uint16, value []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(b)&3)...)
}

// nflogConfigure sends one NFULNL_MSG_CONFIG and waits for its answer. Packets
// that arrive before the answer are not there yet: rules come later.
func nflogConfigure(fd int, group uint16, attrs []byte) error {
	body := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, group)
	body = append(body, attrs...)
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.NFNL_SUBSYS_ULOG<<8|msgConfig)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	msg = append(msg, make([]byte, 8)...) // sequence and port
	msg = append(msg, body...)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is no acknowledgement")
	}
	if errno := -int32(binary.NativeEndian.Uint32(b[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// waitForRoom returns when less than half of the packet log's buffer is taken, so
// that a program that sends faster than its packets are read waits for its next
// call. What it sends without one that is watched can still be too much.
func waitForRoom(ctx context.Context, fd int) {
	for {
		// struct sk_meminfo: bytes taken, and the size of the buffer.
		var m [9]uint32
		size := uint32(len(m) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&m)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 || m[0] < m[1]/2 || ctx.Err() != nil {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// errPacketsLost says that the kernel logged more than was read.
var errPacketsLost = errors.New("the kernel dropped logged packets")

// watchPackets reads the packet log from a descriptor of openNFLOG, which it
// owns, until ctx ends; then it reads what is already queued and returns nil.
// Every packet that belongs to a program goes to seen as an observation of
// FromPacket without a Host. Packets that the kernel sends on its own behalf
// (neighbour discovery, group membership) have no owner and are left out. After
// an overflow it goes on reading and returns an error that wraps errPacketsLost.
func watchPackets(ctx context.Context, fd int, seen func(Attempt)) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("reading the packet log: %w", err)
	}
	f := os.NewFile(uintptr(fd), "nflog")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("reading the packet log: %w", err)
	}
	var lost error
	var next uint32
	buf := make([]byte, 64<<10)
	for {
		var n int
		var got error
		read := func(fd uintptr) bool {
			n, got = unix.Read(int(fd), buf)
			return got != unix.EAGAIN
		}
		if err := conn.Read(read); err != nil {
			if ctx.Err() == nil {
				return fmt.Errorf("reading the packet log: %w", err)
			}
			// What arrived before the end counts.
			if err := conn.Control(func(fd uintptr) { read(fd) }); err != nil || got == unix.EAGAIN {
				return lost
			}
		}
		switch {
		case got == unix.ENOBUFS:
			lost = fmt.Errorf("%w: its buffer of %d bytes overflowed", errPacketsLost, nflogBuffer)
			continue
		case got == unix.EINTR:
			continue
		case got != nil:
			return fmt.Errorf("reading the packet log: %w", got)
		}
		for _, p := range parseNFLOG(buf[:n]) {
			if p.hasSeq && p.seq != next && next != 0 {
				lost = fmt.Errorf("%w: after number %d came %d", errPacketsLost, next-1, p.seq)
			}
			if p.hasSeq {
				next = p.seq + 1
			}
			if a, ok := p.attempt(time.Now()); ok {
				seen(a)
			}
		}
	}
}
