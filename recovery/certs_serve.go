package recovery

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/blackstart-project/blackstart/certs"
)

// ServeCertsOptions say where certificates are given to hosts.
type ServeCertsOptions struct {
	Listen  netip.AddrPort
	Session certs.Session
	Service string // of the server's own certificate
	ACME    bool
	Policy  string                // file, for ACME
	Names   map[string]netip.Addr // where the challenge of a name is looked for
	Port    int                   // of the challenge
	Ready   func(netip.AddrPort) error
}

const challengeTime = 10 * time.Second

// ServeCerts gives certificates to hosts until ctx ends. It holds no keys but its own: the session issues.
func (s Site) ServeCerts(ctx context.Context, o ServeCertsOptions) (err error) {
	floor := s.now()
	self, err := o.Session.Issue(ctx, certs.Request{Service: o.Service, IP: []netip.Addr{o.Listen.Addr()}, Use: []certs.Use{certs.Server}})
	if err != nil {
		return err
	}
	tokens, err := s.openTokens()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	serve := certs.ServeOptions{Issue: o.Session.Issue, Tokens: tokens, Self: self, Floor: floor}
	if o.ACME {
		text, err := readBounded(o.Policy)
		if err != nil {
			return err
		}
		policy, err := certs.ParsePolicy(text)
		if err != nil {
			return fmt.Errorf("%s: %w", o.Policy, err)
		}
		serve.Extra = certs.ACME(certs.ACMEOptions{
			Issue: o.Session.Issue, Service: policy.Find, Dial: dialNames(o.Names), Port: o.Port,
			Now: func() time.Time { return later(time.Now(), floor) },
		})
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen.String())
	if err != nil {
		return fmt.Errorf("serving certificates: %w", err)
	}
	if err := o.Ready(l.Addr().(*net.TCPAddr).AddrPort()); err != nil {
		return errors.Join(err, l.Close())
	}
	return certs.Serve(ctx, l, serve)
}

// dialNames reaches addresses, and names that have one here.
func dialNames(names map[string]netip.Addr) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		ip, ok := names[host]
		if !ok {
			if ip, err = netip.ParseAddr(host); err != nil {
				return nil, fmt.Errorf("%.260q has no address here: certs serve --resolve NAME=IP", host)
			}
		}
		return (&net.Dialer{Timeout: challengeTime}).DialContext(ctx, network, net.JoinHostPort(ip.String(), port))
	}
}

func (s Site) openTokens() (*certs.Tokens, error) {
	if err := os.MkdirAll(filepath.Dir(s.tokensPath()), 0o700); err != nil {
		return nil, fmt.Errorf("opening tokens: %w", err)
	}
	return certs.OpenTokens(s.tokensPath())
}

// NewToken makes a one-time token for names, to be used within some time.
func (s Site) NewToken(ctx context.Context, at certs.Session, r certs.Request, within time.Duration) (_ string, err error) {
	st, err := at.Status(ctx)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(st.Root)
	if block == nil {
		return "", fmt.Errorf("making a token: %w: the session has no root", certs.ErrInvalid)
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	tokens, err := s.openTokens()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	g := certs.Grant{Request: r, Expires: s.now().Add(within)}
	if err := s.record("certs-token", g); err != nil {
		return "", err
	}
	return tokens.New(g, root)
}

// Enroll gets a certificate with a token, or renews the one that is there, and puts it into place.
func (s Site) Enroll(ctx context.Context, server netip.AddrPort, token string, key certs.KeyType, id certs.Identity) (out certs.Issued, err error) {
	if token != "" {
		out, err = certs.Enroll(ctx, certs.EnrollOptions{Server: server, Token: token, Key: key, Now: s.now(), Floor: s.Built})
	} else {
		var current certs.Issued
		if current, err = certs.ReadIdentity(id.Dir); err != nil {
			return out, err
		}
		out, err = certs.Renew(ctx, server, current, s.now(), s.Built)
	}
	if err != nil {
		return out, err
	}
	return out, id.Write(out)
}
