package container

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// socket is one listening TCP or bound UDP socket of a network namespace.
type socket struct {
	proto string
	local netip.AddrPort
	inode uint64
}

// maxSocketTable bounds each table of /proc/net that is read, in bytes. TCP's
// listeners come first and end the reading; only UDP's table is read whole.
const maxSocketTable = 64 << 20

// listening lists the sockets of the network namespace at the path netns, or of
// the caller's own for "". A kernel without IPv6 has half of the tables.
func listening(netns string) ([]socket, error) {
	var all []socket
	read := func() error {
		for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
			f, err := os.Open("/proc/thread-self/net/" + table)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("reading sockets: %w", err)
			}
			found, err := parseSockets(io.LimitReader(f, maxSocketTable), table)
			_ = f.Close() // read only
			if err != nil {
				return fmt.Errorf("reading sockets of %s: %w", table, err)
			}
			all = append(all, found...)
		}
		return nil
	}
	if netns == "" {
		err := read()
		return all, err
	}
	err := onThread(func() error {
		f, err := os.Open(netns)
		if err != nil {
			return fmt.Errorf("opening network namespace: %w", err)
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace %s: %w", netns, err)
		}
		return read()
	})
	return all, err
}

// onThread runs f on an OS thread of its own that ends with f, so that f may
// change the thread's namespaces. It never is the process's main thread, which
// cannot end and which /proc/self shows.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onThread(f) // while this one holds the main thread
			return
		}
		done <- f()
	}()
	return <-done
}

// tcpListen is TCP_LISTEN of include/net/tcp_states.h as /proc/net prints it.
const tcpListen = "0A"

// parseSockets reads one table of /proc/net (see proc_net(5)). table is tcp,
// tcp6, udp or udp6. A line that does not parse is skipped: the kernel wrote it,
// and one odd line must not hide the others.
func parseSockets(r io.Reader, table string) ([]socket, error) {
	proto, tcp := table[:3], strings.HasPrefix(table, "tcp")
	var found []socket
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		fields := strings.Fields(sc.Text())
		if len(fields) < 10 || !strings.HasSuffix(fields[0], ":") {
			continue
		}
		if tcp && fields[3] != tcpListen {
			break // the kernel prints all listeners before any connection
		}
		local, err := hexAddr(fields[1])
		inode, err2 := strconv.ParseUint(fields[9], 10, 64)
		if err != nil || err2 != nil || local.Port() == 0 {
			continue
		}
		if peer, err := hexAddr(fields[2]); err == nil && peer.Port() != 0 {
			continue // a connected UDP socket is a client's
		}
		found = append(found, socket{proto: proto, local: local, inode: inode})
	}
	return found, sc.Err()
}

// hexAddr reads "0100007F:0016": 32-bit words in host byte order, then the port.
func hexAddr(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, fmt.Errorf("reading socket address %q: %w", s, fs.ErrInvalid)
	}
	for w := 0; w < len(raw); w += 4 {
		binary.NativeEndian.PutUint32(raw[w:], binary.BigEndian.Uint32(raw[w:]))
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading socket address %q: %w", s, fs.ErrInvalid)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// clash says whether a process that wants p would meet the socket s, and
// whether that is sure. A listener on [::] is taken for dual-stack, as nearly
// all are: Go's and Java's wildcard listeners look like this.
func (s socket) clash(p Port) (meets, sure bool) {
	if s.proto != p.Proto || s.local.Port() != p.Port {
		return false, false
	}
	have, want := s.local.Addr(), p.Addr.Unmap().WithZone("")
	switch {
	case !want.IsValid():
		return true, have.IsUnspecified() && !p.Guess
	case have == netip.IPv6Unspecified(), want == netip.IPv6Unspecified():
	case have.IsUnspecified(), want.IsUnspecified():
		if have.Is4() != want.Is4() {
			return false, false
		}
	case have != want:
		return false, false
	}
	return true, !p.Guess
}

// PortOwner lists, in order, the processes that hold the socket which answers at
// port in the caller's network namespace: the one bound to that very address,
// else the wildcard of its family, else the dual-stack one. None are listed for
// an address of another host, and none where only the kernel holds the socket.
func PortOwner(ctx context.Context, port Port) ([]int, error) {
	want := port.Addr.Unmap().WithZone("")
	if want.IsValid() && !want.IsLoopback() && !want.IsUnspecified() && !slices.Contains(localAddrs(), want) {
		return nil, nil
	}
	socks, err := listening("")
	if err != nil {
		return nil, err
	}
	best, inodes := 0, map[uint64]bool{}
	for _, s := range socks {
		if meets, _ := s.clash(port); !meets {
			continue
		}
		rank := 1
		switch have := s.local.Addr(); {
		case have == want:
			rank = 3
		case have == netip.IPv4Unspecified():
			rank = 2
		}
		if rank > best {
			best, inodes = rank, map[uint64]bool{}
		}
		if rank == best {
			inodes[s.inode] = true
		}
	}
	if len(inodes) == 0 {
		return nil, nil
	}
	var owners []int
	err = eachProcess(ctx, func(p *proc) {
		p.eachFD(func(_, target string) {
			if n, ok := socketInode(target); ok && inodes[n] && !slices.Contains(owners, p.pid) {
				owners = append(owners, p.pid)
			}
		})
	})
	slices.Sort(owners)
	return owners, err
}

// socketInode reads a descriptor's link "socket:[4711]".
func socketInode(target string) (uint64, bool) {
	number, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return n, err == nil
}
