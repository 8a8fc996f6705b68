package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

type answer struct {
	message
	fds []int
}

// startFirst starts a vacuum's first process, in the cgroup unless that is below 0
// or the kernel cannot (before Linux 5.7).
func startFirst(control *os.File, attr *syscall.SysProcAttr, cgroup int) (*exec.Cmd, error) {
	attr.UseCgroupFD, attr.CgroupFD = cgroup >= 0, cgroup
	for {
		c := &exec.Cmd{
			Path: "/proc/self/exe", Args: []string{initName}, Env: []string{"GOMAXPROCS=2"}, Dir: "/",
			ExtraFiles: []*os.File{control}, SysProcAttr: attr,
		}
		err := c.Start()
		if err == nil || !attr.UseCgroupFD {
			return c, err
		}
		attr.UseCgroupFD = false
	}
}

// launch starts the first process in its namespaces.
func (w *World) launch() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	if w.control, err = newControl(os.NewFile(uintptr(pair[0]), "control")); err != nil {
		return err
	}
	home := -1
	if w.home != nil {
		home = int(w.home.dir.Fd())
	}
	if w.first, err = startFirst(theirs, namespaces(), home); err != nil {
		_ = w.control.conn.Close()
		return fmt.Errorf("%w: making namespaces: %w%s", ErrUnresolved, err, userNamespaceHint())
	}
	go w.receive()
	return nil
}

// ask sends a request and waits for its answer.
func (w *World) ask(ctx context.Context, m message, fds ...int) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return w.request(ctx, m, nil, fds...)
}

func (w *World) request(ctx context.Context, m message, p *Process, fds ...int) (answer, error) {
	got := make(chan answer, 1)
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return answer{}, ErrGone
	}
	w.nextID++
	m.ID = w.nextID
	w.pending[m.ID] = got
	if p != nil {
		p.id = m.ID
		w.procs[m.ID] = p
	}
	w.mu.Unlock()
	if err := w.control.send(m, fds...); err != nil {
		w.forget(m.ID)
		return answer{}, errors.Join(ErrGone, err)
	}
	select {
	case a := <-got:
		if a.Error != "" {
			closeAll(a.fds)
			w.forget(m.ID)
			return answer{}, &insideError{a.Error, unix.Errno(a.Errno)}
		}
		return a, nil
	case <-w.down:
		w.forget(m.ID)
		return answer{}, ErrGone
	case <-ctx.Done():
		w.forget(m.ID)
		select {
		case a := <-got:
			a.abandon()
		default:
		}
		return answer{}, ctx.Err()
	}
}

// abandon lets go of an answer that nobody waits for any more, and ends the
// process that it may have brought.
func (a answer) abandon() {
	if len(a.fds) > 0 {
		_ = unix.PidfdSendSignal(a.fds[0], unix.SIGKILL, nil, 0) // no process: EBADF
	}
	closeAll(a.fds)
}

func (w *World) forget(id int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pending, id)
	delete(w.procs, id)
}

// insideError is an error of the first process, with its errno if it has one.
type insideError struct {
	text  string
	errno unix.Errno
}

func (e *insideError) Error() string { return e.text }

func (e *insideError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// receive takes answers and news until the vacuum is gone.
func (w *World) receive() {
	defer func() {
		w.mu.Lock()
		procs := w.procs
		w.procs = map[int]*Process{}
		w.mu.Unlock()
		for _, p := range procs {
			p.finish(0, ErrGone)
		}
		close(w.down)
	}()
	for {
		m, fds, err := w.control.receive()
		if err != nil {
			return
		}
		w.mu.Lock()
		waiting, p := w.pending[m.ID], w.procs[m.ID]
		delete(w.pending, m.ID)
		if m.Exited != nil {
			delete(w.procs, m.ID)
		}
		w.mu.Unlock()
		switch {
		case m.Exited != nil && p != nil:
			closeAll(fds)
			p.finish(unix.WaitStatus(*m.Exited), nil)
		case waiting != nil:
			waiting <- answer{m, fds}
		default:
			answer{m, fds}.abandon()
		}
	}
}
