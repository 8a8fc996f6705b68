package sandbox

import (
	"errors"
	"net"
	"os"
	"time"
)

// end is the program's side of a flow whose bytes this process handles itself:
// its reads and writes stop while the gate is dark, and are slowed down and
// counted.
type end struct {
	net.Conn
	f       *flow
	in, out pace
	free    bool // reads go on in the dark: what follows may be another gate's
}

func (e *end) Read(b []byte) (int, error) {
	if len(e.f.held) > 0 {
		n := copy(b, e.f.held)
		e.f.held = e.f.held[n:]
		return e.came(n)
	}
	for {
		err := e.Conn.SetReadDeadline(time.Time{})
		if !e.free {
			err = e.f.ready(e.Conn)
		}
		if err != nil {
			return 0, err
		}
		n, err := e.Conn.Read(b[:chunk(&e.f.gate.Load().Capability, len(b))])
		if n > 0 {
			return e.came(n)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, err
		}
	}
}

func (e *end) came(n int) (int, error) {
	e.f.sent.Add(int64(n))
	g := e.f.gate.Load()
	err := e.f.sleep(e.in.delay(&g.Capability, n, time.Now()))
	if err == nil && !e.free {
		err = g.wait(e.f.done)
	}
	return n, err
}

func (e *end) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		g := e.f.gate.Load()
		n := chunk(&g.Capability, len(b))
		if err := e.f.sleep(e.out.delay(&g.Capability, n, time.Now())); err != nil {
			return total, err
		}
		if err := g.wait(e.f.done); err != nil {
			return total, err
		}
		n, err := e.Conn.Write(b[:n])
		total += n
		e.f.received.Add(int64(n))
		if err != nil {
			return total, err
		}
		b = b[n:]
	}
	return total, nil
}

// CloseWrite is what a tls.Conn and the end of a request need.
func (e *end) CloseWrite() error { return closeWrite(e.Conn) }

// SetReadDeadline and SetDeadline do nothing: the flow uses the deadline itself.
func (e *end) SetReadDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (e *end) SetDeadline(time.Time) error { return nil }
