package sandbox

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a thread of a program in the vacuum, by the number the supervisor
// knows it under. What is read here holds only while the thread waits in its
// call.
type process struct {
	tid  int
	tgid int // 0 until read
	pid  int // as itself sees it

	buf    []byte // what readProc read last
	looked socketOf
}

// socketOf is what the socket at a descriptor is; a call may send a thousand
// messages by one.
type socketOf struct {
	fd, proto, typ int
	known          bool
}

func (p *process) proc(name string) string {
	return "/proc/" + strconv.Itoa(p.tid) + "/" + name
}

const maxProc = 4096 // bytes that are read of a file of a process, a command line among them

// readProc reads the first bytes of a file of the process, which are there until
// the next call; an unreadable one is empty.
func (p *process) readProc(name string) []byte {
	fd, err := unix.Open(p.proc(name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	if p.buf == nil {
		p.buf = make([]byte, maxProc)
	}
	n, err := unix.Read(fd, p.buf)
	if err != nil {
		return nil
	}
	return p.buf[:n]
}

// ids reads the thread group and the process's own number for itself.
func (p *process) ids() {
	if p.tgid != 0 {
		return
	}
	p.tgid, p.pid = p.tid, p.tid
	for l := range bytes.Lines(p.readProc("status")) {
		k, v, _ := strings.Cut(string(l), ":")
		f := strings.Fields(v)
		if len(f) == 0 {
			continue
		}
		switch k {
		case "Tgid":
			p.tgid, _ = strconv.Atoi(f[0])
		case "NStgid":
			p.pid, _ = strconv.Atoi(f[len(f)-1])
			return
		}
	}
}

// identify says who the process is.
func (p *process) identify() Attempt {
	p.ids()
	a := Attempt{PID: p.pid, HostPID: p.tgid}
	a.Executable, _ = os.Readlink(p.proc("exe"))
	for arg := range strings.SplitSeq(strings.TrimSuffix(string(p.readProc("cmdline")), "\x00"), "\x00") {
		a.Command = append(a.Command, arg)
	}
	a.Container = containerOf(string(p.readProc("cgroup")))
	return a
}

// containerOf finds a container of blackstart in /proc/PID/cgroup: its cgroup is
// /blackstart_NAME below every hierarchy's root.
func containerOf(cgroup string) string {
	for l := range strings.Lines(cgroup) {
		parts := strings.SplitN(strings.TrimSuffix(l, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		if _, rest, ok := strings.Cut(parts[2], "/blackstart_"); ok {
			name, _, _ := strings.Cut(rest, "/")
			return name
		}
	}
	return ""
}

// socket says which IP protocol and type a descriptor of the process has.
func (p *process) socket(fd int) (proto, typ int, err error) {
	if p.looked.known && p.looked.fd == fd {
		return p.looked.proto, p.looked.typ, nil
	}
	p.ids()
	pidfd, err := unix.PidfdOpen(p.tgid, 0)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(pidfd)
	s, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(s)
	if proto, err = unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil {
		typ, err = unix.GetsockoptInt(s, unix.SOL_SOCKET, unix.SO_TYPE)
	}
	p.looked = socketOf{fd, proto, typ, err == nil}
	return proto, typ, err
}

func addrOnly(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }

// unix says whether a unix socket is there, and whether anything in the
// process's network namespace has bound it: the file of a host's daemon may
// shine through a lower layer, with nobody behind it, or may have been bound in,
// which its file system tells.
func (p *process) unix(s sockaddr) Attempt {
	a := Attempt{Proto: s.proto, Destination: s.dest}
	names := []string{s.path}
	if s.proto == protoUnix {
		cwd := ""
		if !filepath.IsAbs(s.path) {
			cwd, _ = os.Readlink(p.proc("cwd"))
		}
		a.Destination = absolute(cwd, s.path)
		f, there := p.find(a.Destination)
		if !there {
			a.Verdict, a.Outcome = Blocked, NotFound
			return a
		}
		a.device = f.device
		names = append(names, f.path)
	}
	if !bound(p.readAll("net/unix"), append(names, a.Destination)) {
		a.Verdict, a.Outcome = Blocked, Refused
		if s.proto == protoAbstract {
			a.Outcome = NotFound
		}
	}
	return a
}

// found is a file that a path leads to: the number of its file system, 0 if that
// cannot be told, and its path without links, as its mounts have it.
type found struct {
	device uint64
	path   string
}

// find follows a path below the process's own root.
func (p *process) find(path string) (f found, there bool) {
	at, rest := p.startOf(path)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	if at != "root" {
		how.Resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	}
	fd, err := unix.Open(p.proc(at), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return found{}, true // stay with what the call will say
	}
	defer unix.Close(fd)
	if rest != "" {
		below, err := unix.Openat2(fd, rest, &how)
		if err != nil {
			return found{}, err != unix.ENOENT && err != unix.ENOTDIR
		}
		defer unix.Close(below)
		fd = below
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return found{}, true
	}
	f.device = st.Dev
	f.path, _ = os.Readlink(fdPath(fd))
	return f, true
}

// startOf is the file below the process's directory of /proc that a path begins
// at: its root, or what the path itself goes through, as in /proc/self/fd/3/x,
// by which programs reach sockets whose path is too long.
func (p *process) startOf(path string) (at, rest string) {
	p.ids()
	for _, self := range []string{"self", "thread-self", strconv.Itoa(p.pid)} {
		s, ok := strings.CutPrefix(path, "/proc/"+self+"/")
		if !ok {
			continue
		}
		at, rest, _ = strings.Cut(s, "/")
		n := ""
		if at == "fd" {
			n, rest, _ = strings.Cut(rest, "/")
			at += "/" + n
		}
		if _, err := strconv.ParseUint(n, 10, 31); err == nil || at == "root" || at == "cwd" {
			return at, rest
		}
	}
	return "root", path
}

// readAll reads a whole file of the process, at most 1 MiB of it.
func (p *process) readAll(name string) []byte {
	f, err := os.Open(p.proc(name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, 0, 16<<10)
	for len(b) < 1<<20 {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil {
			break
		}
	}
	return b
}

// bound looks for one of the names in /proc/net/unix. A name there that is
// relative is so to where its program was, and counts by its last part. An empty
// table was not readable and counts as found.
func bound(table []byte, names []string) bool {
	if len(table) == 0 {
		return true
	}
	for l := range bytes.Lines(table) {
		// Address, references, protocol, flags, type, state, and the inode, which
		// is padded to five characters; a path may hold blanks.
		f := strings.SplitN(strings.TrimSuffix(string(l), "\n"), " ", 7)
		if len(f) < 7 {
			continue
		}
		_, path, ok := strings.Cut(strings.TrimLeft(f[6], " "), " ")
		if !ok {
			continue
		}
		for _, n := range names {
			if path == n || (path[0] != '/' && path[0] != '@' && n != "" && n[0] != '@' && filepath.Base(path) == filepath.Base(n)) {
				return true
			}
		}
	}
	return false
}
