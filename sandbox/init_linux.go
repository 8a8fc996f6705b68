package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is the whole command line of a vacuum's first process.
const initName = "blackstart-vacuum"

// controlFD is where it finds its end of the socket pair.
const controlFD = 3

// Init turns this process into the first one of a vacuum, if [Up] started it as
// such, and does not return then. A program that calls Up must call Init at the
// beginning of its main function (a test, of TestMain).
//
// The same for the process that holds a [Fabric]'s segment, and the one that
// becomes the command of [Guard].
func Init() {
	var run func() error
	switch {
	case len(os.Args) == 1 && os.Args[0] == initName && os.Getpid() == 1:
		run = first
	case len(os.Args) == 1 && os.Args[0] == segmentName:
		run = holdSegment
	case len(os.Args) > 1 && os.Args[0] == guardName:
		run = becomeGuarded
	default:
		return
	}
	if err := run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// world is the vacuum as its first process sees it.
type world struct {
	control control
	thread  *startingThread // starts the commands
	wedges  []net.Listener
	rules   ruleset

	mu       sync.Mutex  // held while a process is started or reaped
	children map[int]int // process -> ID of its Start
}

// first builds the world and serves the supervisor until it is gone: whatever
// ends the supervisor closes the socket, and the end of a process namespace's
// first process ends all of it.
func first() error {
	// What the supervisor was started with must not stay open in here.
	if err := closeInherited(); err != nil {
		return fmt.Errorf("closing inherited descriptors: %w", err)
	}
	unix.CloseOnExec(controlFD)
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	// A program inside that signals everyone must not end the world.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM, unix.SIGABRT, unix.SIGTRAP)
	c, err := newControl(os.NewFile(controlFD, "control"))
	if err != nil {
		return err
	}
	m, fds, err := c.receive()
	if err != nil || m.Setup == nil {
		return errors.Join(err, errors.New("no setup"))
	}
	closeAll(fds)
	w := &world{control: c, children: map[int]int{}}
	watching, warnings, err := w.setUp(m.Setup)
	answer := message{ID: m.ID, Warnings: warnings}
	if err != nil {
		answer.Error = err.Error()
	}
	if err := c.send(answer, watching...); err != nil {
		return err
	}
	closeAll(watching)
	if err != nil {
		return err
	}
	go w.reap(died)
	return w.serve()
}

// closeInherited closes what is not marked to be closed with exec, as all that
// this process has opened itself is.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= controlFD {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			if err := unix.Close(fd); err != nil {
				return err
			}
		}
	}
	return nil
}

// setUp builds the root, the network and the thread that starts commands side by
// side. The descriptors are, with a record, those of the packet log, of what the
// peers log and of the system call listener; then those that the setup asks for.
// After an error this process ends, and with it what it has opened.
func (w *world) setUp(s *setup) (fds []int, warnings []string, err error) {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return nil, nil, fmt.Errorf("setting the host name: %w", err)
		}
	}
	if err := openPorts(); err != nil {
		return nil, nil, err
	}
	var side sync.WaitGroup
	var warning string
	var logs []int
	var networkErr, threadErr error
	side.Go(func() {
		if warning, networkErr = w.network(s); networkErr == nil && s.Record {
			logs, networkErr = openLogs(s.Rules.Peers)
		}
	})
	listener := -1
	side.Go(func() { w.thread, listener, threadErr = startConfined(s.Record) })
	warnings, err = buildRoot(s)
	side.Wait()
	if err = errors.Join(err, networkErr, threadErr); err != nil {
		return nil, nil, err
	}
	if warning != "" {
		warnings = append(warnings, warning)
	}
	if s.Record {
		fds = append(logs, listener)
	}
	for _, p := range s.Listen {
		got, err := w.listen(p)
		if err != nil {
			return nil, nil, fmt.Errorf("listening on %s inside: %w", p.Address, err)
		}
		fds = append(fds, got...)
	}
	return fds, warnings, nil
}

// openLogs opens the packet log, and those of the traffic from peers.
func openLogs(peers []int) (all []int, err error) {
	log, err := openNFLOG(nflogGroup)
	all = append(all, log)
	for _, host := range peers {
		if err == nil {
			log, err = openNFLOG(peerGroup(host))
			all = append(all, log)
		}
	}
	return all, err
}

// network opens the listeners that wedge before the rules that lead to them.
func (w *world) network(s *setup) (string, error) {
	warning, err := buildNetwork(s)
	w.rules = s.Rules
	if err == nil && s.Rules.wedges() {
		err = w.setRules(s.Rules)
	}
	return warning, err
}

// setRules replaces the rules, with listeners to wedge at where they are needed.
func (w *world) setRules(r ruleset) error {
	if len(w.wedges) == 0 && r.wedges() {
		v4, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("listening to wedge: %w", err)
		}
		v6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", v4.Addr().(*net.TCPAddr).Port))
		if err != nil {
			_ = v4.Close()
			return fmt.Errorf("listening to wedge: %w", err)
		}
		w.wedges = []net.Listener{v4, v6}
	}
	if len(w.wedges) > 0 {
		r.Wedge = uint16(w.wedges[0].Addr().(*net.TCPAddr).Port)
	}
	if err := r.apply(true); err != nil {
		return err
	}
	w.rules = r
	return nil
}

func (r ruleset) wedges() bool {
	if r.Dark == ModeWedge {
		return true
	}
	for _, rule := range r.Rules {
		if rule.Mode == ModeWedge && rule.Proto == "tcp" {
			return true
		}
	}
	return false
}

// serve answers requests until the supervisor is gone.
func (w *world) serve() error {
	for {
		m, fds, err := w.control.receive()
		if err != nil {
			return err
		}
		answer := message{ID: m.ID}
		var out []int
		switch {
		case m.Start != nil:
			out, err = w.start(m.ID, *m.Start, fds)
		case m.Listen != nil:
			out, err = w.listen(*m.Listen)
		case m.Rules != nil:
			err = w.setRules(*m.Rules)
		default:
			err = errors.New("an unknown request")
		}
		closeAll(fds)
		if err != nil {
			answer.Error = err.Error()
			var errno syscall.Errno
			if errors.As(err, &errno) {
				answer.Errno = int(errno)
			}
		}
		if m.Start != nil && err == nil {
			closeAll(out)
			continue // start has answered, before the end could be told
		}
		err = w.control.send(answer, out...)
		closeAll(out)
		if err != nil {
			return err
		}
	}
}

// listen opens a listener or packet socket inside.
func (w *world) listen(e Place) ([]int, error) {
	if e.Network == ConntrackPlace {
		fd, err := OpenConntrack()
		return []int{fd}, err
	}
	if path := e.Address; e.Network == "unix" && filepath.IsAbs(path) {
		// In the throw-away layer, where a host's socket is a name without a listener.
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSocket {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
	}
	type filer interface{ File() (*os.File, error) }
	var l interface{ Close() error }
	var err error
	switch e.Network {
	case "udp", "udp4", "udp6", "unixgram":
		l, err = net.ListenPacket(e.Network, e.Address)
	default:
		var nl net.Listener
		if nl, err = (&net.ListenConfig{}).Listen(context.Background(), e.Network, e.Address); err == nil {
			if u, ok := nl.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			l = nl
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.Close() }()
	f, err := l.(filer).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return []int{fd}, nil
}

// reap collects every process that ends, orphans among them, and tells of those
// that Start began.
func (w *world) reap(died <-chan os.Signal) {
	for range died {
		for {
			w.mu.Lock()
			var status unix.WaitStatus
			pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
			id, ours := w.children[pid]
			delete(w.children, pid)
			w.mu.Unlock()
			if err == unix.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			if ours {
				code := int(status)
				if err := w.control.send(message{ID: id, Exited: &code}); err != nil {
					return // the supervisor is gone: serve ends too
				}
			}
		}
	}
}
