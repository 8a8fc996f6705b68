package container

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Run runs the container in the foreground with this process's own descriptors,
// passes signals on and, with a terminal, joins the two. It returns when the
// container has ended; the caller then discards it.
func (c *Container) Run(ctx context.Context, stdin, stdout, stderr *os.File) (Exit, error) {
	streams := stdio{in: stdin, out: stdout, err: stderr}
	var tty *terminal
	if c.rec.Spec.Terminal {
		var err error
		if tty, err = newTerminal(stdin, stdout); err != nil {
			return Exit{}, err
		}
		defer tty.Close()
		streams = stdio{console: tty.child}
		streams.rows, streams.cols = tty.size()
	}
	p, err := c.start(streams)
	if err != nil {
		return Exit{}, err
	}
	started := time.Now()
	if tty != nil {
		if err := tty.attach(); err != nil {
			return Exit{}, err
		}
	}
	stop := forward(ctx, func(sig unix.Signal) { _ = p.lib.Signal(sig) }, tty)
	defer stop()
	return p.wait(started), nil
}
