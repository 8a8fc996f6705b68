package sandbox

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// families are the address families that a program in the vacuum may make a
// socket of. The others know no network namespaces, vsock among them, or nobody
// has looked whether they do.
var families = [...]uint32{afUnix, afInet, afInet6, afNetlink, afPacket}

// refusal is what a call that was seen ends with, in place of going on: 0 for
// most. The family stands in a register, so that the program cannot change it
// while it is looked at; where it does not, nothing is made.
func (c call) refusal() unix.Errno {
	switch {
	case c.nr == c.abi.socketcall && c.nr != noCall && uint32(c.args[0]) == callSocket:
		return unix.ENOSYS
	case c.nr == c.abi.socket && !slices.Contains(families[:], uint32(c.args[0])):
		return unix.EAFNOSUPPORT
	}
	return 0
}

// refuse puts this thread, and what it starts, under a filter that refuses rings,
// and what a watcher would refuse (see refusal) unless there is one.
func refuse(watched bool) error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jge   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		errno = unix.SECCOMP_RET_ERRNO
	)
	filter := []unix.SockFilter{{Code: load, K: offArch}}
	for _, a := range abis() {
		body := []unix.SockFilter{{Code: load, K: offNr}}
		if a.x32 {
			body = append(body, unix.SockFilter{Code: jge, K: 1 << 30, Jf: 1}, unix.SockFilter{Code: ret, K: errno | uint32(unix.ENOSYS)})
		}
		for _, nr := range ioUring {
			body = append(body, unix.SockFilter{Code: jeq, K: nr, Jf: 1}, unix.SockFilter{Code: ret, K: errno | uint32(unix.ENOSYS)})
		}
		if a.socketcall != noCall && !watched {
			// Its arguments stand in memory, where a filter cannot look, and where a
			// program could change them under a watcher's eyes. 32-bit C libraries
			// that were built for kernels before 4.3 make all their sockets so.
			body = append(body, unix.SockFilter{Code: jeq, K: a.socketcall, Jf: 4},
				unix.SockFilter{Code: load, K: offArgs},
				unix.SockFilter{Code: jeq, K: callSocket, Jt: 1},
				unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
				unix.SockFilter{Code: ret, K: errno | uint32(unix.ENOSYS)})
		}
		if !watched {
			body = append(body, unix.SockFilter{Code: jeq, K: a.socket, Jf: uint8(2 + len(families))}, unix.SockFilter{Code: load, K: offArgs})
			for i, f := range families {
				body = append(body, unix.SockFilter{Code: jeq, K: f, Jt: uint8(len(families) - i)})
			}
			body = append(body, unix.SockFilter{Code: ret, K: errno | uint32(unix.EAFNOSUPPORT)})
		}
		body = append(body, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
		filter = append(filter, unix.SockFilter{Code: jeq, K: a.arch, Jf: uint8(len(body))})
		filter = append(filter, body...)
	}
	filter = append(filter, unix.SockFilter{Code: ret, K: errno | uint32(unix.ENOSYS)})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return fmt.Errorf("installing the system call filter: %w", e)
	}
	return nil
}
