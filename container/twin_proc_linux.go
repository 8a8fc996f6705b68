package container

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// proc is one process while its directory in /proc is held open. Every read may
// find it gone; what is then missing reads as empty.
type proc struct {
	pid int
	dir *os.File // /proc/PID
}

// eachProcess calls f for every process in turn. Processes that end meanwhile
// are left out; a list that cannot be read at all is an error.
func eachProcess(ctx context.Context, f func(*proc)) error {
	root, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("listing processes: %w", err)
	}
	defer root.Close()
	names, err := root.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("listing processes: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("listing processes: %w", err)
		}
		fd, err := unix.Openat(int(root.Fd()), name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		p := &proc{pid: pid, dir: os.NewFile(uintptr(fd), name)}
		f(p)
		_ = p.dir.Close() // an O_PATH descriptor has nothing to lose
	}
	return nil
}

// link reads one symbolic link below the process's directory, or "".
func (p *proc) link(name string) string {
	buf := make([]byte, 256)
	for {
		n, err := unix.Readlinkat(int(p.dir.Fd()), name, buf)
		if err != nil {
			return ""
		}
		if n < len(buf) {
			return string(buf[:n])
		}
		if len(buf) > unix.PathMax {
			return ""
		}
		buf = make([]byte, 2*len(buf))
	}
}

// open opens a file below the process's directory; the caller closes it.
func (p *proc) open(name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read gives at most limit bytes of a file below the process's directory.
func (p *proc) read(name string, limit int64) []byte {
	f, err := p.open(name, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil
	}
	return b
}

// stat follows a link below the process's directory, whichever mount namespace
// its target is in.
func (p *proc) stat(name string) (unix.Stat_t, bool) {
	var st unix.Stat_t
	err := unix.Fstatat(int(p.dir.Fd()), name, &st, 0)
	return st, err == nil
}

// eachFD calls f for every open descriptor with what its link says.
func (p *proc) eachFD(f func(fd, target string)) {
	d, err := p.open("fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close() // read only
	if err != nil {
		return
	}
	for _, fd := range names {
		if target := p.link("fd/" + fd); target != "" {
			f(fd, target)
		}
	}
}

// argv is the command line, empty for a kernel thread or a zombie.
func (p *proc) argv() []string {
	b := p.read("cmdline", 64<<10)
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// maxCommand bounds a command line shown to an operator, in bytes.
const maxCommand = 200

// command is argv for people: one line, printable, bounded.
func command(argv []string) string {
	line := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.Join(argv, " "))
	if len(line) <= maxCommand {
		return line
	}
	return strings.ToValidUTF8(line[:maxCommand], "") + "…"
}
