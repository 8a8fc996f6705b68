package certs

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// nowhere is a domain that has no hosts (RFC 6761, section 6.4). A kind of name that is not permitted is bound to
// it: an excluded empty URI or mail subtree means nothing to OpenSSL, a permitted one that never matches means the same
// to everybody.
const nowhere = "invalid"

// maxScope bounds a scope's domains and networks: clients look through all of them.
const maxScope = 64

// Scope is what an authority may ever certify. What is left out of it is forbidden, not free.
type Scope struct {
	DNS []string       // domains, each with all below it
	IP  []netip.Prefix // networks
	URI []string       // hosts of URIs, such as SPIFFE trust domains; with a leading dot all below it
}

func (s Scope) check() error {
	if len(s.DNS)+len(s.IP)+len(s.URI) == 0 {
		return fmt.Errorf("%w: the scope is empty: name the domains, networks or trust domains that a recovery needs", ErrInvalid)
	}
	for _, d := range s.DNS {
		if !hostname(d) {
			return fmt.Errorf("%w: scope: %.260q is no domain", ErrInvalid, d)
		}
	}
	if len(s.DNS)+len(s.IP)+len(s.URI) > maxScope {
		return fmt.Errorf("%w: scope: more than %d domains and networks", ErrInvalid, maxScope)
	}
	for _, p := range s.IP {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return fmt.Errorf("%w: scope: %s is no network with its host bits zero", ErrInvalid, p)
		}
	}
	for _, u := range s.URI {
		if !hostname(strings.TrimPrefix(u, ".")) {
			return fmt.Errorf("%w: scope: %.260q is no host of a URI", ErrInvalid, u)
		}
	}
	return nil
}

// constrain puts the scope into a template as critical name constraints, mail closed as well.
func (s Scope) constrain(t *x509.Certificate) {
	t.PermittedDNSDomainsCritical = true
	t.PermittedDNSDomains = s.DNS
	if len(s.DNS) == 0 {
		t.PermittedDNSDomains = []string{nowhere}
	}
	t.PermittedURIDomains = s.URI
	if len(s.URI) == 0 {
		t.PermittedURIDomains = []string{nowhere}
	}
	t.PermittedEmailAddresses = []string{nowhere}
	v4, v6 := false, false
	for _, p := range s.IP {
		v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
		t.PermittedIPRanges = append(t.PermittedIPRanges, ipNet(p))
	}
	// GnuTLS holds a permitted network to bound its own family alone, so the other one is excluded.
	if !v4 {
		t.ExcludedIPRanges = append(t.ExcludedIPRanges, excludeOther(s.IP, netip.IPv4Unspecified())...)
	}
	if !v6 {
		t.ExcludedIPRanges = append(t.ExcludedIPRanges, excludeOther(s.IP, netip.IPv6Unspecified())...)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// excludeOther covers the family of zero but for the addresses that begin as a permitted network of the other family
// does: 10.0.0.0/8 leaves out a00::/8. Java (17, IPAddressName.constrains) compares an address of 4 bytes with a
// network of 16 byte by byte, and refuses the certificate, by an exception even, once the first 4 agree. What is left open
// that way, for GnuTLS alone, is space that nobody is given (RFC 4291, section 2.4) for every private network; for a public one
// within 32.0.0.0/3 it is not.
func excludeOther(permitted []netip.Prefix, zero netip.Addr) []*net.IPNet {
	var open []netip.Prefix
	for _, p := range permitted {
		b := zero.AsSlice()
		copy(b, p.Addr().AsSlice()[:4])
		a, _ := netip.AddrFromSlice(b)
		open = append(open, netip.PrefixFrom(a, min(p.Bits(), 32)).Masked())
	}
	var out []*net.IPNet
	var walk func(netip.Prefix)
	walk = func(at netip.Prefix) {
		overlaps := false
		for _, o := range open {
			if o.Bits() <= at.Bits() && o.Contains(at.Addr()) {
				return
			}
			overlaps = overlaps || at.Overlaps(o)
		}
		if !overlaps {
			out = append(out, ipNet(at))
			return
		}
		b := at.Addr().AsSlice()
		b[at.Bits()/8] |= 0x80 >> (at.Bits() % 8)
		upper, _ := netip.AddrFromSlice(b)
		walk(netip.PrefixFrom(at.Addr(), at.Bits()+1))
		walk(netip.PrefixFrom(upper, at.Bits()+1))
	}
	walk(netip.PrefixFrom(zero, 0))
	return out
}

// scopeOf reads back what constrain wrote.
func scopeOf(c *x509.Certificate) Scope {
	var s Scope
	for _, d := range c.PermittedDNSDomains {
		if d != nowhere {
			s.DNS = append(s.DNS, d)
		}
	}
	for _, u := range c.PermittedURIDomains {
		if u != nowhere {
			s.URI = append(s.URI, u)
		}
	}
	for _, n := range c.PermittedIPRanges {
		a, ok := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ok {
			s.IP = append(s.IP, netip.PrefixFrom(a, ones))
		}
	}
	return s
}

// closed says why an intermediate is not constrained as this package demands; "" where it is.
func closed(c *x509.Certificate) string {
	switch {
	case !c.IsCA || !c.BasicConstraintsValid:
		return "it is no authority"
	case c.MaxPathLen != 0 || !c.MaxPathLenZero:
		return "its path length is not 0, so it could make further authorities"
	case c.KeyUsage&x509.KeyUsageCertSign == 0:
		return "its key usage does not include signing certificates"
	case !c.PermittedDNSDomainsCritical:
		return "its name constraints are not critical, or not there"
	case len(c.PermittedDNSDomains) == 0:
		return "its name constraints leave DNS names open"
	case len(c.PermittedURIDomains) == 0:
		return "its name constraints leave URIs open"
	case len(c.PermittedIPRanges) == 0 && len(c.ExcludedIPRanges) < 2:
		return "its name constraints leave IP addresses open"
	}
	return ""
}

func (s Scope) dns(name string) bool {
	name = strings.TrimPrefix(strings.ToLower(name), "*.")
	for _, d := range s.DNS {
		if d = strings.ToLower(d); name == d || strings.HasSuffix(name, "."+d) {
			return true
		}
	}
	return false
}

func (s Scope) ip(a netip.Addr) bool {
	for _, p := range s.IP {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func (s Scope) uri(u *url.URL) bool {
	host := strings.ToLower(u.Hostname())
	for _, d := range s.URI {
		if d = strings.ToLower(d); host == d || d[0] == '.' && strings.HasSuffix(host, d) {
			return true
		}
	}
	return false
}

// hostname says whether a name is made of letters, digits and hyphens (RFC 1123); underscores are left out.
func hostname(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
	}
	return true
}
