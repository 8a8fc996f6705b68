package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refuseFamilies puts this thread, and what it starts, under a filter: sockets of
// families that know no network namespaces (vsock among them) cannot be made, nor
// rings that would make them unseen. Its refusal comes before the report of
// notifyFilter, so that such a socket is not in the record.
func refuseFamilies() error {
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
		if a.socketcall != noCall {
			// Its arguments stand in memory, where a filter cannot look. The C
			// libraries have used the single calls since Linux 4.3.
			body = append(body, unix.SockFilter{Code: jeq, K: a.socketcall, Jf: 4},
				unix.SockFilter{Code: load, K: offArgs},
				unix.SockFilter{Code: jeq, K: callSocket, Jt: 1},
				unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW},
				unix.SockFilter{Code: ret, K: errno | uint32(unix.ENOSYS)})
		}
		families := []uint32{afUnix, afInet, afInet6, afNetlink, afPacket}
		body = append(body, unix.SockFilter{Code: jeq, K: a.socket, Jf: uint8(2 + len(families))}, unix.SockFilter{Code: load, K: offArgs})
		for i, f := range families {
			body = append(body, unix.SockFilter{Code: jeq, K: f, Jt: uint8(len(families) - i)})
		}
		body = append(body, unix.SockFilter{Code: ret, K: errno | uint32(unix.EAFNOSUPPORT)}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW})
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
