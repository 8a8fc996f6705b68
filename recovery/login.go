package recovery

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/fetch"
)

// Login is how a host is reached over SSH: by its address, since nothing is looked up.
type Login struct {
	User string
	Addr netip.AddrPort
	Pin  digest.Digest // of its host key; "" where the kit or known_hosts has the key
}

const (
	defaultUser = "root" // who can do what recovery takes
	sshPort     = 22
)

// ParseLogin reads [USER@]IP[:PORT][#pin=sha256:HEX]. An IPv6 address with a port is in
// brackets.
func ParseLogin(s string) (Login, error) {
	bad := func() (Login, error) {
		return Login{}, fmt.Errorf("%w: %.100q: want [USER@]IP[:PORT][#pin=sha256:HEX], and [IPV6]:PORT", ErrUsage, s)
	}
	l := Login{User: defaultUser}
	rest, pin, pinned := strings.Cut(s, "#pin=")
	if pinned {
		d, err := digest.Parse(pin)
		if err != nil || d.Algorithm() != digest.SHA256 {
			return bad()
		}
		l.Pin = d
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		l.User, rest = rest[:i], rest[i+1:]
	}
	if l.User == "" || strings.ContainsAny(l.User, ":/@ \t\r\n\x00") {
		return bad()
	}
	bare := rest
	if strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]") {
		bare = rest[1 : len(rest)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		l.Addr = netip.AddrPortFrom(a, sshPort)
	} else if l.Addr, err = netip.ParseAddrPort(rest); err != nil {
		return bad()
	}
	if l.Addr.Port() == 0 || strings.ContainsAny(l.Addr.Addr().Zone(), "[]:@#/%? \t\r\n\x00") {
		return bad()
	}
	return l, nil
}

// String writes what ParseLogin reads.
func (l Login) String() string {
	s := l.User + "@" + l.Addr.String()
	if l.Pin != "" {
		s += "#pin=" + l.Pin.String()
	}
	return s
}

// MarshalText writes what String writes.
func (l Login) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what ParseLogin reads.
func (l *Login) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLogin(string(b))
	return err
}

// place is what fetch dials.
func (l Login) place(pins []digest.Digest) fetch.Place {
	u := url.URL{Scheme: "ssh", User: url.User(l.User), Host: l.Addr.String()}
	if l.Pin != "" {
		pins = []digest.Digest{l.Pin}
	}
	return fetch.Place{URL: u.String(), Pins: pins}
}

// ParseHosts reads NAME=LOGIN, each as ParseLogin reads it.
func ParseHosts(given []string) (map[string]Login, error) {
	hosts := map[string]Login{}
	for _, g := range given {
		name, login, ok := strings.Cut(g, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%w: host %.100q: want NAME=IP", ErrUsage, g)
		}
		l, err := ParseLogin(login)
		if err != nil {
			return nil, fmt.Errorf("host %.100q: %w", name, err)
		}
		hosts[name] = l
	}
	return hosts, nil
}

// Addresses are what a runbook's texts get of hosts.
func Addresses(hosts map[string]Login) map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for name, l := range hosts {
		all[name] = l.Addr.Addr()
	}
	return all
}
