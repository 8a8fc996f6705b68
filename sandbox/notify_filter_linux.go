package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// abi is one system call convention: its number in seccomp_data, the size of a
// pointer in bytes, and the numbers of the calls that name a destination.
type abi struct {
	arch       uint32
	word       int
	x32        bool // calls with bit 30 set are the x32 convention: refused
	connect    uint32
	sendto     uint32
	sendmsg    uint32
	sendmmsg   uint32
	socket     uint32
	socketcall uint32 // the older single entry for all of them
}

const noCall = 0xffffffff

// offsets in struct seccomp_data; arguments are 8 bytes, little endian on every
// machine there is a table for.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// ioUring are io_uring_setup, io_uring_enter and io_uring_register, the same on
// every machine. A ring connects without a system call that could be seen.
var ioUring = [...]uint32{425, 426, 427}

// notifyFilter is the program that every process in the vacuum runs under. It
// lets everything pass but reports connect, sendto with an address, sendmsg,
// sendmmsg and socket with a family other than unix, IPv4, IPv6 and netlink.
// io_uring and conventions without a table end in ENOSYS.
func notifyFilter() []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jge  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K

		allow  = unix.SECCOMP_RET_ALLOW
		notify = unix.SECCOMP_RET_USER_NOTIF
		refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	type prog = []unix.SockFilter
	end := func(k uint32) prog { return prog{{Code: ret, K: k}} }
	// when runs then if the loaded word equals k; then must return.
	when := func(k uint32, then prog) prog {
		return append(prog{{Code: jeq, K: k, Jf: uint8(len(then))}}, then...)
	}
	arg := func(n, half int) unix.SockFilter {
		return unix.SockFilter{Code: load, K: uint32(offArgs + 8*n + 4*half)}
	}
	oneOf := func(first unix.SockFilter, yes, no uint32, values ...uint32) prog {
		p := prog{first}
		for _, v := range values {
			p = append(p, when(v, end(yes))...)
		}
		return append(p, end(no)...)
	}

	p := prog{{Code: load, K: offArch}}
	for _, a := range abis() {
		body := prog{{Code: load, K: offNr}}
		if a.x32 {
			body = append(body, unix.SockFilter{Code: jge, K: 1 << 30, Jf: 1}, end(refuse)[0])
		}
		for _, nr := range []uint32{a.connect, a.sendmsg, a.sendmmsg} {
			body = append(body, when(nr, end(notify))...)
		}
		// send(2) is sendto without an address: the connect before it was seen.
		body = append(body, when(a.sendto, append(
			prog{arg(4, 0), {Code: jeq, K: 0, Jt: 1}, end(notify)[0]},
			oneOf(arg(4, 1), allow, notify, 0)...))...)
		body = append(body, when(a.socket, oneOf(arg(0, 0), allow, notify, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK))...)
		if a.socketcall != noCall {
			body = append(body, when(a.socketcall, oneOf(arg(0, 0), notify, allow, callSocket, callConnect, callSendto, callSendmsg, callSendmmsg))...)
		}
		for _, nr := range ioUring {
			body = append(body, when(nr, end(refuse))...)
		}
		p = append(p, when(a.arch, append(body, end(allow)...))...)
	}
	return append(p, end(refuse)...)
}

// installNotify puts the calling thread, and with it every process it starts
// from then on, under the filter, and returns the listener's descriptor, which
// is close-on-exec. The goroutine must be locked to its thread and never
// unlocked.
//
// The caller must not connect or send anything on that thread: it would wait
// for a supervisor that has no listener yet. Let another goroutine pass the
// descriptor on; the descriptor table is shared, the filter is not.
// [startThread] does all this.
//
// Without CAP_SYS_ADMIN over the thread's user namespace it sets no_new_privs,
// as seccomp(2) asks. EBUSY means that the process tree has a listener already.
func installNotify() (fd int, err error) {
	filter := notifyFilter()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	load := func(flags uintptr) (int, unix.Errno) {
		r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags|unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
		runtime.KeepAlive(filter)
		return int(r), errno
	}
	// Without it (before Linux 5.19) a signal that keeps coming can restart a
	// call for ever.
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	fd, errno := load(flags)
	if errno == unix.EINVAL {
		flags = 0
		fd, errno = load(flags)
	}
	if errno == unix.EACCES {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("giving up new privileges: %w", err)
		}
		fd, errno = load(flags)
	}
	if errno != 0 {
		return -1, fmt.Errorf("installing the system call filter: %w", errno)
	}
	return fd, nil
}
