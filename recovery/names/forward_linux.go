package names

import (
	"context"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// forward answers a datagram from upstream, or fails to, apart from the batch.
func (u *socket) forward(ctx context.Context, b *slot, n int, client netip.Addr) {
	// The slot is used again at once.
	from, vec := b.from, unix.Iovec{}
	h := u.in[u.index(b)].hdr
	control := append([]byte(nil), b.control[:h.Controllen]...)
	port := b.port()
	u.server.ask(ctx, append([]byte(nil), b.query[:n]...), false, func(answer []byte, q *query, v verdict) {
		vec.Base = &answer[0]
		vec.SetLen(len(answer))
		h.Name, h.Iov, h.Flags = (*byte)(unsafe.Pointer(&from)), &vec, 0
		h.Control = nil
		if h.SetControllen(0); u.wild && len(control) > 0 {
			h.Control = &control[0]
			h.SetControllen(len(control))
		}
		raw, err := u.conn.SyscallConn()
		if err != nil {
			return
		}
		var errno syscall.Errno
		err = raw.Write(func(fd uintptr) bool {
			_, _, errno = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
			return errno != unix.EAGAIN
		})
		if err != nil || errno != 0 {
			u.server.counts.add(countUnsent, 1)
		}
		if u.server.o.SampleEvery != 0 && u.server.counts.sampled(u.server.o.SampleEvery) {
			u.server.sample(q, netip.AddrPortFrom(client, port), false, v)
		}
	})
}

// index is the place of a slot in its batch.
func (u *socket) index(b *slot) int {
	return int((uintptr(unsafe.Pointer(b)) - uintptr(unsafe.Pointer(&u.slots[0]))) / unsafe.Sizeof(*b))
}
