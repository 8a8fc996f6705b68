package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is a program to run in a vacuum.
type Cmd struct {
	Args []string // the first is looked up in the vacuum, by PATH of Env
	Env  []string // nil: this process's; either way as [ScrubEnv] leaves it
	Dir  string   // in the vacuum; empty: /
	// TTY gives the program a terminal of the vacuum's own in place of the
	// streams below; Rows and Cols are its size.
	TTY        bool
	Rows, Cols uint16
	// The streams; nil means nothing, as with os/exec. Pipes and terminals are
	// handed over as they are. Everything else is copied, so that the program
	// cannot open what lies behind a descriptor.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a program that was started in a vacuum.
type Process struct {
	id       int
	hostPID  int
	pidfd    *os.File
	terminal *os.File
	copies   []*copier
	stdin    *os.File // our end, if it is copied

	done   chan struct{}
	status unix.WaitStatus
	err    error
	once   sync.Once
}

// Spawn starts a program. When ctx ends before it, it is killed. An error that
// the program is not there or cannot be run wraps fs.ErrNotExist or
// fs.ErrPermission.
func (w *World) Spawn(ctx context.Context, c Cmd) (*Process, error) {
	if len(c.Args) == 0 {
		return nil, fmt.Errorf("%w: no command", ErrBadOptions)
	}
	env := c.Env
	if env == nil {
		env = os.Environ()
	}
	p := &Process{done: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	var fds []int
	if !c.TTY {
		var err error
		if theirs, fds, err = p.streams(c); err != nil {
			p.release()
			return nil, err
		}
	}
	a, err := w.spawn(ctx, start{Args: c.Args, Env: ScrubEnv(env), Dir: c.Dir, TTY: c.TTY, Rows: c.Rows, Cols: c.Cols}, p, fds)
	if err != nil {
		p.release()
		return nil, err
	}
	p.pidfd = os.NewFile(uintptr(a.fds[0]), "process")
	if c.TTY {
		if err := unix.SetNonblock(a.fds[1], true); err == nil {
			p.terminal = os.NewFile(uintptr(a.fds[1]), "terminal")
		} else {
			_ = unix.Close(a.fds[1])
		}
	}
	p.hostPID = pidOf(p.pidfd)
	for _, c := range p.copies {
		go c.run()
	}
	if p.stdin != nil {
		go func() {
			// The reader may block for ever; the process's end makes the write fail.
			_, _ = io.Copy(p.stdin, c.Stdin)
			_ = p.stdin.Close()
		}()
	}
	go func() {
		select {
		case <-ctx.Done():
			_ = p.Signal(unix.SIGKILL)
			<-p.done
		case <-p.done:
		}
		_ = p.pidfd.Close()
	}()
	return p, nil
}

func (w *World) spawn(ctx context.Context, s start, p *Process, fds []int) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	a, err := w.request(ctx, message{Start: &s}, p, fds...)
	if err != nil {
		return answer{}, err
	}
	want := 1
	if s.TTY {
		want = 2
	}
	if len(a.fds) != want {
		closeAll(a.fds)
		return answer{}, fmt.Errorf("starting %s: %d descriptors came back; want %d", s.Args[0], len(a.fds), want)
	}
	return a, nil
}

// HostPID is the process's number as the host sees it; 0 if it had ended
// already when that was asked.
func (p *Process) HostPID() int { return p.hostPID }

// Terminal is this side of the program's terminal, or nil.
func (p *Process) Terminal() *os.File { return p.terminal }

// Signal sends a signal to the process. One that has ended takes it silently.
func (p *Process) Signal(s unix.Signal) error {
	c, err := p.pidfd.SyscallConn()
	if err != nil {
		return nil //nolint:nilerr // closed: it has ended
	}
	var sent error
	if err := c.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) }); err != nil {
		return nil //nolint:nilerr // closed: it has ended
	}
	if sent != nil && sent != unix.ESRCH {
		return fmt.Errorf("sending %v to process %d: %w", s, p.hostPID, sent)
	}
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process, and until what it has written is
// copied. The code is its exit status, or 128 and the number of the signal that
// ended it. The error wraps ErrGone if the vacuum ended first.
func (p *Process) Wait() (code int, err error) {
	<-p.done
	var errs []error
	for _, c := range p.copies {
		<-c.done
		if c.err != nil {
			errs = append(errs, fmt.Errorf("copying output: %w", c.err))
		}
	}
	if p.err != nil {
		return 0, errors.Join(append([]error{p.err}, errs...)...)
	}
	if p.status.Signaled() {
		return 128 + int(p.status.Signal()), errors.Join(errs...)
	}
	return p.status.ExitStatus(), errors.Join(errs...)
}

// finish is called once the process is gone.
func (p *Process) finish(s unix.WaitStatus, err error) {
	p.once.Do(func() {
		p.status, p.err = s, err
		for _, c := range p.copies {
			c.drain()
		}
		close(p.done)
	})
}

// release closes what a process that was never started holds.
func (p *Process) release() {
	for _, c := range p.copies {
		_ = c.from.Close()
	}
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
}

// streams makes the program's three descriptors.
func (p *Process) streams(c Cmd) (theirs []*os.File, fds []int, err error) {
	for i := range 3 {
		var f *os.File
		var given any
		switch {
		case i == 0 && c.Stdin != nil:
			given = c.Stdin
		case i == 1 && c.Stdout != nil:
			given = c.Stdout
		case i == 2 && c.Stderr != nil:
			given = c.Stderr
		}
		file, isFile := given.(*os.File)
		switch {
		case given == nil:
			f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
		case isFile && harmless(file):
			fds = append(fds, int(file.Fd()))
			continue
		case i == 2 && c.Stderr == c.Stdout && !isFile:
			fds = append(fds, fds[1])
			continue
		default:
			var ours *os.File
			if i == 0 {
				f, ours, err = os.Pipe()
				p.stdin = ours
			} else if ours, f, err = os.Pipe(); err == nil {
				p.copies = append(p.copies, &copier{from: ours, to: given.(io.Writer), done: make(chan struct{})})
			}
		}
		if err != nil {
			return theirs, nil, fmt.Errorf("opening the command's streams: %w", err)
		}
		theirs = append(theirs, f)
		fds = append(fds, int(f.Fd()))
	}
	return theirs, fds, nil
}

// harmless says that a program can do nothing with a descriptor but read and
// write: it is a pipe, a terminal or the null device. Through a file or directory
// it could get at the host's, even for writing (/proc/self/fd), and through a
// socket at what connects it.
func harmless(f *os.File) bool {
	var st unix.Stat_t
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = c.Control(func(fd uintptr) {
		if unix.Fstat(int(fd), &st) != nil {
			return
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFIFO:
			ok = true
		case unix.S_IFCHR:
			_, err := unix.IoctlGetTermios(int(fd), unix.TCGETS)
			ok = err == nil || st.Rdev == unix.Mkdev(1, 3)
		}
	})
	return err == nil && ok
}

// copier carries what a program writes.
type copier struct {
	from *os.File
	to   io.Writer
	err  error
	done chan struct{}
}

func (c *copier) run() {
	defer close(c.done)
	defer c.from.Close()
	_, err := io.Copy(c.to, c.from)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.err = err
		return
	}
	// The program has ended; another may hold the pipe open. What it wrote is
	// there.
	conn, err := c.from.SyscallConn()
	if err != nil {
		c.err = err
		return
	}
	b := make([]byte, 64<<10)
	for {
		n := 0
		if err := conn.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), b) }); err != nil || n <= 0 {
			return
		}
		if _, c.err = c.to.Write(b[:n]); c.err != nil {
			return
		}
	}
}

// drain makes the copier stop when the pipe is empty.
func (c *copier) drain() { _ = c.from.SetReadDeadline(time.Unix(1, 0)) }

// pidOf reads a process descriptor's number (proc_pid_fdinfo(5)).
func pidOf(pidfd *os.File) int {
	f, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(int(pidfd.Fd())))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "Pid:"); ok {
			if n, err := strconv.Atoi(strings.TrimSpace(v)); err == nil && n > 0 {
				return n
			}
		}
	}
	return 0
}
