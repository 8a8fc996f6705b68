package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxHeld   = 64 << 10 // bytes kept of a connection that is not answered yet
	holdLimit = 2 * time.Minute
	flowChunk = 32 << 10

	firstChunk = 4 << 10

	socketBuffer = 256 << 10
)

// flow is a connection that the relay carries.
type flow struct {
	relay  *Relay
	client net.Conn
	about  Attempt // what the record gets, without bytes and outcome

	gate     atomic.Pointer[gate] // that it stands under now
	sent     atomic.Int64
	received atomic.Int64
	held     []byte // read from the client before it was let through

	background sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	ended  bool
	done   <-chan struct{} // closed with the flow's end
	cancel context.CancelFunc
}

// newFlow makes a flow that is reset when ctx ends. The context it returns ends
// with the flow.
func newFlow(ctx context.Context, r *Relay, c net.Conn, a Attempt) (context.Context, *flow) {
	ctx, cancel := context.WithCancel(ctx)
	f := &flow{relay: r, client: c, about: a, conns: []net.Conn{c}, done: ctx.Done(), cancel: cancel}
	context.AfterFunc(ctx, f.abort)
	return ctx, f
}

// local keeps the buffers of a connection within this host small: bytes that wait
// in large ones have left the processor's cache when they are read. A long way
// out needs its large buffers.
func local(c net.Conn) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetReadBuffer(socketBuffer)
	_ = t.SetWriteBuffer(socketBuffer)
}

// own makes a connection end with the flow.
func (f *flow) own(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		reset(c)
	}
	f.conns = append(f.conns, c)
}

// interrupt makes reads that wait look at their gate again.
func (f *flow) interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
}

// abort resets both sides.
func (f *flow) abort() { f.end(reset) }

// finish closes what is left open, without a reset.
func (f *flow) finish() { f.end(func(c net.Conn) { _ = c.Close() }) }

func (f *flow) end(how func(net.Conn)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended = true
	f.cancel()
	for _, c := range f.conns {
		how(c)
	}
}

func (f *flow) isDone() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// reset closes a connection so that the other side notices at once.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

func isOutOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

func (f *flow) under(g *gate) bool { return f.gate.Load() == g }

func (f *flow) add(v Verdict, count int, o Outcome, detail string) {
	a := f.about
	a.Verdict, a.Count, a.Outcome, a.Detail = v, count, o, detail
	if count == 0 {
		a.First = time.Now()
	}
	f.relay.add(a)
}

// total reports what a flow that was let through came to.
func (f *flow) total(o Outcome, detail string) {
	a := f.about
	a.Verdict, a.Count, a.First, a.Outcome, a.Detail = Allowed, 0, time.Now(), o, detail
	a.Sent, a.Received = f.sent.Load(), f.received.Load()
	if a.Outcome == "" && a.Received > 0 {
		a.Outcome = Answered
	}
	f.relay.add(a)
}

// run carries a connection under its gate.
func (f *flow) run(ctx context.Context, g *gate, to netip.AddrPort) {
	f.gate.Store(g)
	gates := []*gate{g}
	o := f.relay.https[g]
	if o != nil {
		gates = o.gates
		if g = o.open(); g != nil {
			f.gate.Store(g)
			f.about.Capability = g.Label()
		}
	}
	for _, g := range gates {
		g.enter(f)
		defer g.leave(f)
	}
	defer f.background.Wait()
	defer f.finish()
	if err := f.hold(false); err != nil {
		f.abort()
		return
	}
	if o != nil {
		o.serve(ctx, f, to)
		return
	}
	f.add(Allowed, 1, "", "")
	f.forward(ctx, f.gate.Load(), to)
}

// forward dials and moves bytes both ways.
func (f *flow) forward(ctx context.Context, g *gate, to netip.AddrPort) {
	up, err := f.relay.dial(ctx, g, "tcp", to)
	if err != nil {
		f.total(Broken, err.Error())
		f.abort()
		return
	}
	f.own(up)
	local(f.client)
	if addrPort(up.RemoteAddr()).Addr().IsLoopback() {
		local(up)
	}
	if g.dark() {
		f.interrupt()
	}
	back := make(chan error, 1)
	go func() {
		err := f.stream(up, f.client, &f.sent, f.held, nil)
		if err != nil {
			f.abort()
		}
		back <- err
	}()
	down := f.stream(f.client, up, &f.received, nil, func() { f.add(Allowed, 0, Answered, "") })
	if down != nil {
		f.abort()
	}
	err = errors.Join(down, <-back)
	switch {
	case f.received.Load() > 0:
		f.total(Answered, "")
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, errRefused):
		f.total(Refused, "")
	default:
		f.total("", "")
	}
}

// stream moves one direction until its source ends, and passes the end on. What
// is held goes first; begun is called when the first bytes have passed.
func (f *flow) stream(dst, src net.Conn, moved *atomic.Int64, held []byte, begun func()) error {
	var p pace
	buf := make([]byte, firstChunk) // many connections wait long for their first bytes
	pass := func(b []byte) error {
		g := f.gate.Load()
		if err := f.sleep(p.delay(&g.Capability, len(b), time.Now())); err != nil {
			return err
		}
		if err := g.wait(f.done); err != nil { // it may have become dark meanwhile
			return err
		}
		n, err := dst.Write(b)
		if moved.Add(int64(n)) == int64(n) && n > 0 && begun != nil {
			begun()
		}
		return err
	}
	if len(held) > 0 {
		if err := pass(held); err != nil {
			return err
		}
	}
	for {
		if err := f.ready(src); err != nil {
			return err
		}
		var err error
		if c := &f.gate.Load().Capability; !p.begun || c.Bandwidth > 0 {
			var n int
			if p.begun && len(buf) < flowChunk {
				buf = make([]byte, flowChunk)
			}
			if n, err = src.Read(buf[:chunk(c, len(buf))]); n > 0 {
				if e := pass(buf[:n]); e != nil {
					return e
				}
			}
			if errors.Is(err, io.EOF) {
				return closeWrite(dst)
			}
		} else {
			buf = nil
			// Between TCP connections this is splice(2).
			var n int64
			n, err = io.Copy(dst, src)
			moved.Add(n)
			if err == nil {
				return closeWrite(dst)
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// ready waits until the flow's gate is open and lets src be read. The mode is
// looked at after the deadline is lifted: whoever changes it sets the deadline
// afterwards.
func (f *flow) ready(src net.Conn) error {
	for {
		g := f.gate.Load()
		if err := g.wait(f.done); err != nil {
			return err
		}
		if err := src.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		if !g.dark() {
			return nil
		}
	}
}

func (f *flow) sleep(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-f.done:
		return net.ErrClosed
	}
}

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		if err := w.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			return err
		}
	}
	return nil
}

// hold keeps a connection without an answer while its gate is dark. An error
// means that there is nothing to carry any more. reported says that the record
// has it already.
func (f *flow) hold(reported bool) error {
	var left <-chan time.Time
	for {
		mode, changed := f.gate.Load().state()
		switch mode {
		case ModeAllow:
			return f.client.SetReadDeadline(time.Time{})
		case ModeRefuse:
			f.add(Blocked, 1, Refused, "")
			return errRefused
		case ModeDrop, ModeWedge:
		}
		if !reported {
			f.add(Blocked, 1, Wedged, "")
			reported = true
		}
		if left != nil || len(f.held) >= maxHeld {
			select {
			case <-changed:
			case <-left:
				return net.ErrClosed
			case <-f.done:
				return net.ErrClosed
			}
			continue
		}
		if err := f.client.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
		if now, _ := f.gate.Load().state(); now != mode {
			continue
		}
		buf := make([]byte, min(4096, maxHeld-len(f.held)))
		n, err := f.client.Read(buf)
		f.held = append(f.held, buf[:n]...)
		switch {
		case err == nil || errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, io.EOF):
			// The program has closed its socket, or only has no more to say.
			left = time.After(holdLimit)
		default:
			return err
		}
	}
}

// lose keeps a connection that nothing will ever answer, until its program
// gives up.
func (f *flow) lose(o Outcome, why string) {
	f.add(Blocked, 1, o, why)
	f.gate.Store(newGate(Capability{Mode: ModeDrop}))
	_ = f.hold(true)
	f.abort()
}
