package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// guardName is how the process is called that becomes a guarded command, whose
// arguments follow.
const guardName = "blackstart-guard"

// guardProbe is a destination that every guard denies, without counting it: an
// address for documentation (RFC 5737) and the port of discard, by UDP, so that
// nothing is sent even where nothing denies it.
var guardProbe = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 255}), 9)

// guardFailure is what the process says when it cannot become the command.
type guardFailure struct {
	Error      string `json:"error"`
	Errno      int    `json:"errno"`
	Unresolved bool   `json:"unresolved"` // the guard does not hold
}

// where that process finds its pipe to say it, and the cgroup's list of processes.
const (
	guardReportFD = 3
	guardProcsFD  = 4
)

// becomeGuarded enters the cgroup, makes sure that it is guarded, and becomes the
// command. It returns only if it cannot.
func becomeGuarded() error {
	runtime.LockOSThread() // capabilities are a thread's
	unix.CloseOnExec(guardReportFD)
	unix.CloseOnExec(guardProcsFD)
	f := guardFailure{}
	err := enterGuard()
	if err != nil {
		f.Unresolved = true
	} else {
		err = execGuarded()
	}
	f.Error = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		f.Errno = int(errno)
	}
	report := os.NewFile(guardReportFD, "report")
	return errors.Join(err, json.NewEncoder(report).Encode(f), report.Close())
}

func enterGuard() error {
	procs := os.NewFile(guardProcsFD, "cgroup.procs")
	_, err := procs.WriteString("0")
	if err = errors.Join(err, procs.Close()); err != nil {
		return fmt.Errorf("entering the guarded cgroup: %w", err)
	}
	// Before Linux 5.14 a socket has no cgroup of version 2 where net_cls or
	// net_prio of version 1 are in use, and every guard is passed by unseen.
	mapped := netip.AddrFrom16(guardProbe.Addr().As16())
	for _, to := range []unix.Sockaddr{
		&unix.SockaddrInet4{Addr: guardProbe.Addr().As4(), Port: int(guardProbe.Port())},
		&unix.SockaddrInet6{Addr: mapped.As16(), Port: int(guardProbe.Port())},
	} {
		family := unix.AF_INET
		if _, ok := to.(*unix.SockaddrInet6); ok {
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == unix.EAFNOSUPPORT && family == unix.AF_INET6 {
			continue // a host without IPv6
		}
		if err != nil {
			return fmt.Errorf("trying the guard: %w", err)
		}
		err = unix.Connect(fd, to)
		_ = unix.Close(fd)
		if err != unix.EPERM {
			return fmt.Errorf("trying the guard: a connection that it denies ends with %v; want %w", err, unix.EPERM)
		}
	}
	return dropRaw()
}

// dropRaw gives up the right to raw and packet sockets, which no guard sees. Root
// gets by exec what its bounding and inheritable sets leave (capabilities(7)).
func dropRaw() error {
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_RAW, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up raw sockets: %w", err)
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	err := unix.Capget(&h, &d[0])
	if err == nil {
		d[0].Inheritable &^= 1 << unix.CAP_NET_RAW
		err = unix.Capset(&h, &d[0])
	}
	if err != nil {
		return fmt.Errorf("giving up raw sockets: %w", err)
	}
	return nil
}

func execGuarded() error {
	dir, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("looking for the working directory: %w", err)
	}
	s := start{Args: os.Args[1:], Env: os.Environ(), Dir: dir}
	path, err := look(s)
	if err != nil {
		return err
	}
	if err := unix.Exec(path, s.Args, s.Env); err != nil {
		return fmt.Errorf("starting %s: %w", path, err)
	}
	return nil
}
