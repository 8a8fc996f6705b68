package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/names"
)

// NamesData says where names come from; several sources together.
type NamesData struct {
	Zones     []string // zone files, NAME=FILE where a file has no SOA record
	Hosts     []string // hosts files
	Kit       bool     // the kit's names and zones
	Overrides map[string][]netip.Addr
	NoPTR     bool
}

const overrideTTL = 30 // seconds

// LoadNames makes a set of the data; overrides is nil where there are none.
func (s Site) LoadNames(d NamesData) (set, overrides *names.Set, err error) {
	b := names.NewBuilder()
	b.NoPTR = d.NoPTR
	for _, z := range d.Zones {
		origin, file, ok := strings.Cut(z, "=")
		if !ok {
			origin, file = "", z
		}
		if err := withFile(file, func(f *os.File, at time.Time) error { return b.Zone(f, origin, file, at) }); err != nil {
			return nil, nil, err
		}
	}
	for _, file := range d.Hosts {
		if err := withFile(file, func(f *os.File, at time.Time) error { return b.Hosts(f, file, at) }); err != nil {
			return nil, nil, err
		}
	}
	if d.Kit {
		if err := s.kitData(b); err != nil {
			return nil, nil, err
		}
	}
	if set, err = b.Build(); err != nil {
		return nil, nil, err
	}
	if len(d.Overrides) == 0 {
		return set, nil, nil
	}
	o := names.NewBuilder()
	for name, addrs := range d.Overrides {
		if err := o.Addresses(name, addrs, overrideTTL, time.Time{}); err != nil {
			return nil, nil, err
		}
	}
	overrides, err = o.Build()
	return set, overrides, err
}

func withFile(path string, read func(*os.File, time.Time) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return read(f, st.ModTime())
}

// kitData adds the kit's names.
func (s Site) kitData(b *names.Builder) (err error) {
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	for _, n := range k.Document.Names {
		if n.Zone != "" {
			if err := b.Zone(strings.NewReader(n.Zone), n.Name, "zone "+n.Name+" of the kit", n.ObservedAt); err != nil {
				return err
			}
			continue
		}
		var addrs []netip.Addr
		for _, a := range n.Addresses {
			addr, err := netip.ParseAddr(a)
			if err != nil {
				return err
			}
			addrs = append(addrs, addr)
		}
		if err := b.Addresses(n.Name, addrs, overrideTTL, n.ObservedAt); err != nil {
			return err
		}
	}
	return nil
}

// files are those that the data comes from.
func (d NamesData) files(kitDir string) []string {
	files := slices.Clone(d.Hosts)
	for _, z := range d.Zones {
		if _, file, ok := strings.Cut(z, "="); ok {
			z = file
		}
		files = append(files, z)
	}
	if d.Kit {
		files = append(files, filepath.Join(kitDir, "index.json"))
	}
	return files
}

// DNSOptions say how names are served.
type DNSOptions struct {
	Data    NamesData
	Server  names.Options
	Metrics string         // IP:PORT; "" for none
	Missing string         // file that the names which could not be answered are written to
	Again   chan os.Signal // loads the data again
	Ready   func([]netip.AddrPort, *names.Set) error
}

const (
	dnsLook    = time.Second      // between two looks at the files
	dnsMissing = 10 * time.Second // between two writes of the missing names
)

// ServeDNS answers until ctx ends. Data that has changed is loaded again; what
// cannot be read leaves the old data in place.
func (s Site) ServeDNS(ctx context.Context, o DNSOptions) error {
	files := names.Look(o.Data.files(s.kitDir(s.From.Kit.Dir))...)
	set, overrides, err := s.LoadNames(o.Data)
	if err != nil {
		return err
	}
	for _, w := range set.Warnings {
		s.Log.Warn(w)
	}
	o.Server.Overrides = overrides
	srv, err := names.Listen(ctx, o.Server, set)
	if err != nil {
		return err
	}
	metrics, err := s.metrics(ctx, o.Metrics, srv)
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	defer metrics()
	if err := o.Ready(srv.Addrs(), set); err != nil {
		return errors.Join(err, srv.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	load := func() (*names.Set, error) {
		set, _, err := s.LoadNames(o.Data)
		return set, err
	}
	go srv.Follow(ctx, files, dnsLook, o.Again, load, func(set *names.Set, err error) {
		if err != nil {
			s.Log.Warn("the data cannot be read: answering from what was read before", "error", err)
			return
		}
		s.Log.Info(fmt.Sprintf("read again: %d names", set.Names()))
	})
	if o.Missing != "" {
		go s.keepMissing(ctx, o.Missing, srv)
	}
	err = srv.Serve(ctx)
	if o.Missing != "" {
		err = errors.Join(err, writeMissing(o.Missing, srv))
	}
	return err
}

func (s Site) keepMissing(ctx context.Context, file string, srv *names.Server) {
	t := time.NewTicker(dnsMissing)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := writeMissing(file, srv); err != nil {
				s.Log.Warn("the names that are missing are not written", "error", err)
			}
		}
	}
}

func writeMissing(file string, srv *names.Server) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(names.WriteMissing(pw, srv.Missing())) }()
	_, err := writeFile(file, pr)
	return err
}

// metrics serves what the server counts, until the function it returns is called.
func (s Site) metrics(ctx context.Context, listen string, srv *names.Server) (func(), error) {
	if listen == "" {
		return func() {}, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	h := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_ = srv.WriteMetrics(w) // the reader has gone
	})}
	go func() { _ = h.Serve(l) }() // it ends with Close
	return func() { _ = h.Close() }, nil
}

// takeover is this host's, or that of a root directory.
func (s Site) takeover(root string, servers []netip.Addr) names.Takeover {
	t := names.Takeover{Root: root, State: filepath.Join(s.Host.Data, "resolver.json"), Servers: servers}
	if root == "" || root == "/" {
		t.Reload = names.SignalService
	}
	return t
}

// TakeResolver points this host at name servers, until ReleaseResolver.
func (s Site) TakeResolver(ctx context.Context, root string, servers []netip.Addr) (*names.Taken, error) {
	if err := os.MkdirAll(s.Host.Data, 0o711); err != nil {
		return nil, fmt.Errorf("taking over: %w", err)
	}
	taken, err := s.takeover(root, servers).Take(ctx, s.now())
	if err == nil {
		err = s.record("dns-takeover", taken.Servers)
	}
	return taken, err
}

// ReleaseResolver puts everything back.
func (s Site) ReleaseResolver(ctx context.Context, root string) error {
	if err := s.takeover(root, nil).Release(ctx); err != nil {
		return err
	}
	return s.record("dns-release", nil)
}

// FreezeOptions say what is frozen, and by whom it is told.
type FreezeOptions struct {
	Names     []string
	Resolvers []netip.AddrPort
	Zone      string         // whole, by AXFR
	Server    netip.AddrPort // of that zone
	Key       *names.Key
}

// Frozen is what a freeze brought.
type Frozen struct {
	Names         int      `json:"names"`
	Absent        []string `json:"absent"`
	Disagreements []string `json:"disagreements"`
	Failures      []string `json:"failures"`
}

// Freeze writes a zone file of what resolvers say now, or of a whole zone.
func (s Site) Freeze(ctx context.Context, o FreezeOptions, file string) (Frozen, error) {
	out := Frozen{Absent: []string{}, Disagreements: []string{}, Failures: []string{}}
	pr, pw := io.Pipe()
	var write func() error
	if o.Zone != "" {
		records, err := names.Transfer(ctx, o.Zone, o.Server, o.Key)
		if err != nil {
			return out, fmt.Errorf("getting zone %s from %s: %w", o.Zone, o.Server, err)
		}
		seen := map[string]bool{}
		for _, r := range records {
			seen[r.Header().Name] = true
		}
		out.Names = len(seen)
		write = func() error { return names.WriteTransfer(pw, records, s.now()) }
	} else {
		f, err := names.Freeze(ctx, o.Names, names.Freezing{Resolvers: o.Resolvers}, s.now())
		if err != nil {
			return out, err
		}
		out.Names, out.Absent = len(f.Names), append(out.Absent, f.Absent...)
		for _, d := range f.Disagreements {
			var said []string
			for _, a := range d.Answers {
				said = append(said, fmt.Sprintf("%s says %s", a.Resolver, strings.Join(a.Data, " ")))
			}
			out.Disagreements = append(out.Disagreements, fmt.Sprintf("%s %s: %s; kept: %s", d.Name, d.Type, strings.Join(said, ", "), strings.Join(d.Kept, " ")))
		}
		for _, e := range f.Failures {
			out.Failures = append(out.Failures, fmt.Sprintf("%s %s at %s: %v", e.Name, e.Type, e.Resolver, e.Err))
		}
		write = func() error { return f.WriteZone(pw) }
	}
	go func() { pw.CloseWithError(write()) }()
	_, err := writeFile(file, pr)
	return out, err
}
