package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ErrBadOptions is wrapped by every error about options that make no sense on
// any kernel.
var ErrBadOptions = errors.New("bad vacuum options")

// Options say what a vacuum is made of. The zero value is a copy of the host
// where nothing answers and nothing is recorded.
type Options struct {
	// Layers are the directories of the root file system, topmost first; none
	// means the host's own root and what is mounted below it. Nothing is ever
	// written to them.
	Layers []string
	// Files are put in place of what the root has: content by absolute path.
	// /etc/resolv.conf names 127.0.0.53 unless it is here, and /etc/hosts only
	// localhost and the vacuum's own host name. No parent of a path may be a link.
	Files map[string][]byte
	// Binds are absolute paths of the host, shown at the same place, read-only.
	// A unix socket among them connects to the host's daemon.
	Binds    []string
	Hostname string // empty: the host's
	Host     int    // counted from 0, at most 200: its number in the record and its addresses
	Dark     Mode   // what happens to what no rule names: ModeDrop (also if empty), ModeRefuse or ModeWedge
	Rules    []Rule
	Record   *Record // nil: nothing is recorded
	// Listen is opened before anything runs, for [World.Listen],
	// [World.ListenPacket] and [World.Conntrack] to hand over without asking the
	// vacuum again. Rules may so name a port from the beginning.
	Listen []Place

	Memory int64   // bytes that all programs inside may use; 0: no limit
	CPUs   float64 // processors that they may use; 0: no limit
}

const (
	maxHost   = 200
	maxListen = 16 // of Options; more are opened later
)

const resolvConf = "nameserver 127.0.0.53\n"

func (o *Options) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrBadOptions}, args...)...)
	}
	if o.Dark == "" {
		o.Dark = ModeDrop
	}
	if o.Dark != ModeDrop && o.Dark != ModeRefuse && o.Dark != ModeWedge {
		return bad("dark is %q; want drop, refuse or wedge", o.Dark)
	}
	if o.Host < 0 || o.Host > maxHost {
		return bad("host %d; want 0 to %d", o.Host, maxHost)
	}
	if o.Memory < 0 || o.CPUs < 0 {
		return bad("a limit below zero")
	}
	for i, l := range o.Layers {
		st, err := os.Stat(l)
		if err != nil {
			return bad("the root: %w", err)
		}
		if !st.IsDir() {
			return bad("the root %s is no directory", l)
		}
		abs, err := filepath.Abs(l)
		if err != nil {
			return bad("the root %s: %w", l, err)
		}
		if i == 0 {
			o.Layers = append([]string(nil), o.Layers...)
		}
		o.Layers[i] = abs
	}
	for _, p := range o.Binds {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			return bad("%q is no clean absolute path below the root", p)
		}
		if _, err := os.Stat(p); err != nil {
			return bad("%w", err)
		}
	}
	for p := range o.Files {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/" {
			return bad("%q is no clean absolute path below the root", p)
		}
	}
	if len(o.Listen) > maxListen {
		return bad("%d listeners; want at most %d", len(o.Listen), maxListen)
	}
	return checkRules(o.Rules)
}

func checkRules(rules []Rule) error {
	for _, r := range rules {
		if (r.Proto != "tcp" && r.Proto != "udp") || !r.To.IsValid() || r.To.Addr().Is4In6() ||
			(r.Mode == ModeAllow) != (r.Port != 0) || (r.Mode != ModeAllow && r.Mode != ModeDrop && r.Mode != ModeRefuse && r.Mode != ModeWedge) {
			return fmt.Errorf("%w: rule %+v", ErrBadOptions, r)
		}
		for _, p := range r.Ports {
			if p.First == 0 || p.First > p.Last {
				return fmt.Errorf("%w: ports %d-%d", ErrBadOptions, p.First, p.Last)
			}
		}
	}
	return nil
}

// StartsEmpty says whether a path of the host is below a directory that is empty
// when a vacuum with the host's root begins.
func StartsEmpty(path string) bool {
	for _, dir := range covered {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// setup is what the options mean to the first process.
func (w *World) setup() setup {
	o := w.options
	s := setup{
		Layers: o.Layers, Binds: o.Binds, Hostname: o.Hostname, Groups: os.Geteuid() == 0, Record: o.Record != nil, Listen: o.Listen,
		Files: map[string][]byte{"/etc/resolv.conf": []byte(resolvConf)}, Fresh: []string{"/root/.cache"},
	}
	for p, content := range o.Files {
		s.Files[p] = content
	}
	hosts := 0
	if w.fabric != nil {
		hosts = len(w.fabric.worlds)
	}
	s.Files[hostsFile] = hostsContent(o, hosts)
	if cwd, err := os.Getwd(); err == nil {
		s.Work = append(s.Work, cwd)
	}
	if home := filepath.Clean(os.Getenv("HOME")); filepath.IsAbs(home) && home != "/root" {
		s.Fresh = append(s.Fresh, filepath.Join(home, ".cache"))
		s.Work = append(s.Work, home)
	}
	s.Address4, s.Address6 = ownAddresses(o.Host)
	w.rules = ruleset{Own: ownPrefixes(s.Address4, s.Address6), Dark: o.Dark, Log: s.Record, Rules: o.Rules, Host: o.Host}
	if w.fabric != nil {
		s.Segment, w.rules.Peers = true, w.fabric.others(o.Host)
	}
	s.Rules = w.rules
	return s
}
