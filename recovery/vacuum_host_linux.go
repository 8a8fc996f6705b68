package recovery

import (
	"context"
	"net"
	"strconv"
	"sync"

	"github.com/blackstart-project/blackstart/sandbox"
)

// vacuumHost is one host of a vacuum: its world, and what carries what is allowed.
type vacuumHost struct {
	*sandbox.World
	relay     *sandbox.Relay
	port      uint16 // of the relay, inside
	conntrack *sandbox.Conntrack
	wg        sync.WaitGroup
	failed    func(error)
}

// serve starts the host's relay and resolver.
func (h *vacuumHost) serve(ctx context.Context, index int, v *Vacuum, authority *sandbox.Authority) (err error) {
	if h.conntrack, err = h.Conntrack(ctx); err != nil {
		return err
	}
	h.relay, err = sandbox.NewRelay(sandbox.RelayOptions{
		Capabilities: v.o.Allow, Names: v.names, Record: v.Record, Host: index, Dial: v.site.dialOutside, Authority: authority, Roots: systemRoots(),
		Original: sandbox.OriginalDestination, OriginalPacket: h.conntrack.Original,
	})
	if err != nil {
		return err
	}
	resolver := sandbox.NewResolver(sandbox.ResolverOptions{
		Capabilities: v.o.Allow, Names: v.names, Denied: v.o.Denied, Record: v.Record, Host: index, Address: resolverAddress,
	})
	if err := h.stream(ctx, "tcp4", "127.0.0.1:0", h.relay.ServeTCP); err != nil {
		return err
	}
	port := strconv.Itoa(int(h.port))
	for _, l := range []struct {
		network, address string
		stream           func(context.Context, net.Listener) error
		packet           func(context.Context, net.PacketConn) error
	}{
		{network: "tcp6", address: "[::1]:" + port, stream: h.relay.ServeTCP},
		{network: "udp4", address: "127.0.0.1:" + port, packet: h.relay.ServeUDP},
		{network: "udp6", address: "[::1]:" + port, packet: h.relay.ServeUDP},
		{network: "tcp4", address: resolverAddress, stream: resolver.ServeTCP},
		{network: "udp4", address: resolverAddress, packet: resolver.ServeUDP},
	} {
		if l.stream != nil {
			err = h.stream(ctx, l.network, l.address, l.stream)
		} else {
			err = h.packet(ctx, l.network, l.address, l.packet)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range v.o.Allow {
		if c.Kind != sandbox.KindUnix {
			continue
		}
		path := c.Path
		if err := h.stream(ctx, "unix", path, func(ctx context.Context, l net.Listener) error { return h.relay.ServeUnix(ctx, l, path) }); err != nil {
			return err
		}
	}
	return h.apply(ctx)
}

// apply makes the rules those of the relay as it is now.
func (h *vacuumHost) apply(ctx context.Context) error {
	rules, err := h.relay.Rules(h.port)
	if err != nil {
		return err
	}
	return h.SetRules(ctx, rules)
}

// stream serves a listener inside. The first one decides the relay's port.
func (h *vacuumHost) stream(ctx context.Context, network, address string, serve func(context.Context, net.Listener) error) error {
	l, err := h.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && h.port == 0 {
		h.port = uint16(a.Port)
	}
	h.wg.Go(func() { h.failed(serve(ctx, l)) })
	return nil
}

func (h *vacuumHost) packet(ctx context.Context, network, address string, serve func(context.Context, net.PacketConn) error) error {
	c, err := h.ListenPacket(ctx, network, address)
	if err != nil {
		return err
	}
	h.wg.Go(func() { h.failed(serve(ctx, c)) })
	return nil
}

// close ends what serves the host, when its world is gone.
func (h *vacuumHost) close() error {
	h.wg.Wait()
	if h.conntrack == nil {
		return nil
	}
	return h.conntrack.Close()
}
