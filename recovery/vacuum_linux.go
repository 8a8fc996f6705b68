package recovery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/recovery/kit"
	"github.com/blackstart-project/blackstart/sandbox"
)

// VacuumOptions say what a vacuum is like.
type VacuumOptions struct {
	Allow  []sandbox.Capability
	Dark   sandbox.Mode   // of what is not allowed
	Denied sandbox.Denial // of names that are not
	// Root is "host", a directory, or an image with its transport.
	Root   string
	Record io.Writer // gets a JSON line for each attempt; nil: none
	// Blind records nothing at all: the vacuum is quicker, and has no verdict.
	Blind bool

	Memory   int64   // bytes; 0: no limit
	CPUs     float64 // 0: no limit
	Timeline []Fault
}

// Fault is one change while a vacuum lives.
type Fault struct {
	At   time.Duration // after the command was started
	Kind FaultKind
	Name string // of a capability, or for FaultKill a part of a command line
}

// FaultKind is what a fault does.
type FaultKind string

// The faults.
const (
	FaultDark  FaultKind = "dark"
	FaultAllow FaultKind = "allow"
	FaultKill  FaultKind = "kill"
)

// ParseFault reads TIME=KIND:NAME, such as 10s=dark:package-store.
func ParseFault(s string) (Fault, error) {
	at, rest, _ := strings.Cut(s, "=")
	kind, name, ok := strings.Cut(rest, ":")
	d, err := time.ParseDuration(at)
	f := Fault{d, FaultKind(kind), name}
	if err != nil || d < 0 || !ok || name == "" || !slices.Contains([]FaultKind{FaultDark, FaultAllow, FaultKill}, f.Kind) {
		return f, fmt.Errorf("%w: fault %q: want TIME=dark:NAME, TIME=allow:NAME or TIME=kill:PATTERN", ErrUsage, s)
	}
	return f, nil
}

// Catalogue is the capabilities that have names: those of a kit.yaml, or else of
// this host's kit if it has one.
func (s Site) Catalogue(file string) (sandbox.Catalogue, error) {
	var named []kit.Capability
	if file != "" {
		var err error
		if named, err = kit.ReadCapabilities(file); err != nil {
			return nil, err
		}
	} else {
		k, err := s.OpenKit(s.From.Kit)
		switch {
		case err == nil:
			named = k.Document.Capabilities
			if err := k.Close(); err != nil {
				return nil, err
			}
		case s.From.Kit.Dir == "" && (errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission)):
		default:
			return nil, err
		}
	}
	c := sandbox.Catalogue{}
	for _, n := range named {
		if err := c.Add(n.Name, n.Spec); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Vacuum is a world where nothing answers, except what is allowed by name.
type Vacuum struct {
	*sandbox.World
	Record *sandbox.Record // nil where nothing is recorded

	site  Site
	o     VacuumOptions
	names *sandbox.Names
	relay *sandbox.Relay
	ports relayPorts
	stop  context.CancelFunc
	wg    sync.WaitGroup
	close []func() error // in this order, after the world is gone

	mu    sync.Mutex
	modes []sandbox.Mode // of each of Allow
	errs  []error        // of what serves the world
}

// relayPorts are those that redirected traffic goes to, inside.
type relayPorts struct{ tcp4, tcp6, udp4, udp6 uint16 }

const resolverAddress = "127.0.0.53:53"

// Vacuum makes one. Close it after use; the end of this process ends it as well.
func (s Site) Vacuum(ctx context.Context, o VacuumOptions) (_ *Vacuum, err error) {
	v := &Vacuum{site: s, o: o, names: sandbox.NewNames()}
	for _, c := range o.Allow {
		v.modes = append(v.modes, c.Mode)
	}
	if !o.Blind {
		v.Record = sandbox.NewRecord(o.Record)
	}
	ctx, v.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			_, closeErr := v.Close()
			err = errors.Join(err, closeErr)
		}
	}()
	authority, err := sandbox.NewAuthority(s.now())
	if err != nil {
		return nil, err
	}
	so := sandbox.Options{Dark: o.Dark, Record: v.Record, Memory: o.Memory, CPUs: o.CPUs, Files: map[string][]byte{}}
	if so.Layers, err = v.layers(ctx); err != nil {
		return nil, err
	}
	v.prepare(&so, authority)
	if v.World, err = sandbox.Up(ctx, so); err != nil {
		return nil, err
	}
	for _, w := range v.Warnings() {
		s.Log.Warn(w)
	}
	return v, v.serve(ctx, authority)
}

// layers are the directories of the root, none for the host's.
func (v *Vacuum) layers(ctx context.Context) ([]string, error) {
	switch root := v.o.Root; {
	case root == "" || root == "host":
		return nil, nil
	case !strings.Contains(root, ":"):
		return []string{root}, nil
	default:
		im, closeImage, err := v.site.openImage(ctx, root)
		if err != nil {
			return nil, err
		}
		defer func() { _ = closeImage() }() // only read from
		u, err := v.site.unpack(ctx, im)
		if err != nil {
			return nil, err
		}
		v.close = append(v.close, u.Close)
		layers := slices.Clone(u.Layers)
		slices.Reverse(layers) // the topmost first
		return layers, nil
	}
}

// trustBundles are where programs look for the authorities that they trust.
func trustBundles() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}
}

// prepare says what the capabilities need of the vacuum's files.
func (v *Vacuum) prepare(so *sandbox.Options, authority *sandbox.Authority) {
	https := false
	for _, c := range v.o.Allow {
		switch c.Kind {
		case sandbox.KindFile:
			so.Binds = append(so.Binds, c.Path)
		case sandbox.KindHTTP:
			https = https || c.TLS
		case sandbox.KindUnix, sandbox.KindTCP, sandbox.KindUDP, sandbox.KindDNS, sandbox.KindLoopback:
		}
	}
	if !https {
		return
	}
	for _, path := range trustBundles() {
		for _, root := range append(so.Layers, "/")[:max(len(so.Layers), 1)] {
			b, err := os.ReadFile(filepath.Join(root, path))
			if err == nil {
				so.Files[path] = append(append(b, '\n'), authority.PEM()...)
				break
			}
		}
	}
}

// serve starts the relay and the resolver.
func (v *Vacuum) serve(ctx context.Context, authority *sandbox.Authority) error {
	conntrack, err := v.Conntrack(ctx)
	if err != nil {
		return err
	}
	v.close = append(v.close, conntrack.Close)
	v.relay, err = sandbox.NewRelay(sandbox.RelayOptions{
		Capabilities: v.o.Allow, Names: v.names, Record: v.Record, Dial: v.site.dialOutside, Authority: authority, Roots: systemRoots(),
		Original: sandbox.OriginalDestination, OriginalPacket: conntrack.Original,
	})
	if err != nil {
		return err
	}
	resolver := sandbox.NewResolver(sandbox.ResolverOptions{
		Capabilities: v.o.Allow, Names: v.names, Denied: v.o.Denied, Record: v.Record, Address: resolverAddress,
	})
	for _, l := range []struct {
		network, address string
		port             *uint16
		stream           func(context.Context, net.Listener) error
		packet           func(context.Context, net.PacketConn) error
	}{
		{network: "tcp4", address: "127.0.0.1:0", port: &v.ports.tcp4, stream: v.relay.ServeTCP},
		{network: "tcp6", address: "[::1]:0", port: &v.ports.tcp6, stream: v.relay.ServeTCP},
		{network: "udp4", address: "127.0.0.1:0", port: &v.ports.udp4, packet: v.relay.ServeUDP},
		{network: "udp6", address: "[::1]:0", port: &v.ports.udp6, packet: v.relay.ServeUDP},
		{network: "tcp4", address: resolverAddress, stream: resolver.ServeTCP},
		{network: "udp4", address: resolverAddress, packet: resolver.ServeUDP},
	} {
		if l.stream != nil {
			err = v.stream(ctx, l.network, l.address, l.port, l.stream)
		} else {
			err = v.packet(ctx, l.network, l.address, l.port, l.packet)
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
		if err := v.stream(ctx, "unix", path, nil, func(ctx context.Context, l net.Listener) error { return v.relay.ServeUnix(ctx, l, path) }); err != nil {
			return err
		}
	}
	return v.SetRules(ctx, v.rules())
}

func (v *Vacuum) stream(ctx context.Context, network, address string, port *uint16, serve func(context.Context, net.Listener) error) error {
	l, err := v.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	if port != nil {
		*port = uint16(l.Addr().(*net.TCPAddr).Port)
	}
	v.wg.Go(func() { v.failed(serve(ctx, l)) })
	return nil
}

func (v *Vacuum) packet(ctx context.Context, network, address string, port *uint16, serve func(context.Context, net.PacketConn) error) error {
	c, err := v.ListenPacket(ctx, network, address)
	if err != nil {
		return err
	}
	if port != nil {
		*port = uint16(c.LocalAddr().(*net.UDPAddr).Port)
	}
	v.wg.Go(func() { v.failed(serve(ctx, c)) })
	return nil
}

func (v *Vacuum) failed(err error) {
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.errs = append(v.errs, err)
	}
}

// rules sends what is allowed to the relay. What is dark by drop or refusal must
// not even be accepted there.
func (v *Vacuum) rules() []sandbox.Rule {
	v.mu.Lock()
	defer v.mu.Unlock()
	var rules []sandbox.Rule
	for i, c := range v.o.Allow {
		for _, to := range v.reaches(c) {
			for _, proto := range protosOf(c.Kind) {
				r := sandbox.Rule{Proto: proto, To: to, Ports: c.Ports, Mode: v.modes[i]}
				// The relay wedges what is wedged: it knows the connections that are open.
				if r.Mode == sandbox.ModeAllow || r.Mode == sandbox.ModeWedge {
					r.Mode, r.Port = sandbox.ModeAllow, v.ports.of(proto, to.Addr())
				}
				rules = append(rules, r)
			}
		}
	}
	return rules
}

func (p relayPorts) of(proto string, a netip.Addr) uint16 {
	switch {
	case proto == "tcp" && a.Is4():
		return p.tcp4
	case proto == "tcp":
		return p.tcp6
	case a.Is4():
		return p.udp4
	}
	return p.udp6
}

func protosOf(k sandbox.Kind) []string {
	switch k {
	case sandbox.KindTCP, sandbox.KindHTTP, sandbox.KindLoopback:
		return []string{"tcp"}
	case sandbox.KindUDP:
		return []string{"udp"}
	case sandbox.KindDNS:
		return []string{"tcp", "udp"}
	case sandbox.KindUnix, sandbox.KindFile:
	}
	return nil
}

// reaches is where programs inside find a capability.
func (v *Vacuum) reaches(c sandbox.Capability) []netip.Prefix {
	whole := func(addrs ...netip.Addr) []netip.Prefix {
		var all []netip.Prefix
		for _, a := range addrs {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
		return all
	}
	switch c.Kind {
	case sandbox.KindTCP, sandbox.KindUDP:
		return []netip.Prefix{c.Prefix}
	case sandbox.KindLoopback:
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	case sandbox.KindDNS, sandbox.KindHTTP:
		if a, err := netip.ParseAddr(c.Host); err == nil {
			return whole(a)
		}
		v4, v6, err := v.names.Addresses(c.Host)
		if err == nil { // the relay has asked for them before
			return whole(v4, v6)
		}
	case sandbox.KindUnix, sandbox.KindFile:
	}
	return nil
}

// Set makes a capability dark, in the way that it says, or allowed again.
func (v *Vacuum) Set(ctx context.Context, label string, dark bool) error {
	v.mu.Lock()
	mode := sandbox.ModeAllow
	for i, c := range v.o.Allow {
		if c.Label() != label {
			continue
		}
		if v.modes[i] = sandbox.ModeAllow; dark {
			v.modes[i] = c.Dark
		}
		mode = v.modes[i]
	}
	v.mu.Unlock()
	if err := v.relay.SetMode(label, mode); err != nil {
		return err
	}
	return v.SetRules(ctx, v.rules())
}

// Close ends the vacuum and tells what was tried in it; what would be in vain on
// the host too is in the record's file alone. The error, which wraps sandbox.ErrUnresolved or
// sandbox.ErrIncomplete, says why what was seen is no verdict.
func (v *Vacuum) Close() (attempts []sandbox.Attempt, err error) {
	var errs []error
	if v.World != nil {
		errs = append(errs, v.World.Close())
	}
	v.stop()
	v.wg.Wait()
	for _, c := range slices.Backward(v.close) {
		errs = append(errs, c())
	}
	for _, e := range v.errs {
		errs = append(errs, fmt.Errorf("%w: %w", sandbox.ErrUnresolved, e))
	}
	if v.relay != nil {
		for _, label := range v.relay.NotEnforced() {
			errs = append(errs, fmt.Errorf("%w: the methods and paths of %s: the client does not trust the vacuum's authority", sandbox.ErrUnresolved, label))
		}
	}
	if v.Record != nil {
		errs = append(errs, v.Record.Complete(), v.Record.Close())
		attempts = slices.DeleteFunc(v.Record.Attempts(), idle)
	}
	return attempts, errors.Join(errs...)
}

// idle tells an attempt that would have come to nothing on the host as well, such
// as that of every program to ask a name service that nobody runs.
func idle(a sandbox.Attempt) bool {
	if a.Proto != "unix" || a.Outcome != sandbox.NotFound {
		return false
	}
	_, err := os.Lstat(a.Destination)
	return errors.Is(err, os.ErrNotExist)
}

// dialOutside connects to what is allowed. Outside of the vacuum the host works:
// a name that has no address of its own is looked up there.
func (s Site) dialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && len(s.From.Net.Names[host]) > 0 {
		address = net.JoinHostPort(s.From.Net.Names[host][0].String(), port)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, address)
}

// systemRoots are the host's authorities; nil stands for them as well.
func systemRoots() *x509.CertPool {
	p, err := x509.SystemCertPool()
	if err != nil {
		return nil
	}
	return p
}

