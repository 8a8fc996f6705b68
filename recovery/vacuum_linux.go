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

	// Show is paths of the host that are visible, read-only, where they otherwise
	// would not be.
	Show []string

	Hosts    int     // on one private segment; 0 stands for 1
	Memory   int64   // bytes, of each host; 0: no limit
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
	FaultCut   FaultKind = "cut"  // hosts A,B|C,D from each other
	FaultHeal  FaultKind = "heal" // of all cuts
)

// ParseFault reads TIME=KIND:NAME, such as 10s=dark:package-store.
func ParseFault(s string) (Fault, error) {
	at, rest, _ := strings.Cut(s, "=")
	kind, name, ok := strings.Cut(rest, ":")
	d, err := time.ParseDuration(at)
	f := Fault{d, FaultKind(kind), name}
	if f.Kind == FaultHeal && name == "" && err == nil && d >= 0 {
		return f, nil
	}
	if err != nil || d < 0 || !ok || name == "" || !slices.Contains([]FaultKind{FaultDark, FaultAllow, FaultKill, FaultCut}, f.Kind) {
		return f, fmt.Errorf("%w: fault %q: want TIME=dark:NAME, TIME=allow:NAME, TIME=kill:PATTERN, TIME=cut:0,1|2 or TIME=heal", ErrUsage, s)
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

// Vacuum is a world where nothing answers, except what is allowed by name: one
// host, or several on a private segment.
type Vacuum struct {
	Record *sandbox.Record // nil where nothing is recorded

	site   Site
	o      VacuumOptions
	names  *sandbox.Names
	fabric *sandbox.Fabric // nil: there is one host
	hosts  []*vacuumHost
	stop   context.CancelFunc
	wg     sync.WaitGroup // of faults
	close  []func() error // in this order, after the world is gone

	// For https URLs; nil without any, for both take their time.
	authority *sandbox.Authority
	roots     *x509.CertPool

	mu   sync.Mutex
	errs []error // of what serves the world
}

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
	if slices.ContainsFunc(o.Allow, func(c sandbox.Capability) bool { return c.TLS }) {
		if v.authority, err = sandbox.NewAuthority(s.now()); err != nil {
			return nil, err
		}
		v.roots = systemRoots()
	}
	so := sandbox.Options{Dark: o.Dark, Record: v.Record, Memory: o.Memory, CPUs: o.CPUs, Files: map[string][]byte{}}
	if so.Layers, err = v.layers(ctx); err != nil {
		return nil, err
	}
	v.prepare(&so)
	var all []*vacuumHost
	for i := range max(1, o.Hosts) {
		h, err := v.host(i)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	if err := v.up(ctx, so, all); err != nil {
		return nil, err
	}
	for _, h := range v.hosts {
		for _, said := range h.Warnings() {
			s.Log.Warn(said)
		}
		if err := h.serve(ctx); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// up makes the hosts' worlds.
func (v *Vacuum) up(ctx context.Context, so sandbox.Options, hosts []*vacuumHost) (err error) {
	all := make([]sandbox.Options, len(hosts))
	for i, h := range hosts {
		all[i] = so
		all[i].Listen = h.listeners()
		if all[i].Rules, err = h.relay.Rules(relayPort); err != nil {
			return err
		}
	}
	var worlds []*sandbox.World
	if len(hosts) > 1 {
		if v.fabric, err = sandbox.UpFabric(ctx, all); err != nil {
			return err
		}
		worlds = v.fabric.Hosts()
	} else {
		w, err := sandbox.Up(ctx, all[0])
		if err != nil {
			return err
		}
		worlds = append(worlds, w)
	}
	for i, h := range hosts {
		h.World = worlds[i]
	}
	v.hosts = hosts
	return nil
}

// Addresses are those of the hosts' eth0, IPv4, in their order.
func (v *Vacuum) Addresses() []netip.Addr {
	var all []netip.Addr
	for _, h := range v.hosts {
		v4, _ := h.World.Addresses()
		all = append(all, v4.Addr())
	}
	return all
}

// Spawn starts a program on a host, counted from 0.
func (v *Vacuum) Spawn(ctx context.Context, host int, c sandbox.Cmd) (*sandbox.Process, error) {
	if host < 0 || host >= len(v.hosts) {
		return nil, fmt.Errorf("%w: host %d of %d", sandbox.ErrBadOptions, host, len(v.hosts))
	}
	return v.hosts[host].Spawn(ctx, c)
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
func (v *Vacuum) prepare(so *sandbox.Options) {
	for _, path := range v.o.Show {
		if len(so.Layers) > 0 || sandbox.StartsEmpty(path) {
			so.Binds = append(so.Binds, path)
		}
	}
	for _, c := range v.o.Allow {
		switch c.Kind {
		case sandbox.KindFile:
			so.Binds = append(so.Binds, c.Path)
		case sandbox.KindHTTP, sandbox.KindUnix, sandbox.KindTCP, sandbox.KindUDP, sandbox.KindDNS, sandbox.KindLoopback:
		}
	}
	if v.authority == nil {
		return
	}
	for _, path := range trustBundles() {
		for _, root := range append(so.Layers, "/")[:max(len(so.Layers), 1)] {
			b, err := os.ReadFile(filepath.Join(root, path))
			if err == nil {
				so.Files[path] = append(append(b, '\n'), v.authority.PEM()...)
				break
			}
		}
	}
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
	for _, h := range v.hosts {
		if err := h.relay.SetMode(label, mode); err != nil {
			return err
		}
		if err := h.apply(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the vacuum and tells what was tried in it; what would be in vain on
// the host too is in the record's file alone. The error, which wraps sandbox.ErrUnresolved or
// sandbox.ErrIncomplete, says why what was seen is no verdict.
func (v *Vacuum) Close() (attempts []sandbox.Attempt, err error) {
	var errs []error
	if v.fabric != nil {
		errs = append(errs, v.fabric.Close())
	}
	for _, h := range v.hosts {
		if v.fabric == nil {
			errs = append(errs, h.World.Close())
		}
	}
	v.stop()
	v.wg.Wait()
	unseen := map[string]bool{}
	for _, h := range v.hosts {
		errs = append(errs, h.close())
		for _, label := range h.relay.NotEnforced() {
			unseen[label] = true
		}
	}
	for _, c := range slices.Backward(v.close) {
		errs = append(errs, c())
	}
	for _, e := range v.errs {
		errs = append(errs, fmt.Errorf("%w: %w", sandbox.ErrUnresolved, e))
	}
	for label := range unseen {
		errs = append(errs, fmt.Errorf("%w: the methods and paths of %s: the client does not trust the vacuum's authority", sandbox.ErrUnresolved, label))
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
