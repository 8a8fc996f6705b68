package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	maxDatagram   = 65535
	maxUDPFlows   = 1024             // at once; the one that was quiet longest gives way
	maxUDPWaiting = 256              // datagrams of one direction that are delayed or wait for the upstream socket
	udpFlowIdle   = 60 * time.Second // less than connection tracking remembers a stream
	udpMaxBacklog = time.Second      // that rate= may queue up before datagrams are lost
	udpSocketRoom = 1 << 20          // bytes of receive buffer asked for
)

// udpRelay is one listening socket with its flows.
type udpRelay struct {
	relay *Relay
	conn  net.PacketConn
	local netip.AddrPort
	work  sync.WaitGroup

	mu    sync.Mutex
	flows map[netip.AddrPort]*udpFlow
}

// udpFlow is one socket of a program, at one destination.
type udpFlow struct {
	u      *udpRelay
	client netip.AddrPort
	gate   *gate // nil: nothing covers it
	about  Attempt
	last   atomic.Int64 // Unix nanoseconds of the last datagram
	queue  chan []byte
	cancel context.CancelFunc

	waiting atomic.Int64 // datagrams that are delayed
	mu      sync.Mutex
	in, out pace
}

// ServeUDP carries the datagrams that arrive at conn until ctx ends, and closes
// conn. Every datagram is delayed by latency=; loss= applies to each, either
// way. The error is the socket's, nil after ctx.
func (r *Relay) ServeUDP(ctx context.Context, conn net.PacketConn) error {
	ctx, cancel := context.WithCancel(ctx)
	u := &udpRelay{relay: r, conn: conn, local: addrPort(conn.LocalAddr()), flows: map[netip.AddrPort]*udpFlow{}}
	defer u.work.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if c, ok := conn.(*net.UDPConn); ok {
		_ = c.SetReadBuffer(udpSocketRoom)
	}
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("relaying datagrams: %w", err)
		}
		u.take(ctx, addrPort(from), buf[:n])
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort()
	case *net.TCPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// take hands a datagram to its flow, which it makes first where there is none.
func (u *udpRelay) take(ctx context.Context, client netip.AddrPort, b []byte) {
	now := time.Now()
	u.mu.Lock()
	f := u.flows[client]
	u.mu.Unlock()
	if f == nil {
		if f = u.open(ctx, client, now); f == nil {
			return
		}
	}
	f.last.Store(now.UnixNano())
	switch {
	case f.gate == nil:
		f.note(Blocked, 1, Silent, "no capability covers it")
		return
	case f.gate.dark():
		f.note(Blocked, 1, Silent, "")
		return
	case f.gate.loses():
		f.note(Blocked, 1, Silent, "lost on purpose, as its loss= says")
		return
	}
	f.note(Allowed, 1, "", "")
	c := append([]byte(nil), b...)
	f.later(&f.in, len(b), func() {
		select {
		case f.queue <- c:
		default: // as any full queue on the way would
		}
	})
}

// later does something when latency and rate have passed, or not at all.
func (f *udpFlow) later(p *pace, n int, do func()) {
	f.mu.Lock()
	p.begun = false // each datagram is a first byte
	backlog := time.Until(p.free)
	var d time.Duration
	if f.gate.Bandwidth == 0 || backlog < udpMaxBacklog {
		d = p.delay(&f.gate.Capability, n, time.Now())
	} else {
		d = -1
	}
	f.mu.Unlock()
	switch {
	case d < 0:
	case d == 0:
		do()
	case f.waiting.Add(1) > maxUDPWaiting:
		f.waiting.Add(-1)
	default:
		time.AfterFunc(d, func() {
			defer f.waiting.Add(-1)
			do()
		})
	}
}

// open makes a flow for a program's socket, or says in the record why not.
func (u *udpRelay) open(ctx context.Context, client netip.AddrPort, now time.Time) *udpFlow {
	to, err := u.relay.o.OriginalPacket(u.local, client)
	if err != nil {
		u.relay.add(Attempt{
			Proto: "udp", Destination: Endpoint(u.local), Verdict: Blocked, Count: 1,
			Outcome: Broken, Detail: "its destination is not known: " + err.Error(),
		})
		return nil
	}
	f := &udpFlow{u: u, client: client, queue: make(chan []byte, maxUDPWaiting), about: Attempt{Proto: "udp", Destination: Endpoint(to)}}
	f.last.Store(now.UnixNano())
	if f.gate, f.about.Name = u.relay.find("udp", to); f.gate != nil {
		f.about.Capability = f.gate.Label()
	}
	ctx, f.cancel = context.WithCancel(ctx)
	u.mu.Lock()
	if len(u.flows) >= maxUDPFlows {
		u.evict()
	}
	u.flows[client] = f
	u.mu.Unlock()
	u.work.Go(func() {
		defer f.cancel()
		f.run(ctx, to)
		u.mu.Lock()
		if u.flows[client] == f {
			delete(u.flows, client)
		}
		u.mu.Unlock()
	})
	return f
}

// evict ends the flow that was quiet longest. The lock is held.
func (u *udpRelay) evict() {
	var oldest *udpFlow
	for _, f := range u.flows {
		if oldest == nil || f.last.Load() < oldest.last.Load() {
			oldest = f
		}
	}
	if oldest != nil {
		oldest.cancel()
		delete(u.flows, oldest.client)
	}
}

// run carries a flow until it has been quiet for a while.
func (f *udpFlow) run(ctx context.Context, to netip.AddrPort) {
	idle := time.NewTicker(udpFlowIdle / 4)
	defer idle.Stop()
	if f.gate == nil {
		f.quiet(ctx, idle, nil)
		return
	}
	up, err := f.u.relay.dial(ctx, f.gate, "udp", to)
	if err != nil {
		f.note(Allowed, 0, Broken, err.Error())
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = up.Close() })
	defer stop()
	defer up.Close()
	var back sync.WaitGroup
	back.Go(func() { f.back(ctx, up) })
	f.quiet(ctx, idle, up)
	_ = up.Close()
	f.cancel()
	back.Wait()
}

// note tells the record. Every datagram counts, as every call of sendto does.
func (f *udpFlow) note(v Verdict, count int, o Outcome, detail string) {
	a := f.about
	a.Verdict, a.Count, a.Outcome, a.Detail = v, count, o, detail
	f.u.relay.add(a)
}

func (f *udpFlow) carried(sent, received int) {
	a := f.about
	a.Verdict, a.Sent, a.Received = Allowed, int64(sent), int64(received)
	if received > 0 {
		a.Outcome = Answered
	}
	f.u.relay.add(a)
}

// quiet sends what is queued until the flow is idle.
func (f *udpFlow) quiet(ctx context.Context, idle *time.Ticker, up net.Conn) {
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-idle.C:
			if now.UnixNano()-f.last.Load() > int64(udpFlowIdle) {
				return
			}
		case b := <-f.queue:
			if f.gate.dark() {
				continue
			}
			if n, err := up.Write(b); err == nil {
				f.carried(n, 0)
			} else if errors.Is(err, syscall.ECONNREFUSED) {
				f.note(Allowed, 0, Refused, "")
			}
		}
	}
}

// back carries answers.
func (f *udpFlow) back(ctx context.Context, up net.Conn) {
	buf := make([]byte, maxDatagram)
	to := net.UDPAddrFromAddrPort(f.client)
	for {
		n, err := up.Read(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			if errors.Is(err, syscall.ECONNREFUSED) {
				f.note(Allowed, 0, Refused, "")
				continue
			}
			return
		}
		f.last.Store(time.Now().UnixNano())
		if f.gate.dark() || f.gate.loses() {
			continue
		}
		b := append([]byte(nil), buf[:n]...)
		f.later(&f.out, n, func() {
			if f.gate.dark() {
				return
			}
			if n, err := f.u.conn.WriteTo(b, to); err == nil {
				f.carried(0, n)
			}
		})
	}
}
