package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// struct seccomp_notif and struct seccomp_notif_resp. A kernel with larger ones
// fills only as much as the request number says.
type notification struct {
	id    uint64
	pid   uint32 // of the thread, as this process sees it
	flags uint32
	data  struct {
		nr   int32
		arch uint32
		ip   uint64
		args [6]uint64
	}
}

type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// requests of seccomp_unotify(2) that x/sys does not name.
const (
	notifIDValid  = 0x40082102
	notifSetFlags = 0x40082104
)

// watch answers the listener's notifications until ctx ends or every process
// under the filter is gone, and closes fd. Each call is reported to seen before
// it goes on, once per destination (sendmmsg may have many), as an observation
// of FromSyscall without a Host; seen may judge it and add it to the record, and
// must be quick, for the program waits. Every call goes on, whatever was seen,
// but one for a socket of a family that is refused: what a program writes between
// the reading and the going on is not noticed here, but by the comparison with
// the packets.
//
// A call that could not be read is reported with the protocol "unknown", which
// a Record takes as a loss.
//
// Before ctx ends, end the processes: a call that nobody answers waits for ever.
func watch(ctx context.Context, fd int, seen func(Attempt)) error {
	// Waking the program on this processor saves a round through the scheduler;
	// older kernels do without.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSetFlags, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("watching system calls: %w", err)
	}
	f := os.NewFile(uintptr(fd), "seccomp listener")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("watching system calls: %w", err)
	}
	w := watcher{seen: seen, abis: map[uint32]abi{}}
	for _, a := range abis() {
		w.abis[a.arch] = a
	}
	for {
		var gone bool
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			w.fd = int(fd)
			for {
				p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
				n, err := unix.Poll(p, 0)
				switch {
				case err == unix.EINTR:
					continue
				case err != nil:
					failed = err
					return true
				case n == 0:
					return false
				case p[0].Revents&unix.POLLIN == 0:
					gone = true // hung up: no process is left
					return true
				}
				if failed = w.next(); failed != nil {
					return true
				}
			}
		})
		switch {
		case failed != nil:
			return fmt.Errorf("watching system calls: %w", failed)
		case gone:
			return nil
		case err != nil && ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("watching system calls: %w", err)
		}
	}
}

type watcher struct {
	fd   int
	seen func(Attempt)
	abis map[uint32]abi
}

// next takes one notification, reports it and lets the call go on, or refuses it.
func (w *watcher) next() error {
	var n notification
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
		if errno == unix.ENOENT || errno == unix.EINTR {
			return nil // its process was killed meanwhile
		}
		return errno
	}
	c := call{abi: w.abis[n.data.arch], nr: uint32(n.data.nr), args: n.data.args}
	w.report(n, c)
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if errno := c.refusal(); errno != 0 {
		r.err, r.flags = -int32(errno), 0
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))); errno != 0 && errno != unix.ENOENT {
		return errno
	}
	return nil
}

// alive says that the process still waits in the call, so that what was read
// under its number was its own.
func (w *watcher) alive(n notification) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(w.fd), notifIDValid, uintptr(unsafe.Pointer(&n.id)))
	return errno == 0
}

func (w *watcher) report(n notification, c call) {
	read := func(addr uint64, b []byte) error {
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		got, err := unix.ProcessVMReadv(int(n.pid), local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
		if err == nil && got < len(b) {
			err = unix.EFAULT
		}
		return err
	}
	now := time.Now()
	targets, err := c.targets(read)
	if errors.Is(err, unix.EFAULT) {
		return // the kernel will not be able to read it either
	}
	if err != nil {
		if w.alive(n) {
			w.seen(Attempt{Proto: protoUnknown, Count: 1, First: now, Sources: []Source{FromSyscall}, Detail: fmt.Sprintf("reading what call %d of process %d sends to: %v", n.data.nr, n.pid, err)})
		}
		return
	}
	if len(targets) == 0 {
		return
	}
	p := process{tid: int(n.pid)}
	var all []Attempt
	for _, t := range targets {
		if a, ok := p.attempt(t); ok {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return
	}
	who := p.identify()
	if !w.alive(n) {
		return
	}
	for _, a := range all {
		a.PID, a.HostPID, a.Executable, a.Command, a.Container = who.PID, who.HostPID, who.Executable, who.Command, who.Container
		a.Count, a.First, a.Sources = 1, now, []Source{FromSyscall}
		w.seen(a)
	}
}

// attempt is what a process is about to reach.
func (p *process) attempt(t target) (Attempt, bool) {
	if t.socket {
		a := Attempt{Proto: "family-" + strconv.Itoa(t.family), Destination: "socket", Verdict: Blocked, Outcome: Refused, Detail: "no address family of a vacuum"}
		switch {
		case t.family == afPacket:
			a = Attempt{Proto: protoPacket, Destination: "socket", Verdict: Blocked}
		case t.family == afVsock:
			a.Proto = protoVsock
		}
		if t.indirect {
			a.Outcome, a.Detail = Refused, "made by socketcall(2), which no filter can look into"
		}
		return a, true
	}
	s, ok := parseSockaddr(t.addr, t.send)
	if !ok {
		return Attempt{}, false
	}
	switch s.family {
	case afInet, afInet6:
		proto, typ, err := p.socket(int(t.fd))
		switch {
		case errors.Is(err, unix.EBADF) || errors.Is(err, unix.ENOTSOCK):
			return Attempt{}, false // the call fails with the same error
		case err != nil:
			return Attempt{Proto: protoUnknown, Detail: fmt.Sprintf("looking at a socket of process %d: %v", p.tid, err)}, true
		}
		name := protoName(proto)
		if typ == unix.SOCK_RAW && name != "icmp" {
			name = protoRaw
		}
		switch {
		case name == "icmp" || name == protoRaw:
			s.ip = addrOnly(s.ip)
		case s.ip.Port() == 0 && name == "udp":
			return Attempt{}, false // how programs ask for a route; nothing is sent
		}
		return Attempt{Proto: name, Destination: Endpoint(s.ip)}, true
	case afUnix:
		return p.unix(s), true
	}
	a := Attempt{Proto: s.proto, Destination: s.dest}
	if s.proto == protoPacket || s.proto == protoVsock {
		a.Verdict = Blocked
	}
	return a, true
}
