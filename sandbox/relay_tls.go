package sandbox

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Authority is the certificate authority of one run. Its key exists in memory
// alone; programs in the vacuum trust it, so that a [Relay] can look into what
// they say to an https capability's server.
type Authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
	mu          sync.Mutex
	leaves      map[string]*tls.Certificate
}

const (
	authorityLife = 30 * 24 * time.Hour
	clockSlack    = 24 * time.Hour // a host that was just started may be wrong about the time
)

// NewAuthority makes a key and certifies it.
func NewAuthority(now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the vacuum's authority: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "blackstart vacuum"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the vacuum's authority: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making the vacuum's authority: %w", err)
	}
	return &Authority{certificate: c, key: key, leaves: map[string]*tls.Certificate{}}, nil
}

// PEM is the certificate for the vacuum's trust bundles.
func (a *Authority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// leaf certifies a host name or address, once.
func (a *Authority) leaf(host string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[host]; c != nil {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certifying %s: %w", host, err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: host[:min(64, len(host))]},
		NotBefore: a.certificate.NotBefore, NotAfter: a.certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		t.IPAddresses = []net.IP{ip.AsSlice()}
	} else {
		t.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("certifying %s: %w", host, err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key}
	a.leaves[host] = c
	return c, nil
}

// upstreamTLS verifies the server by the system's roots, or by the pin alone.
func (r *Relay) upstreamTLS(c *Capability) *tls.Config {
	t := &tls.Config{ServerName: c.Host, RootCAs: r.o.Roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.Pin == "" {
		return t
	}
	t.InsecureSkipVerify = true // VerifyConnection decides
	t.VerifyConnection = func(s tls.ConnectionState) error {
		sum := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
		if got := hex.EncodeToString(sum[:]); got != c.Pin {
			return fmt.Errorf("the server's key is sha256:%s, pinned is sha256:%s", got, c.Pin)
		}
		return nil
	}
	return t
}

// hello is what a client says in the clear.
type hello struct {
	name      string
	protocols []string
	bytes     []byte // all that was read
}

var errHello = errors.New("read the ClientHello")

// readHello reads a TLS ClientHello (RFC 8446, 4.1.2), and perhaps a little of
// what follows.
func readHello(c net.Conn) (hello, error) {
	rec := &replay{Conn: c, keep: true}
	var h hello
	err := tls.Server(rec, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		h.name, h.protocols = strings.ToLower(strings.TrimSuffix(i.ServerName, ".")), slices.Clone(i.SupportedProtos)
		return nil, errHello
	}}).Handshake()
	h.bytes = rec.kept
	if errors.Is(err, errHello) {
		err = nil
	}
	return h, err
}

// replay keeps what is read and swallows what is written, or gives back what was
// kept first.
type replay struct {
	net.Conn
	keep bool
	kept []byte
}

func (r *replay) Read(b []byte) (int, error) {
	if !r.keep && len(r.kept) > 0 {
		n := copy(b, r.kept)
		r.kept = r.kept[n:]
		return n, nil
	}
	n, err := r.Conn.Read(b)
	if r.keep {
		r.kept = append(r.kept, b[:n]...)
	}
	return n, err
}

func (r *replay) Write(b []byte) (int, error) {
	if r.keep {
		return len(b), nil
	}
	return r.Conn.Write(b)
}

func (r *replay) CloseWrite() error { return closeWrite(r.Conn) }

// serveTLS ends the client's TLS here, with a certificate of the authority, and
// looks at the requests. A client that does not take such a certificate, or does
// not speak HTTP/1.1, is let through by its server name alone from then on, and
// the record says so.
func (o *origin) serveTLS(ctx context.Context, f *flow, e *end, to netip.AddrPort) {
	c := o.first()
	h, err := readHello(e)
	if err != nil {
		if f.isDone() || errors.Is(err, io.EOF) {
			f.add(Allowed, 1, "", "")
			f.total("", "it ended before a TLS handshake")
			return
		}
		f.add(Blocked, 1, Denied, "no TLS handshake: "+err.Error())
		f.abort()
		return
	}
	want := c.Host
	if c.hostIsAddress() {
		want = ""
	}
	if h.name != want {
		f.add(Blocked, 1, Denied, fmt.Sprintf("the TLS handshake asks for %q, allowed is %q", h.name, c.Host))
		_, _ = e.Write([]byte{21, 3, 1, 0, 2, 2, 112}) // alert: unrecognized_name
		return
	}
	f.add(Allowed, 1, "", "")
	why := ""
	switch {
	case o.refused.Load():
		why = "a client refused the vacuum's certificate"
	case len(h.protocols) > 0 && !slices.Contains(h.protocols, "http/1.1") && !slices.Contains(h.protocols, "http/1.0"):
		why = fmt.Sprintf("the client speaks only %s", strings.Join(h.protocols, ", "))
	}
	if why != "" {
		o.unseen.Store(true)
		o.report(f, Attempt{Destination: "* " + c.origin(), Capability: f.about.Capability}, Allowed, NoMethod,
			why+": it passed by its server name, methods and paths were not seen")
		f.held = h.bytes
		f.sent.Store(0)
		f.forward(ctx, f.gate.Load(), to)
		return
	}
	leaf, err := o.relay.o.Authority.leaf(c.Host)
	if err != nil {
		f.total(Broken, err.Error())
		f.abort()
		return
	}
	watched := &alerts{Conn: &replay{Conn: e, kept: h.bytes}}
	t := tls.Server(watched, &tls.Config{
		Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1", "http/1.0"}, MinVersion: tls.VersionTLS12,
	})
	if err := t.HandshakeContext(ctx); err != nil {
		if refusesCertificate(err) || watched.refused {
			o.refused.Store(true)
			f.total(Broken, "the client refused the vacuum's certificate")
		} else {
			f.total(Broken, "TLS handshake: "+err.Error())
		}
		return
	}
	o.requests(ctx, f, t)
	_ = t.CloseWrite()
	f.total("", "")
}

// refusesCertificate says whether a handshake ended with one of the alerts that
// mean a certificate is not trusted. crypto/tls has no name for them.
func refusesCertificate(err error) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	for _, alert := range []string{"bad certificate", "unknown certificate", "unsupported certificate"} {
		if strings.Contains(op.Err.Error(), alert) {
			return true
		}
	}
	return false
}

// alerts looks for an alert in the clear among the records that are read. OpenSSL
// sends one in TLS 1.3 when it does not like the certificate, and crypto/tls
// takes it for a damaged record.
type alerts struct {
	net.Conn
	head    []byte
	skip    int
	refused bool
}

func (a *alerts) Read(b []byte) (int, error) {
	n, err := a.Conn.Read(b)
	for b = b[:n]; len(b) > 0; {
		if a.skip > 0 {
			k := min(a.skip, len(b))
			a.skip -= k
			b = b[k:]
			continue
		}
		a.head = append(a.head, b[0])
		b = b[1:]
		switch length := recordLength(a.head); {
		case length < 0:
		case a.head[0] == 21 && length == 2:
			if len(a.head) == 7 {
				// bad_certificate to certificate_unknown, unknown_ca (RFC 8446, 6)
				a.refused = a.refused || (a.head[6] >= 42 && a.head[6] <= 46) || a.head[6] == 48
				a.head = a.head[:0]
			}
		default:
			a.skip = length
			a.head = a.head[:0]
		}
	}
	return n, err
}

func (a *alerts) CloseWrite() error { return closeWrite(a.Conn) }

// recordLength is that of a TLS record, -1 while its header is not complete.
func recordLength(b []byte) int {
	if len(b) < 5 {
		return -1
	}
	return int(b[3])<<8 | int(b[4])
}
