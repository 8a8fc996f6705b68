//go:build !linux

package names

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
)

const reusePort = false

// A socket is the UDP socket of an address.
type socket struct {
	server *Server
	conn   *net.UDPConn
	at     netip.AddrPort
	counts counts
}

func (s *Server) newSocket(ctx context.Context, at netip.AddrPort, _ bool) (*socket, error) {
	if at.Addr().IsUnspecified() {
		return nil, errors.New("listening on every address needs Linux; name one")
	}
	p, err := new(net.ListenConfig).ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return nil, err
	}
	return &socket{server: s, conn: p.(*net.UDPConn), at: at}, nil
}

// serve answers until the socket is closed.
func (u *socket) serve(ctx context.Context) error {
	rate := u.server.o.Rate
	if u.at.Addr().IsLoopback() {
		rate = 0
	}
	limit := newLimiter(rate)
	var q query
	var w reply
	in, out := make([]byte, 2048), make([]byte, udpSize)
	for {
		n, from, err := u.conn.ReadFromUDPAddrPort(in)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			if strings.Contains(err.Error(), "message too long") || strings.Contains(err.Error(), "refused") {
				continue
			}
			return err
		}
		if limit.take(from.Addr(), seconds()) != send {
			u.counts.add(countDropped, 1)
			continue
		}
		answer := func(msg []byte, _ *query, _ verdict) {
			if _, err := u.conn.WriteToUDPAddrPort(msg, from); err != nil {
				u.server.counts.add(countUnsent, 1)
			}
		}
		v := u.server.handle(u.server.set.Load(), &q, &w, in[:n], out, from.Addr().Unmap(), false)
		u.counts.query(&v)
		if v.forward {
			u.server.ask(ctx, append([]byte(nil), in[:n]...), false, answer)
		} else if v.n > 0 {
			answer(out[:v.n], &q, v)
		}
	}
}
