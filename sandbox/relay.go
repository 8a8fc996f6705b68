package sandbox

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Upstream opens a connection to the world outside the vacuum. network is tcp,
// udp or unix; address is what net.Dial takes, its host an address or, for a dns
// or http capability without at=, a name that this function resolves.
type Upstream func(ctx context.Context, network, address string) (net.Conn, error)

// ErrNoCapability is returned for the name of a capability that nobody has.
var ErrNoCapability = errors.New("no such capability")

const (
	maxCarried  = 4096 // connections carried at once; a program that wants more is refused
	maxRecorded = 1024 // bytes of a destination or reason
	dialLimit   = 30 * time.Second
)

// RelayOptions say what a [Relay] carries, and for whom.
type RelayOptions struct {
	Capabilities []Capability
	Names        *Names         // shared with the [Resolver]
	Record       *Record        // nil: nothing is recorded
	Host         int            // the vacuum's host, for the record
	Dial         Upstream       // required
	Authority    *Authority     // required by http capabilities of https URLs
	Roots        *x509.CertPool // that upstream servers are verified with; nil: the system's
	// Original tells what a connection was meant for before it was redirected;
	// on Linux [OriginalDestination].
	Original func(net.Conn) (netip.AddrPort, error)
	// OriginalPacket tells it for the first datagram of a program's socket; on
	// Linux [Conntrack.Original].
	OriginalPacket func(local, client netip.AddrPort) (netip.AddrPort, error)
}

// Relay carries the traffic of one host of a vacuum to what its capabilities
// name, and to nothing else. Its methods may be called from any goroutine.
type Relay struct {
	o     RelayOptions
	gates []*gate
	https map[*gate]*origin // of the http capabilities; those of one origin share it

	slots chan struct{}
}

// NewRelay makes a relay and gives every name its synthetic addresses, in the
// order of the capabilities.
func NewRelay(o RelayOptions) (*Relay, error) {
	r := &Relay{o: o, https: map[*gate]*origin{}, slots: make(chan struct{}, maxCarried)}
	origins := map[string]*origin{}
	for _, c := range o.Capabilities {
		g := newGate(c)
		r.gates = append(r.gates, g)
		if c.Kind == KindDNS || (c.Kind == KindHTTP && !c.hostIsAddress()) {
			if _, _, err := o.Names.Addresses(c.Host); err != nil {
				return nil, err
			}
		}
		if c.Kind != KindHTTP {
			continue
		}
		if c.TLS && o.Authority == nil {
			return nil, fmt.Errorf("relaying %s: no certificate authority", c.Label())
		}
		k := c.origin()
		if origins[k] == nil {
			origins[k] = &origin{relay: r, transports: map[*gate]*http.Transport{}}
		}
		origins[k].join(g)
		r.https[g] = origins[k]
	}
	return r, nil
}

// SetMode makes the capabilities of that label allowed or dark, at once, for
// connections that exist too: those stand still while it is drop or wedge and go
// on afterwards, and are reset when it becomes refuse. Of new connections the
// relay sees what the vacuum's rules let through to it; drop and wedge keep them
// without an answer. It wraps ErrNoCapability if there is none.
func (r *Relay) SetMode(label string, m Mode) error {
	found := false
	for _, g := range r.gates {
		if g.Label() == label {
			g.set(m)
			found = true
		}
	}
	if !found {
		return fmt.Errorf("making %q %s: %w", label, m, ErrNoCapability)
	}
	return nil
}

// NotEnforced are the labels of http capabilities under which something passed
// whose methods and paths could not be seen. A run where they matter has no
// verdict.
func (r *Relay) NotEnforced() []string {
	var l []string
	for _, g := range r.gates {
		if o := r.https[g]; o != nil && o.unseen.Load() && len(g.Methods)+len(g.Paths) > 0 {
			l = append(l, g.Label())
		}
	}
	return l
}

func (c *Capability) hostIsAddress() bool {
	_, err := netip.ParseAddr(c.Host)
	return err == nil
}

// find says which capability a destination falls under, and the name it was
// asked by. An http capability goes first: no wider rule opens what it limits.
func (r *Relay) find(proto string, to netip.AddrPort) (g *gate, name string) {
	to = netip.AddrPortFrom(to.Addr().Unmap().WithZone(""), to.Port())
	name, named := r.o.Names.Name(to.Addr())
	for _, kind := range []Kind{KindHTTP, KindDNS, KindTCP, KindUDP, KindLoopback} {
		for _, g := range r.gates {
			if g.Kind != kind {
				continue
			}
			hit := false
			switch kind {
			case KindHTTP:
				hit = proto == "tcp" && g.HasPort(to.Port()) && ((named && g.Host == name) || g.Host == to.Addr().String())
			case KindDNS:
				hit = named && g.Host == name && g.HasPort(to.Port())
			case KindTCP, KindLoopback:
				hit = proto == "tcp" && !named && g.Matches(to)
			case KindUDP:
				hit = proto == "udp" && !named && g.Matches(to)
			case KindUnix, KindFile:
			}
			if hit {
				return g, name
			}
		}
	}
	return nil, name
}

// dial reaches what a capability stands for, the addresses of at= in turn.
func (r *Relay) dial(ctx context.Context, g *gate, network string, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	port := strconv.Itoa(int(to.Port()))
	var hosts []string
	switch {
	case g.Kind == KindUnix:
		return r.o.Dial(ctx, "unix", g.Path)
	case len(g.At) > 0:
		for _, a := range g.At {
			hosts = append(hosts, a.String())
		}
	case g.Host != "":
		hosts = []string{g.Host}
	default:
		hosts = []string{to.Addr().Unmap().WithZone("").String()}
	}
	var errs []error
	for i, h := range hosts {
		// One address that swallows everything must not use up the time of all.
		left := dialLimit
		if d, ok := ctx.Deadline(); ok {
			left = time.Until(d) / time.Duration(len(hosts)-i)
		}
		each, cancel := context.WithTimeout(ctx, left)
		c, err := r.o.Dial(each, network, net.JoinHostPort(h, port))
		cancel()
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// short keeps what a program made up from filling the record's memory.
func short(s string) string {
	if len(s) > maxRecorded {
		return s[:maxRecorded] + "..."
	}
	return s
}

func (r *Relay) add(a Attempt) {
	if r.o.Record == nil {
		return
	}
	a.Host, a.Sources = r.o.Host, []Source{FromRelay}
	a.Destination, a.Detail = short(a.Destination), short(a.Detail)
	if a.First.IsZero() {
		a.First = time.Now()
	}
	r.o.Record.Add(a)
}

// ServeTCP carries the connections that arrive at l until ctx ends, and closes
// l. Every connection is gone when it returns. The error is the listener's, nil
// after ctx.
func (r *Relay) ServeTCP(ctx context.Context, l net.Listener) error {
	return r.serve(ctx, l, func(ctx context.Context, c net.Conn) {
		to, err := r.o.Original(c)
		if err != nil {
			r.add(Attempt{Verdict: Blocked, Proto: "tcp", Destination: c.LocalAddr().String(), Count: 1, Outcome: Broken, Detail: "its destination is not known: " + err.Error()})
			reset(c)
			return
		}
		g, name := r.find("tcp", to)
		r.connection(ctx, c, g, to, Attempt{Proto: "tcp", Destination: Endpoint(to), Name: name})
	})
}

// ServeUnix is ServeTCP for a unix socket that stands in the place of the
// host's, by its path. Descriptors that are sent along do not pass.
func (r *Relay) ServeUnix(ctx context.Context, l net.Listener, path string) error {
	var g *gate
	for _, o := range r.gates {
		if o.Kind == KindUnix && o.Path == path {
			g = o
			break
		}
	}
	return r.serve(ctx, l, func(ctx context.Context, c net.Conn) {
		r.connection(ctx, c, g, netip.AddrPort{}, Attempt{Proto: protoUnix, Destination: path})
	})
}

// serve owns the goroutines of a listener's connections.
func (r *Relay) serve(ctx context.Context, l net.Listener, handle func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	var flows sync.WaitGroup
	defer r.closeIdle()
	defer flows.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || isOutOfFiles(err) {
				// Descriptors come back as connections end.
				pause = min(max(2*pause, 5*time.Millisecond), time.Second)
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
				continue
			}
			return fmt.Errorf("accepting on %s: %w", l.Addr(), err)
		}
		pause = 0
		flows.Go(func() { handle(ctx, c) })
	}
}

// connection carries one connection under a gate; without one it is left
// without an answer.
func (r *Relay) connection(ctx context.Context, c net.Conn, g *gate, to netip.AddrPort, a Attempt) {
	a.First, a.Count = time.Now(), 1
	if g != nil {
		a.Capability = g.Label()
	}
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	default:
		a.Verdict, a.Outcome, a.Detail = Blocked, Broken, fmt.Sprintf("more than %d connections at once", maxCarried)
		r.add(a)
		reset(c)
		return
	}
	ctx, f := newFlow(ctx, r, c, a)
	switch {
	case g == nil:
		f.lose(Wedged, "no capability covers it")
	case g.loses():
		f.lose(Silent, "lost on purpose, as its loss= says")
	default:
		f.run(ctx, g, to)
	}
}
