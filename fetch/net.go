package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrName: a host is a name, and no address was given for it.
var ErrName = errors.New("no address is known for this name")

// Net is how sources are reached. It never asks the system's resolver.
type Net struct {
	// Names has the addresses of names, from the kit and from flags.
	Names map[string][]netip.Addr
	// Login returns the user and the password, or the access key and the secret, for
	// a host (host or host:port); ok is false where there is none. nil: none at all.
	Login func(host string) (user, password string, ok bool)
	// Now is the time that certificates are checked at; nil stands for the clock.
	Now func() time.Time
	// SSHKeys are private key files for ssh sources, besides those of the agent.
	SSHKeys []string
}

// Place is a source as it is written down, and by what its server is known.
type Place struct {
	URL string
	// CA holds certificates (PEM) that the server's must go back to. Without CA and
	// Pins it is the system's that count.
	CA []byte
	// Pins are SHA-256 digests of keys, one of which must be the server's: of a
	// certificate's SubjectPublicKeyInfo (RFC 7469) or of an SSH host key's blob. A
	// pinned certificate's dates and names do not matter.
	Pins []digest.Digest
}

const dialTimeout = 5 * time.Second

// DialContext connects to host:port, where host is an address or in Names. Every
// address of a name is tried in turn.
func (n Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs := n.Names[host]
	if a, err := netip.ParseAddr(host); err == nil {
		addrs = []netip.Addr{a}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("dialling %s: %w", address, ErrName)
	}
	var errs []error
	for _, a := range addrs {
		d := net.Dialer{Timeout: dialTimeout}
		c, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// tlsConfig trusts what the place says and nothing else.
func (n Net) tlsConfig(p Place) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, Time: n.Now}
	if len(p.CA) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(p.CA) {
			return nil, fmt.Errorf("reading the CA of %s: no certificate in it", p.URL)
		}
	}
	if len(p.Pins) > 0 {
		// The key is known: what a certificate authority says of it adds nothing, and
		// its dates would refuse it where the clock is wrong.
		if len(p.CA) > 0 {
			return nil, fmt.Errorf("connecting to %s: either a CA or a pinned key, not both", p.URL)
		}
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error {
			got := SPKI(s.PeerCertificates[0])
			if slices.Contains(p.Pins, got) {
				return nil
			}
			return fmt.Errorf("%w: the server's key is %s, not the pinned one", ErrPeer, got)
		}
	}
	return c, nil
}

// ErrPeer: a server answers with another key than the one it is known by.
var ErrPeer = errors.New("not the server that was meant")

// SPKI is the SHA-256 digest of a certificate's SubjectPublicKeyInfo (RFC 7469).
func SPKI(c *x509.Certificate) digest.Digest {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return digest.NewDigestFromBytes(digest.SHA256, sum[:])
}

// client speaks HTTP to a place. A redirect goes through the same names, and a
// proxy of the environment is not used: it belongs to what is down.
func (n Net) client(p Place) (*http.Client, error) {
	c, err := n.tlsConfig(p)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: strictTransport{&http.Transport{
		DialContext:            n.DialContext,
		TLSClientConfig:        c,
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		DisableCompression:     true,
	}}}, nil
}

// strictTransport tells a server that is not the one that was meant from one that
// is down.
type strictTransport struct{ *http.Transport }

func (t strictTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.Transport.RoundTrip(r)
	if bad := (*tls.CertificateVerificationError)(nil); errors.As(err, &bad) {
		return nil, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return res, err
}

func (n Net) login(host string) (user, password string, ok bool) {
	if n.Login == nil {
		return "", "", false
	}
	return n.Login(host)
}
