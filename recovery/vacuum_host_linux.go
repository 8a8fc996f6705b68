package recovery

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"github.com/blackstart-project/blackstart/sandbox"
)

// vacuumHost is one host of a vacuum: its world, and what carries what is allowed.
type vacuumHost struct {
	*sandbox.World
	allow     []sandbox.Capability
	relay     *sandbox.Relay
	serves    []service
	conntrack *sandbox.Conntrack // nil: no rule leads to the relay
	wg        sync.WaitGroup
	failed    func(error)
}

// service is one of the two functions at what net.Listen takes.
type service struct {
	network, address string
	stream           func(context.Context, net.Listener) error
	packet           func(context.Context, net.PacketConn) error
}

const (
	resolverAddress = "127.0.0.53:53"
	// relayPort is above what kernels give out by themselves (ip_local_port_range
	// in ip(7)), where no program inside meets it by accident.
	relayPort = 61999
)

// host is the one with that index, before its world is there.
func (v *Vacuum) host(index int) (*vacuumHost, error) {
	h := &vacuumHost{failed: v.failed, allow: v.o.Allow}
	var err error
	h.relay, err = sandbox.NewRelay(sandbox.RelayOptions{
		Capabilities: v.o.Allow, Names: v.names, Record: v.Record, Host: index, Dial: v.site.dialOutside, Authority: v.authority, Roots: v.roots,
		Original: sandbox.OriginalDestination,
		OriginalPacket: func(local, client netip.AddrPort) (netip.AddrPort, error) {
			return h.conntrack.Original(local, client)
		},
	})
	if err != nil {
		return nil, err
	}
	resolver := sandbox.NewResolver(sandbox.ResolverOptions{
		Capabilities: v.o.Allow, Names: v.names, Denied: v.o.Denied, Record: v.Record, Host: index, Address: resolverAddress,
	})
	for _, family := range []struct{ number, address string }{{"4", "127.0.0.1"}, {"6", "::1"}} {
		if len(v.o.Allow) > 0 { // else no rule leads there
			to := net.JoinHostPort(family.address, strconv.Itoa(relayPort))
			h.serves = append(h.serves,
				service{network: "tcp" + family.number, address: to, stream: h.relay.ServeTCP},
				service{network: "udp" + family.number, address: to, packet: h.relay.ServeUDP})
		}
	}
	// Where all it would do is say nothing, the vacuum does that by itself.
	if v.Record != nil || len(v.o.Allow) > 0 || (v.o.Denied != "" && v.o.Denied != sandbox.DenySilence) {
		h.serves = append(h.serves,
			service{network: "tcp4", address: resolverAddress, stream: resolver.ServeTCP},
			service{network: "udp4", address: resolverAddress, packet: resolver.ServeUDP})
	}
	return h, nil
}

// listeners are what the world opens before anything runs in it.
func (h *vacuumHost) listeners() []sandbox.Place {
	var all []sandbox.Place
	for _, s := range h.serves {
		all = append(all, sandbox.Place{Network: s.network, Address: s.address})
	}
	if len(h.allow) > 0 {
		all = append(all, sandbox.Place{Network: sandbox.ConntrackPlace})
	}
	return all
}

// serve starts the host's relay and resolver.
func (h *vacuumHost) serve(ctx context.Context) (err error) {
	if len(h.allow) > 0 {
		if h.conntrack, err = h.Conntrack(ctx); err != nil {
			return err
		}
	}
	for _, s := range h.serves {
		if s.stream != nil {
			err = h.stream(ctx, s.network, s.address, s.stream)
		} else {
			err = h.packet(ctx, s.network, s.address, s.packet)
		}
		if err != nil {
			return err
		}
	}
	for _, c := range h.allow {
		if c.Kind != sandbox.KindUnix {
			continue
		}
		path := c.Path
		if err := h.stream(ctx, "unix", path, func(ctx context.Context, l net.Listener) error { return h.relay.ServeUnix(ctx, l, path) }); err != nil {
			return err
		}
	}
	return nil
}

// apply makes the rules those of the relay as it is now.
func (h *vacuumHost) apply(ctx context.Context) error {
	rules, err := h.relay.Rules(relayPort)
	if err != nil {
		return err
	}
	return h.SetRules(ctx, rules)
}

// stream serves a listener inside.
func (h *vacuumHost) stream(ctx context.Context, network, address string, serve func(context.Context, net.Listener) error) error {
	l, err := h.Listen(ctx, network, address)
	if err != nil {
		return err
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
