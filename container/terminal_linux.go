package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// terminal joins the operator's terminal to the one that a container's process
// makes for itself and sends over a socket (pty(7), SCM_RIGHTS).
type terminal struct {
	parent, child *os.File
	in            *os.File
	out           io.Writer
	host          console.Console // the operator's, in raw mode while attached
	pty           console.Console
	copied        chan struct{}
}

func newTerminal(in, out *os.File) (*terminal, error) {
	host, err := console.ConsoleFromFile(in)
	if err != nil {
		return nil, fmt.Errorf("%w: -t needs a terminal on standard input", ErrBadSpec)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making console socket: %w", err)
	}
	return &terminal{
		parent: os.NewFile(uintptr(fds[0]), "console"), child: os.NewFile(uintptr(fds[1]), "console"),
		in: in, out: out, host: host, copied: make(chan struct{}),
	}, nil
}

// attach receives the process's terminal and copies both ways.
func (t *terminal) attach() error {
	t.child.Close()
	f, err := receiveFile(t.parent)
	if err != nil {
		return fmt.Errorf("receiving the container's terminal: %w", err)
	}
	if t.pty, err = console.ConsoleFromFile(f); err != nil {
		return err
	}
	if err := t.host.SetRaw(); err != nil {
		return fmt.Errorf("setting the terminal to raw mode: %w", err)
	}
	t.resize()
	go func() { _, _ = io.Copy(t.pty, t.in) }()
	go func() {
		defer close(t.copied)
		_, _ = io.Copy(t.out, t.pty) // ends with EIO when the last process has closed it
	}()
	return nil
}

// size is that of the operator's terminal, in characters; 0, 0 if it has none.
func (t *terminal) size() (rows, cols uint16) {
	w, err := t.host.Size()
	if err != nil {
		return 0, 0
	}
	return w.Height, w.Width
}

func (t *terminal) resize() {
	if t == nil || t.pty == nil {
		return
	}
	_ = t.pty.ResizeFrom(t.host)
}

// Close waits for the last output and gives the operator's terminal back.
func (t *terminal) Close() {
	t.child.Close()
	t.parent.Close()
	if t.pty == nil {
		return
	}
	select {
	case <-t.copied:
	case <-time.After(time.Second): // a process left in the background holds it
	}
	_ = t.host.Reset()
	_ = t.pty.Close()
}

// receiveFile takes the one descriptor that the peer of a unix socket sends.
func receiveFile(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, errors.New("no descriptor was sent")
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "pty"), nil
}

// forward passes the signals that reach this process on, until stop is called.
// The third interrupt or termination within two seconds kills instead: the first
// process of a container ignores signals that it has no handler for.
func forward(ctx context.Context, send func(unix.Signal), tty *terminal) (stop func()) {
	ch := make(chan os.Signal, 64)
	signal.Notify(ch)
	done := make(chan struct{})
	go func() {
		var asked []time.Time
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				send(unix.SIGKILL)
				<-done
				return
			case s := <-ch:
				sig, ok := s.(unix.Signal)
				if !ok {
					continue
				}
				switch sig {
				case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE: // the Go runtime's and our own
					continue
				case unix.SIGWINCH:
					tty.resize()
					continue
				case unix.SIGINT, unix.SIGTERM:
					now := time.Now()
					asked = append(asked, now)
					if len(asked) >= 3 && now.Sub(asked[len(asked)-3]) < 2*time.Second {
						sig = unix.SIGKILL
					}
				}
				send(sig)
			}
		}
	}()
	return func() { signal.Stop(ch); close(done) }
}
