package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrBadCapability is wrapped by every error about a capability or a catalogue
// that cannot be read.
var ErrBadCapability = errors.New("bad capability")

// Kind is what sort of thing a capability lets through.
type Kind string

// The kinds, each also the word an endpoint starts with.
const (
	KindTCP      Kind = "tcp"      // TCP to addresses and ports
	KindUDP      Kind = "udp"      // UDP to addresses and ports
	KindDNS      Kind = "dns"      // a name: it resolves, and TCP and UDP to its ports pass
	KindHTTP     Kind = "http"     // HTTP/1.1 to one origin, limited by method and path
	KindUnix     Kind = "unix"     // a unix socket of the host, by path
	KindLoopback Kind = "loopback" // TCP ports of the host's own loopback
	KindFile     Kind = "file"     // a file or directory of the host, read-only
)

// kinds lists the forms an endpoint may take; errors show it.
var kinds = [...]struct {
	kind Kind
	form string
}{
	{KindTCP, "tcp:IP|CIDR:PORTS"},
	{KindUDP, "udp:IP|CIDR:PORTS"},
	{KindDNS, "dns:NAME[:PORTS]"},
	{KindHTTP, "http:URL[;METHOD,METHOD][;/exact][;/prefix/*]"},
	{KindUnix, "unix:/PATH"},
	{KindLoopback, "loopback:PORTS"},
	{KindFile, "file:/PATH"},
}

// Mode is what happens to traffic that a capability names.
type Mode string

// The modes. All but ModeAllow are kinds of dark.
const (
	ModeAllow  Mode = "allow"
	ModeDrop   Mode = "drop"   // nothing answers: TCP times out, UDP is lost
	ModeRefuse Mode = "refuse" // a TCP reset or an ICMP error, at once
	ModeWedge  Mode = "wedge"  // the connection is accepted and never answered
)

// PortRange is First to Last, both included; First is never above Last.
type PortRange struct{ First, Last uint16 }

// Capability is one thing that is let into the vacuum.
//
// As text it is an endpoint and then options, each introduced by a comma:
//
//	tcp:10.0.0.1:443              udp:10.0.0.0/8:53,5353       tcp:[fd00::/8]:80-90,443
//	dns:store.example:443         loopback:8080                tcp:10.0.0.1:*
//	http:https://10.0.0.5:5000;GET,HEAD;/v2/*
//	unix:/run/x.sock              file:/etc/services.d
//	tcp:10.0.0.1:443,name=store,latency=20ms,loss=1%,rate=1MB,dark=wedge
//
// The options are name= (what the record and the fault timeline call it), mode=
// (allow, drop, refuse or wedge: its state at the start), dark= (drop, refuse or
// wedge: what `dark:NAME` makes of it), latency= (added before the first byte of
// each direction), loss= (percent of datagrams, or of new connections), rate=
// (bytes a second in each direction, in B, kB, MB, GB or KiB, MiB, GiB), at=
// (dns, http: the addresses of the name, joined by +) and pin= (http: sha256:HEX
// of the server's SubjectPublicKeyInfo).
//
// Options start at the first comma that is followed by a word and an equals
// sign. In a path the characters , ; % and whatever is not printable ASCII are
// written %XX.
type Capability struct {
	Name string // empty for an endpoint without name=
	Kind Kind

	Prefix  netip.Prefix // tcp, udp: the addresses; one address is a /32 or /128
	Ports   []PortRange  // tcp, udp, dns, loopback, http (one); empty for a dns name means every port
	Host    string       // dns, http: a lowercase name without a final dot, or for http an address
	TLS     bool         // http: an https URL
	Methods []string     // http: empty means every method but CONNECT
	Paths   []string     // http: exact paths, or prefixes ending in *; empty means every path
	Path    string       // unix, file: absolute and clean
	At      []netip.Addr // dns, http: dialled instead of looking the name up
	Pin     string       // http: lowercase hex of 32 bytes

	Mode      Mode          // its state at the start; ModeAllow unless said
	Dark      Mode          // its state when it is made dark; never ModeAllow
	Latency   time.Duration // at most maxLatency
	Loss      float64       // percent, 0 to 100
	Bandwidth int64         // bytes a second in each direction; 0 means unlimited
}

const (
	maxCapability = 4096 // bytes of text
	maxPorts      = 64   // ranges in one capability
	maxLatency    = time.Hour
)

// ParseCapability reads an inline endpoint with its options. A name that
// belongs to a catalogue is resolved by [Catalogue.Resolve]. Errors wrap
// ErrBadCapability and show the accepted forms.
func ParseCapability(s string) (Capability, error) {
	c := Capability{Mode: ModeAllow, Dark: ModeDrop}
	if len(s) > maxCapability {
		return Capability{}, fmt.Errorf("%w: longer than %d bytes", ErrBadCapability, maxCapability)
	}
	endpoint, options := cutOptions(s)
	kind, rest, _ := strings.Cut(endpoint, ":")
	form := ""
	for _, k := range kinds {
		if kind == string(k.kind) {
			c.Kind, form = k.kind, k.form
		}
	}
	if form == "" {
		return Capability{}, fmt.Errorf("%w: %q is neither an endpoint nor a name of the catalogue; an endpoint is one of %s", ErrBadCapability, s, forms())
	}
	if err := c.parseEndpoint(rest); err != nil {
		return Capability{}, fmt.Errorf("%w: %q: %w; write %s", ErrBadCapability, s, err, form)
	}
	if err := c.parseOptions(options); err != nil {
		return Capability{}, fmt.Errorf("%w: %q: %w", ErrBadCapability, s, err)
	}
	return c, nil
}

func forms() string {
	var l []string
	for _, k := range kinds {
		l = append(l, k.form)
	}
	return strings.Join(l, ", ")
}

func (c *Capability) parseEndpoint(s string) (err error) {
	switch c.Kind {
	case KindTCP, KindUDP:
		i := strings.LastIndexByte(s, ':')
		if i < 0 {
			return errors.New("no ports")
		}
		if c.Prefix, err = parsePrefix(s[:i]); err == nil {
			c.Ports, err = parsePorts(s[i+1:])
		}
	case KindLoopback:
		c.Ports, err = parsePorts(s)
	case KindDNS:
		name, ports, ok := strings.Cut(s, ":")
		if c.Host, err = parseName(name); err == nil && ok {
			c.Ports, err = parsePorts(ports)
		}
	case KindHTTP:
		err = c.parseHTTP(s)
	case KindUnix, KindFile:
		c.Path, err = parsePath(s)
	}
	return err
}

// parsePrefix reads an address or a prefix; IPv6 stands in brackets.
func parsePrefix(s string) (netip.Prefix, error) {
	in, bracketed := strings.CutPrefix(s, "[")
	if bracketed {
		var ok bool
		if in, ok = strings.CutSuffix(in, "]"); !ok {
			return netip.Prefix{}, errors.New("a [ without its ]")
		}
	}
	var p netip.Prefix
	if strings.Contains(in, "/") {
		var err error
		if p, err = netip.ParsePrefix(in); err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a prefix of addresses", in)
		}
	} else {
		a, err := netip.ParseAddr(in)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is not an IP address", in)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is an IPv4 address in disguise; write it as IPv4", in)
	case p.Addr().Is6() != bracketed:
		return netip.Prefix{}, fmt.Errorf("%q: IPv6, and nothing else, stands in brackets", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its prefix; write %s", in, p.Masked())
	}
	return p, nil
}

// parsePorts reads 80,443 or 80-90 or *.
func parsePorts(s string) ([]PortRange, error) {
	if s == "*" {
		return []PortRange{{1, 65535}}, nil
	}
	var l []PortRange
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := parsePort(first)
		b, errB := parsePort(last)
		if errA != nil || errB != nil || a > b {
			return nil, fmt.Errorf("%q is not a port (1 to 65535), a range 80-90 or a list of them", s)
		}
		l = append(l, PortRange{a, b})
	}
	if len(l) > maxPorts {
		return nil, fmt.Errorf("more than %d ranges of ports", maxPorts)
	}
	return l, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && (n == 0 || s[0] == '0' || s[0] == '+') {
		err = strconv.ErrSyntax
	}
	return uint16(n), err
}

// parseName reads a host name: RFC 1123 labels, with the underscores that
// service records use. An all-numeric last label is refused, so that no reader
// takes the name for an address.
func parseName(s string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(s, "."))
	bad := len(name) > 253
	labels := strings.Split(name, ".")
	for _, l := range labels {
		bad = bad || l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' ||
			strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
	}
	if bad || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", fmt.Errorf("%q is not a host name", s)
	}
	return name, nil
}

// Matches says whether an address and port fall under a tcp, udp or loopback
// capability. Loopback stands for 127.0.0.0/8 and ::1.
func (c Capability) Matches(a netip.AddrPort) bool {
	switch ip := a.Addr().Unmap().WithZone(""); c.Kind {
	case KindTCP, KindUDP:
		return c.Prefix.Contains(ip) && c.HasPort(a.Port())
	case KindLoopback:
		return ip.IsLoopback() && c.HasPort(a.Port())
	case KindDNS, KindHTTP, KindUnix, KindFile:
	}
	return false
}

// HasPort says whether the capability covers a port.
func (c Capability) HasPort(p uint16) bool {
	if len(c.Ports) == 0 {
		return c.Kind == KindDNS
	}
	return slices.ContainsFunc(c.Ports, func(r PortRange) bool { return r.First <= p && p <= r.Last })
}

// Label is what people are shown: the name, or the endpoint where it has none.
func (c Capability) Label() string {
	if c.Name != "" {
		return c.Name
	}
	return c.Endpoint()
}

// Endpoint is the capability without its options.
func (c Capability) Endpoint() string {
	var b strings.Builder
	b.WriteString(string(c.Kind) + ":")
	switch c.Kind {
	case KindTCP, KindUDP:
		b.WriteString(prefixText(c.Prefix) + ":" + portsText(c.Ports))
	case KindLoopback:
		b.WriteString(portsText(c.Ports))
	case KindDNS:
		b.WriteString(c.Host)
		if len(c.Ports) > 0 {
			b.WriteString(":" + portsText(c.Ports))
		}
	case KindHTTP:
		b.WriteString(c.origin())
		if len(c.Methods) > 0 {
			b.WriteString(";" + strings.Join(c.Methods, ","))
		}
		for _, p := range c.Paths {
			b.WriteString(";" + escapePath(p))
		}
	case KindUnix, KindFile:
		b.WriteString(escapePath(c.Path))
	}
	return b.String()
}

// String writes what ParseCapability reads.
func (c Capability) String() string { return c.Endpoint() + c.optionsText() }

func prefixText(p netip.Prefix) string {
	s := p.String()
	if p.IsSingleIP() {
		s = p.Addr().String()
	}
	if p.Addr().Is6() {
		return "[" + s + "]"
	}
	return s
}

func portsText(l []PortRange) string {
	var parts []string
	for _, r := range l {
		switch {
		case r == PortRange{1, 65535} && len(l) == 1:
			parts = append(parts, "*")
		case r.First == r.Last:
			parts = append(parts, strconv.Itoa(int(r.First)))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(parts, ",")
}
