package sandbox

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Suggest is the smallest allowlist that would have let the blocked attempts
// pass, sorted by endpoint. What a program asked for by name is suggested by
// name. What a capability covered already and was dark on purpose is not
// suggested, nor what no capability can let in: icmp, raw and packet sockets,
// abstract names. Whether the host has a path that was not found is the
// caller's to look up.
func Suggest(attempts []Attempt) []Capability {
	s := suggestion{ports: map[string]map[uint16]bool{}, bases: map[string]Capability{}, methods: map[string]map[string]map[string]bool{}}
	for _, a := range attempts {
		if a.Verdict != Blocked {
			continue
		}
		switch a.Proto {
		case "http":
			s.http(a)
		case "tcp", "udp":
			if a.Capability == "" {
				s.endpoint(a)
			}
		case "dns":
			name, kind, _ := strings.Cut(a.Destination, " ")
			if host, err := parseName(name); err == nil && a.Capability == "" && (kind == "A" || kind == "AAAA") {
				s.add(Capability{Kind: KindDNS, Host: host}, 0)
			}
		case protoUnix:
			if p, err := parsePath(escapePath(a.Destination)); err == nil && a.Capability == "" {
				s.add(Capability{Kind: KindUnix, Path: p}, 0)
			}
		}
	}
	return s.capabilities()
}

// suggestion collects what is alike: one base with its ports, one origin with
// its paths and their methods.
type suggestion struct {
	bases   map[string]Capability
	ports   map[string]map[uint16]bool
	methods map[string]map[string]map[string]bool // by origin and path
}

func (s *suggestion) add(c Capability, port uint16) {
	c.Mode, c.Dark = ModeAllow, ModeDrop
	k := c.Endpoint()
	s.bases[k] = c
	if s.ports[k] == nil {
		s.ports[k] = map[uint16]bool{}
	}
	if port != 0 {
		s.ports[k][port] = true
	}
}

func (s *suggestion) endpoint(a Attempt) {
	to, err := netip.ParseAddrPort(a.Destination)
	if err != nil {
		return
	}
	ip := to.Addr()
	c := Capability{Kind: Kind(a.Proto), Prefix: netip.PrefixFrom(ip, ip.BitLen())}
	switch host, err := parseName(a.Name); {
	case a.Name != "" && err == nil:
		c = Capability{Kind: KindDNS, Host: host}
	case ip.IsLoopback() && a.Proto == "tcp":
		c = Capability{Kind: KindLoopback}
	}
	s.add(c, to.Port())
}

func (s *suggestion) http(a Attempt) {
	method, url, ok := strings.Cut(a.Destination, " ")
	scheme, rest, ok2 := strings.Cut(url, "://")
	host, p, ok3 := strings.Cut(rest, "/")
	if !ok || !ok2 || !ok3 || a.Outcome != Denied || method == "CONNECT" {
		return
	}
	seen, err := normalise("/" + p)
	if err != nil {
		return
	}
	origin := scheme + "://" + host
	// Only what reads back is a suggestion.
	if _, err := ParseCapability("http:" + origin + ";" + method + ";" + escapePath(seen.path)); err != nil {
		return
	}
	if s.methods[origin] == nil {
		s.methods[origin] = map[string]map[string]bool{}
	}
	if s.methods[origin][seen.path] == nil {
		s.methods[origin][seen.path] = map[string]bool{}
	}
	s.methods[origin][seen.path][method] = true
}

func (s *suggestion) capabilities() []Capability {
	var out []Capability
	named := map[string]bool{} // hosts that resolve because of one of these
	for origin, paths := range s.methods {
		// Paths with the same methods share a capability; one for all of them would
		// let more pass than was tried.
		byMethods := map[string][]string{}
		for p, methods := range paths {
			var l []string
			for m := range methods {
				l = append(l, m)
			}
			slices.Sort(l)
			k := strings.Join(l, ",")
			byMethods[k] = append(byMethods[k], p)
		}
		for methods, l := range byMethods {
			slices.Sort(l)
			text := "http:" + origin + ";" + methods
			for _, p := range l {
				text += ";" + escapePath(p)
			}
			if c, err := ParseCapability(text); err == nil {
				named[c.Host] = true
				out = append(out, c)
			}
		}
	}
	for k, c := range s.bases {
		l := ranges(s.ports[k])
		if len(l) == 0 && (c.Kind != KindDNS || !named[c.Host]) {
			out = append(out, c)
		}
		for part := range slices.Chunk(l, maxPorts) {
			c.Ports = part
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b Capability) int { return cmp.Compare(a.Endpoint(), b.Endpoint()) })
	return out
}

// ranges writes ports as few ranges.
func ranges(ports map[uint16]bool) []PortRange {
	var l []uint16
	for p := range ports {
		l = append(l, p)
	}
	slices.Sort(l)
	var out []PortRange
	for _, p := range l {
		if n := len(out); n > 0 && out[n-1].Last+1 == p {
			out[n-1].Last = p
			continue
		}
		out = append(out, PortRange{p, p})
	}
	return out
}
