package recovery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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

	// Show is paths of the host that are visible, read-only, where they otherwise
	// would not be.
	Show []string

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
	port  uint16 // of the relay, inside
	stop  context.CancelFunc
	wg    sync.WaitGroup
	close []func() error // in this order, after the world is gone

	mu   sync.Mutex
	errs []error // of what serves the world
}

const resolverAddress = "127.0.0.53:53"

// Vacuum makes one. Close it after use; the end of this process ends it as well.
func (s Site) Vacuum(ctx context.Context, o VacuumOptions) (_ *Vacuum, err error) {
	v := &Vacuum{site: s, o: o, names: sandbox.NewNames()}
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
	for _, path := range v.o.Show {
		if len(so.Layers) > 0 || sandbox.StartsEmpty(path) {
			so.Binds = append(so.Binds, path)
		}
	}
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
	if err := v.stream(ctx, "tcp4", "127.0.0.1:0", v.relay.ServeTCP); err != nil {
		return err
	}
	port := strconv.Itoa(int(v.port))
	for _, l := range []struct {
		network, address string
		stream           func(context.Context, net.Listener) error
		packet           func(context.Context, net.PacketConn) error
	}{
		{network: "tcp6", address: "[::1]:" + port, stream: v.relay.ServeTCP},
		{network: "udp4", address: "127.0.0.1:" + port, packet: v.relay.ServeUDP},
		{network: "udp6", address: "[::1]:" + port, packet: v.relay.ServeUDP},
		{network: "tcp4", address: resolverAddress, stream: resolver.ServeTCP},
		{network: "udp4", address: resolverAddress, packet: resolver.ServeUDP},
	} {
		if l.stream != nil {
			err = v.stream(ctx, l.network, l.address, l.stream)
		} else {
			err = v.packet(ctx, l.network, l.address, l.packet)
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
		if err := v.stream(ctx, "unix", path, func(ctx context.Context, l net.Listener) error { return v.relay.ServeUnix(ctx, l, path) }); err != nil {
			return err
		}
	}
	return v.apply(ctx)
}

// apply makes the rules those of the relay as it is now.
func (v *Vacuum) apply(ctx context.Context) error {
	rules, err := v.relay.Rules(v.port)
	if err != nil {
		return err
	}
	return v.SetRules(ctx, rules)
}

// stream serves a listener inside. The first one decides the relay's port.
func (v *Vacuum) stream(ctx context.Context, network, address string, serve func(context.Context, net.Listener) error) error {
	l, err := v.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok && v.port == 0 {
		v.port = uint16(a.Port)
	}
	v.wg.Go(func() { v.failed(serve(ctx, l)) })
	return nil
}

func (v *Vacuum) packet(ctx context.Context, network, address string, serve func(context.Context, net.PacketConn) error) error {
	c, err := v.ListenPacket(ctx, network, address)
	if err != nil {
		return err
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

// Set makes a capability dark, in the way that it says, or allowed again.
func (v *Vacuum) Set(ctx context.Context, label string, dark bool) error {
	mode := sandbox.ModeAllow
	for _, c := range v.o.Allow {
		if dark && c.Label() == label {
			mode = c.Dark
		}
	}
	if err := v.relay.SetMode(label, mode); err != nil {
		return err
	}
	return v.apply(ctx)
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
