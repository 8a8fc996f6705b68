package names

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// tcpPatience bounds how long one message may take in or out, so that a slow client holds a connection only.
	tcpPatience = 5 * time.Second
	// tcpPipeline bounds the queries of one connection that wait for upstream (RFC 7766, section 6.2.1.1).
	tcpPipeline = 32
)

// conns are the TCP connections, those first that are idle longest.
type conns struct {
	mu   sync.Mutex
	most int
	idle *list.List // of *tcpConn
	all  map[*tcpConn]struct{}
}

func (c *conns) init(most int) {
	c.most, c.idle, c.all = most, list.New(), map[*tcpConn]struct{}{}
}

// A tcpConn is a client's connection (RFC 7766).
type tcpConn struct {
	net.Conn
	server *Server
	idle   *list.Element // while it waits for a query
	write  sync.Mutex
	asked  chan struct{}  // one for each query that waits for upstream
	owed   sync.WaitGroup // the same, for the end
}

// enter makes room for a connection and says whether there is some.
func (c *conns) enter(t *tcpConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= c.most {
		oldest := c.idle.Front()
		if oldest == nil {
			return false
		}
		c.remove(oldest.Value.(*tcpConn))
	}
	c.all[t] = struct{}{}
	return true
}

// remove forgets and closes a connection. Closing wakes its goroutine.
func (c *conns) remove(t *tcpConn) {
	c.busyLocked(t)
	if _, ok := c.all[t]; ok {
		delete(c.all, t)
		_ = t.Close() // nothing of it is wanted any more
	}
}

func (c *conns) leave(t *tcpConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(t)
}

func (c *conns) waits(t *tcpConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.all[t]; ok && t.idle == nil {
		t.idle = c.idle.PushBack(t)
	}
}

func (c *conns) busy(t *tcpConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busyLocked(t)
}

func (c *conns) busyLocked(t *tcpConn) {
	if t.idle != nil {
		c.idle.Remove(t.idle)
		t.idle = nil
	}
}

// hush ends the wait for queries; those that were asked are still answered.
func (c *conns) hush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.all {
		_ = t.SetReadDeadline(time.Unix(1, 0)) // one that is closed waits for nothing
	}
}

func (c *conns) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.all {
		c.remove(t)
	}
}

func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// serveTCP accepts connections until the listener is closed.
func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of file descriptors, most likely: they come back.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		t := &tcpConn{Conn: conn, server: s}
		if !s.conns.enter(t) || ctx.Err() != nil {
			s.conns.leave(t)
			_ = conn.Close() // it got no word from us
			continue
		}
		serving.Go(func() {
			defer s.conns.leave(t)
			t.serve(ctx)
		})
	}
}

// serve answers until the client is silent for too long, too slow, or gone. What does not look like DNS ends it.
func (t *tcpConn) serve(ctx context.Context) {
	defer t.owed.Wait()
	var client netip.AddrPort
	if a, ok := t.RemoteAddr().(*net.TCPAddr); ok {
		client = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	for {
		t.server.conns.waits(t)
		var size [2]byte
		if t.SetReadDeadline(time.Now().Add(t.server.o.Idle)) != nil || ctx.Err() != nil {
			return
		}
		if _, err := io.ReadFull(t, size[:1]); err != nil {
			return
		}
		t.server.conns.busy(t)
		if t.SetReadDeadline(time.Now().Add(tcpPatience)) != nil {
			return
		}
		if _, err := io.ReadFull(t, size[1:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n < headerSize || !t.one(ctx, n, client) {
			return
		}
	}
}

// one reads a query and answers it. It says whether the connection goes on.
func (t *tcpConn) one(ctx context.Context, n int, client netip.AddrPort) bool {
	in := buffers.Get().(*buffer)
	defer buffers.Put(in)
	msg := in[:n]
	if _, err := io.ReadFull(t, msg); err != nil {
		return false
	}
	out := buffers.Get().(*buffer)
	defer buffers.Put(out)
	j := workers.Get().(*worker)
	defer workers.Put(j)
	s := t.server
	v := s.handle(s.set.Load(), &j.q, &j.w, msg, out[2:], client.Addr(), true)
	s.counts.query(&v)
	if v.forward {
		return t.forward(ctx, append([]byte(nil), msg...), client)
	}
	if v.n == 0 {
		return false
	}
	if s.o.SampleEvery != 0 && s.counts.sampled(s.o.SampleEvery) {
		s.sample(&j.q, client, true, v)
	}
	return t.send(out[:2+v.n])
}

// send writes a message with room for its length in front.
func (t *tcpConn) send(msg []byte) bool {
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	t.write.Lock()
	defer t.write.Unlock()
	if t.SetWriteDeadline(time.Now().Add(tcpPatience)) != nil {
		return false
	}
	_, err := t.Write(msg)
	return err == nil
}

// forward has a query answered from upstream, while the next ones are read.
func (t *tcpConn) forward(ctx context.Context, msg []byte, client netip.AddrPort) bool {
	if t.asked == nil {
		t.asked = make(chan struct{}, tcpPipeline)
	}
	select {
	case t.asked <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	t.owed.Add(1)
	s := t.server
	s.ask(ctx, msg, true, func(answer []byte, q *query, v verdict) {
		defer func() { <-t.asked; t.owed.Done() }()
		if !t.send(append(make([]byte, 2, 2+len(answer)), answer...)) {
			s.conns.leave(t)
		}
		if s.o.SampleEvery != 0 && s.counts.sampled(s.o.SampleEvery) {
			s.sample(q, client, true, v)
		}
	})
	return true
}
