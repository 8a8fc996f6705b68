package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that a program in the vacuum may have, over the
// vacuum's own user namespace. Without CAP_NET_ADMIN and CAP_SYS_ADMIN nobody
// changes rules and mounts, without CAP_SYS_PTRACE nobody gets at the first
// process and its descriptors.
var kept = [...]uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
	unix.CAP_SETPCAP, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_IPC_LOCK, unix.CAP_IPC_OWNER, unix.CAP_SYS_CHROOT,
	unix.CAP_SYS_NICE, unix.CAP_LEASE, unix.CAP_AUDIT_WRITE, unix.CAP_SETFCAP,
}

// startConfined makes the thread that starts commands: what it starts has no more
// capabilities than kept, makes no socket that leads around the vacuum, and no
// ring that would make it unseen. With a record it is watched, and the watcher
// refuses sockets (see refusal), so that they are in the record: a filter's
// refusal would come before the report. The listener is -1 without.
func startConfined(record bool) (t *startingThread, listener int, err error) {
	listener = -1
	t, err = startThread(func() (err error) {
		if record {
			if listener, err = installNotify(); err != nil {
				return err
			}
		}
		if err := refuse(record); err != nil {
			return err
		}
		return dropCapabilities()
	})
	if err != nil && listener >= 0 {
		_ = unix.Close(listener)
	}
	return t, listener, err
}

// dropCapabilities leaves what this thread starts with no more than kept.
func dropCapabilities() error {
	for c := uintptr(0); c < 64; c++ {
		if slices.Contains(kept[:], c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			return nil // the kernel's last one was before
		} else if err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	return nil
}

// startingThread is a thread that starts processes, which are under what it has
// put itself under.
type startingThread struct{ work chan func() }

// startThread makes one that is not the process's first, and has prepared itself.
// It ends with close.
func startThread(prepare func() error) (*startingThread, error) {
	t := &startingThread{work: make(chan func())}
	ready := make(chan error)
	var run func()
	run = func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if unix.Gettid() == os.Getpid() {
			// The runtime keeps a process's first thread for ever; while it is
			// held here, the next goroutine gets another one.
			handed := make(chan struct{})
			go func() { close(handed); run() }()
			<-handed
			runtime.UnlockOSThread()
			return
		}
		err := prepare()
		ready <- err
		if err != nil {
			return
		}
		for f := range t.work {
			f()
		}
	}
	go run()
	return t, <-ready
}

// do runs f on the thread and waits for it. f may start processes; where they are
// watched, it must not connect or send.
func (t *startingThread) do(f func()) {
	done := make(chan struct{})
	t.work <- func() { defer close(done); f() }
	<-done
}

func (t *startingThread) close() { close(t.work) }

// start runs a command with the descriptors as its standard input, output and
// error, or with a terminal, and answers the request: a process descriptor, and
// the terminal's other end.
func (w *world) start(id int, s start, fds []int) ([]int, error) {
	if len(s.Args) == 0 {
		return nil, syscall.EINVAL
	}
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{Setsid: true}}
	if attr.Dir == "" {
		attr.Dir = "/"
	}
	var out []int
	done := func(err error) ([]int, error) {
		closeAll(out)
		return nil, err
	}
	if s.TTY {
		master, slave, err := openTerminal(s)
		if err != nil {
			return nil, err
		}
		defer unix.Close(slave)
		out = append(out, master)
		attr.Files = []uintptr{uintptr(slave), uintptr(slave), uintptr(slave)}
		attr.Sys.Setctty = true
	} else {
		if len(fds) != 3 {
			return nil, syscall.EBADF
		}
		for _, fd := range fds {
			attr.Files = append(attr.Files, uintptr(fd))
		}
	}
	if st, err := os.Stat(attr.Dir); err != nil {
		return done(fmt.Errorf("entering %s: %w", attr.Dir, err))
	} else if !st.IsDir() {
		return done(fmt.Errorf("entering %s: %w", attr.Dir, syscall.ENOTDIR))
	}
	path, err := look(s)
	if err != nil {
		return done(err)
	}
	pidfd := -1
	attr.Sys.PidFD = &pidfd
	w.mu.Lock()
	defer w.mu.Unlock()
	var pid int
	w.thread.do(func() { pid, err = syscall.ForkExec(path, s.Args, attr) })
	if err != nil {
		return done(fmt.Errorf("starting %s: %w", path, err))
	}
	if pidfd < 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
		return done(fmt.Errorf("starting %s: the kernel gave no process descriptor", path))
	}
	w.children[pid] = id
	out = append([]int{pidfd}, out...)
	if err := w.control.send(message{ID: id}, out...); err != nil {
		return done(err)
	}
	return out, nil
}

// look finds a program as a shell does, by the command's own PATH.
func look(s start) (string, error) {
	name := s.Args[0]
	dirs := []string{""}
	if !strings.Contains(name, "/") {
		path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
		for _, e := range s.Env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				path = v
			}
		}
		dirs = filepath.SplitList(path)
	}
	found := error(syscall.ENOENT)
	for _, d := range dirs {
		p := filepath.Join(d, name)
		if d == "" {
			p = name
		}
		at := p
		if !filepath.IsAbs(at) {
			at = filepath.Join("/", s.Dir, p)
		}
		st, err := os.Stat(at)
		switch {
		case err != nil:
		case st.IsDir() || st.Mode()&0o111 == 0:
			found = syscall.EACCES
		default:
			return p, nil
		}
	}
	return "", fmt.Errorf("starting %s: %w", name, found)
}

// openTerminal opens a terminal of the vacuum's own.
func openTerminal(s start) (master, slave int, err error) {
	if master, err = unix.Open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return -1, -1, fmt.Errorf("opening a terminal: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(master)
		}
	}()
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, -1, fmt.Errorf("unlocking a terminal: %w", err)
	}
	if s.Rows > 0 && s.Cols > 0 {
		if err := unix.IoctlSetWinsize(master, unix.TIOCSWINSZ, &unix.Winsize{Row: s.Rows, Col: s.Cols}); err != nil {
			return -1, -1, fmt.Errorf("sizing a terminal: %w", err)
		}
	}
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, -1, fmt.Errorf("opening a terminal: %w", errno)
	}
	return master, int(r), nil
}
