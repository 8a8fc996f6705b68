package container

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Port is an address that a process listens on, or may.
type Port struct {
	Proto string     `json:"proto"`           // "tcp" or "udp"
	Addr  netip.Addr `json:"addr,omitzero"`   // the zero Addr: some address, it is not known which
	Port  uint16     `json:"port"`            //
	Guess bool       `json:"guess,omitempty"` // nothing proves that the process listens here
}

// String gives "127.0.0.1:2379/tcp", with "*" for an address that is not known.
func (p Port) String() string {
	host := "*"
	if p.Addr.IsValid() {
		host = p.Addr.String()
		if p.Addr.Is6() {
			host = "[" + host + "]"
		}
	}
	return host + ":" + strconv.Itoa(int(p.Port)) + "/" + p.Proto
}

// maxPorts bounds what PortsOf returns: an exposed range may name thousands.
const maxPorts = 256

// PortsOf reads from a command line, an environment (K=V) and an image's
// exposed ports ("2379/tcp", or "53" for TCP) where a service will listen. It
// is a best effort over conventions: an address counts where the option is
// named like a listener (listen, bind), where it is a wildcard, and, as a
// guess, where it is an address of this host. Options named like a client's
// (endpoints, servers, cluster, join) never count, since they name other hosts.
// The result is ordered and without duplicates.
func PortsOf(args, env []string, exposed map[string]struct{}) []Port {
	return portsOf(args, env, exposed, localAddrs())
}

// localAddrs are the addresses of this host's interfaces.
func localAddrs() []netip.Addr {
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil // loopback and wildcards are still recognised
	}
	var addrs []netip.Addr
	for _, a := range ifaces {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, p.Addr().Unmap())
		}
	}
	return addrs
}

func portsOf(args, env []string, exposed map[string]struct{}, local []netip.Addr) []Port {
	f := portFinder{local: local, seen: map[Port]int{}}
	for _, o := range options(args) {
		f.option(o.name, o.value, false)
	}
	for _, kv := range env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			f.option(k, v, true)
		}
	}
	for e := range exposed {
		number, proto, _ := strings.Cut(e, "/")
		first, last, ranged := strings.Cut(number, "-")
		if !ranged {
			last = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 16)
		hi, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || (proto != "" && proto != "tcp" && proto != "udp") {
			continue
		}
		if proto == "" {
			proto = "tcp"
		}
		for n := max(lo, 1); n <= hi && n < lo+maxPorts; n++ {
			f.add(Port{Proto: proto, Port: uint16(n), Guess: true})
		}
	}
	slices.SortFunc(f.ports, func(a, b Port) int { return strings.Compare(a.String(), b.String()) })
	return f.ports
}

// option is one flag of a command line with its value; a positional argument
// has no name.
type option struct{ name, value string }

// options splits a command line without its program: --a=b, --a b, -a b, b.
func options(args []string) []option {
	var out []option
	for i := 1; i < len(args); i++ {
		name, isFlag := strings.CutPrefix(args[i], "-")
		if !isFlag {
			out = append(out, option{value: args[i]})
			continue
		}
		name = strings.TrimPrefix(name, "-")
		value, joined := "", false
		if name, value, joined = strings.Cut(name, "="); !joined && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			i++
			value = args[i]
		}
		out = append(out, option{name: name, value: value})
	}
	return out
}

type portFinder struct {
	local []netip.Addr
	ports []Port
	seen  map[Port]int // without Guess, to the index in ports
}

// add keeps one entry for each address, the surer one.
func (f *portFinder) add(p Port) {
	key := p
	key.Guess = false
	if i, ok := f.seen[key]; ok {
		f.ports[i].Guess = f.ports[i].Guess && p.Guess
		return
	}
	if len(f.ports) < maxPorts {
		f.seen[key] = len(f.ports)
		f.ports = append(f.ports, p)
	}
}

// role is what an option's name says about the address in its value.
type role int

const (
	neutral role = iota
	listener
	client
)

// roleOf reads a name such as "listen-client-urls" or "ETCD_ADVERTISE_CLIENT_URLS".
// A listener's word wins over a client's: --listen-peer-urls listens.
func roleOf(name string) role {
	name = strings.ToLower(name)
	for _, w := range []string{"listen", "bind"} {
		if strings.Contains(name, w) {
			return listener
		}
	}
	for _, w := range []string{
		"advertise", "backend", "bootstrap", "broker", "cluster", "connect", "discovery", "endpoint", "forward", "join",
		"master", "peer", "proxy", "remote", "seed", "server", "service", "source", "target", "upstream",
	} {
		if strings.Contains(name, w) {
			return client
		}
	}
	return neutral
}

// portNames are the options whose bare number is the port a program listens on.
func portNames() []string {
	return []string{
		"port", "listen-port", "bind-port", "secure-port", "insecure-port", "http-port", "https-port",
		"client-port", "metrics-port", "healthz-port", "grpc-port", "server-port",
	}
}

func (f *portFinder) option(name, value string, env bool) {
	flat := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name))
	does := roleOf(name)
	if n, err := strconv.ParseUint(value, 10, 16); err == nil {
		known := slices.Contains(portNames(), flat)
		switch {
		case n == 0 || name == "" || (does == client && !known):
		case does == listener || (known && !env):
			f.add(Port{Proto: "tcp", Port: uint16(n)})
		case known || flat == "p" || strings.HasSuffix(flat, "port"):
			f.add(Port{Proto: "tcp", Port: uint16(n), Guess: true})
		}
		return
	}
	if does == client {
		return
	}
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == ';' }) {
		f.address(item, does, env)
	}
}

// address reads one URL or host:port and adds it if it can be an address that
// this host listens on.
func (f *portFinder) address(item string, does role, env bool) {
	proto, hostport := "tcp", item
	if scheme, _, ok := strings.Cut(item, "://"); ok {
		u, err := url.Parse(item)
		if err != nil {
			return
		}
		hostport = u.Host
		switch scheme {
		case "http":
			hostport = withPort(hostport, "80")
		case "https":
			hostport = withPort(hostport, "443")
		case "dns":
			hostport = withPort(hostport, "53")
		case "udp", "udp4", "udp6":
			proto = "udp"
		}
	} else if rest, ok := strings.CutSuffix(item, "/udp"); ok {
		proto, hostport = "udp", rest
	} else {
		hostport = strings.TrimSuffix(item, "/tcp")
	}
	host, number, err := net.SplitHostPort(hostport)
	if err != nil {
		return
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return
	}
	addr, ok := listenHost(host)
	if !ok {
		return
	}
	wild := addr.IsUnspecified()
	if !wild && !addr.IsLoopback() && !slices.Contains(f.local, addr.WithZone("")) {
		return
	}
	p := Port{Proto: proto, Addr: addr, Port: uint16(n), Guess: does != listener && (!wild || env)}
	f.add(p)
	if n == 53 { // a name server answers on both
		p.Proto = "tcp"
		f.add(p)
		p.Proto = "udp"
		f.add(p)
	}
}

func withPort(hostport, port string) string {
	if _, _, err := net.SplitHostPort(hostport); err == nil {
		return hostport
	}
	return net.JoinHostPort(strings.Trim(hostport, "[]"), port)
}

// listenHost reads the host part of a listener's address. No name is ever
// looked up.
func listenHost(host string) (netip.Addr, bool) {
	switch host {
	case "", "*":
		return netip.IPv6Unspecified(), true // every address of both families
	case "localhost":
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	addr, err := netip.ParseAddr(host)
	return addr.Unmap(), err == nil
}
