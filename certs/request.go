package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Use is what a certificate is for.
type Use string

// The uses of certificates.
const (
	Server Use = "server"
	Client Use = "client"
)

// Bounds of a request: names in it, bytes of a CSR, and how long a certificate lives when nobody says.
const (
	maxNames    = 100
	maxCSR      = 64 << 10
	DefaultFor  = 24 * time.Hour
	longestLife = 90 * 24 * time.Hour // where the policy says nothing
)

// Request asks for a certificate.
type Request struct {
	Service string        `json:"service"`
	DNS     []string      `json:"dns,omitempty"`
	IP      []netip.Addr  `json:"ip,omitempty"`
	URI     []string      `json:"uri,omitempty"`
	For     time.Duration `json:"for,omitempty"` // in nanoseconds; DefaultFor when 0, or what the policy allows at most if that is less
	Use     []Use         `json:"use,omitempty"` // both when empty
	Key     KeyType       `json:"key,omitempty"` // of the key to make, P256 when empty; none is made for a CSR
	CSR     []byte        `json:"csr,omitempty"` // PKCS #10, PEM or DER; its names are added to those above
	By      string        `json:"-"`             // who asks, for the record
}

// ParseCSR reads a certificate request, PEM or DER, and checks its signature and that its key is strong enough.
//
// Errors: ErrInvalid.
func ParseCSR(b []byte) (*x509.CertificateRequest, error) {
	if len(b) > maxCSR {
		return nil, fmt.Errorf("reading certificate request: %w: larger than %d bytes", ErrInvalid, maxCSR)
	}
	if p, rest := pem.Decode(b); p != nil {
		if (p.Type != "CERTIFICATE REQUEST" && p.Type != "NEW CERTIFICATE REQUEST") || len(bytes.TrimSpace(rest)) > 0 {
			return nil, fmt.Errorf("reading certificate request: %w: it is PEM of a %.40q", ErrInvalid, p.Type)
		}
		b = p.Bytes
	}
	r, err := x509.ParseCertificateRequest(b)
	if err != nil {
		return nil, fmt.Errorf("reading certificate request: %w: %w", ErrInvalid, err)
	}
	// The key first: a weak or huge one is not worth the arithmetic.
	if err := checkKey(r.PublicKey); err != nil {
		return nil, fmt.Errorf("reading certificate request: %w: %w", ErrInvalid, err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("reading certificate request: %w: its signature: %w", ErrInvalid, err)
	}
	if len(r.EmailAddresses) > 0 {
		return nil, fmt.Errorf("reading certificate request: %w: it asks for mail addresses", ErrInvalid)
	}
	return r, nil
}

// checkKey refuses keys that are too weak, or too expensive to use.
func checkKey(k crypto.PublicKey) error {
	switch k := k.(type) {
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Errorf("an RSA key of %d bits; want 2048 to 8192", n)
		}
		if k.E < 65537 {
			return fmt.Errorf("an RSA key with the exponent %d; want 65537", k.E)
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return fmt.Errorf("a P-224 key; want P-256 or more")
		}
	case ed25519.PublicKey:
	default:
		return fmt.Errorf("a key of the type %T; want P-256, P-384, P-521, Ed25519 or RSA", k)
	}
	return nil
}

// names are those of a certificate, checked for form.
type names struct {
	dns  []string
	ip   []netip.Addr
	uri  []*url.URL
	subj []string // for the record
}

func (r Request) names(csr *x509.CertificateRequest) (names, error) {
	var n names
	dns, uris := r.DNS, r.URI
	ips := r.IP
	if csr != nil {
		dns = slices.Concat(dns, csr.DNSNames)
		for _, ip := range csr.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				ips = append(slices.Clip(ips), a)
			}
		}
		for _, u := range csr.URIs {
			uris = append(slices.Clip(uris), u.String())
		}
	}
	if len(dns)+len(ips)+len(uris) > maxNames {
		return n, fmt.Errorf("%w: more than %d names", ErrInvalid, maxNames)
	}
	for _, d := range dns {
		d = strings.ToLower(d)
		if !hostname(strings.TrimPrefix(d, "*.")) {
			return n, fmt.Errorf("%w: %.260q is no DNS name", ErrInvalid, d)
		}
		if _, err := netip.ParseAddr(d); err == nil {
			return n, fmt.Errorf("%w: %s is an address, not a DNS name", ErrInvalid, d)
		}
		if !slices.Contains(n.dns, d) {
			n.dns = append(n.dns, d)
			n.subj = append(n.subj, "dns:"+d)
		}
	}
	for _, a := range ips {
		a = a.Unmap()
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() {
			return n, fmt.Errorf("%w: %s is no address of a host", ErrInvalid, a)
		}
		if !slices.Contains(n.ip, a) {
			n.ip = append(n.ip, a)
			n.subj = append(n.subj, "ip:"+a.String())
		}
	}
	for _, s := range uris {
		u, err := parseURI(s)
		if err != nil {
			return n, err
		}
		n.uri = append(n.uri, u)
		n.subj = append(n.subj, "uri:"+s)
	}
	if len(n.subj) == 0 {
		return n, fmt.Errorf("%w: there is no name to certify: give a DNS name, an address or a URI", ErrInvalid)
	}
	return n, nil
}

// parseURI accepts what name constraints can bound: an absolute URI whose host is a domain. A SPIFFE ID is checked by
// its own rules (SPIFFE-ID, sections 2.1 and 2.2).
func parseURI(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2048 || u.Scheme == "" || u.User != nil || u.Opaque != "" || !hostname(u.Hostname()) {
		return nil, fmt.Errorf("%w: %.260q is no URI with a domain as its host", ErrInvalid, s)
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil, fmt.Errorf("%w: the host of %.260q is an address, which name constraints cannot bound", ErrInvalid, s)
	}
	if u.Scheme == "spiffe" && (u.Port() != "" || u.RawQuery != "" || u.Fragment != "" || u.Host != strings.ToLower(u.Host) ||
		strings.Contains(u.Path, "//") || strings.HasSuffix(u.Path, "/") || strings.Contains(u.EscapedPath(), "%") ||
		slices.ContainsFunc(strings.Split(u.Path, "/"), func(p string) bool { return p == "." || p == ".." })) {
		return nil, fmt.Errorf("%w: %.260q is no SPIFFE ID", ErrInvalid, s)
	}
	return u, nil
}
