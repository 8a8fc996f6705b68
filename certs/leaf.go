package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// leaf is a certificate to be signed.
type leaf struct {
	serial   *big.Int
	service  string
	names    names
	use      []Use
	pub      crypto.PublicKey
	from, to time.Time
}

// sign makes the leaf in DER.
func (a *Authority) sign(l leaf) ([]byte, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.isClosed {
		return nil, fmt.Errorf("%w: the session is closed", ErrExpired)
	}
	t := &x509.Certificate{
		SerialNumber:          l.serial,
		Subject:               pkix.Name{Organization: a.intermediate.Subject.Organization},
		NotBefore:             l.from,
		NotAfter:              l.to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		DNSNames:              l.names.dns,
		URIs:                  l.names.uri,
	}
	// GnuTLS and Java take the common name of a certificate without DNS names for one, and refuse it by the constraints.
	if len(l.names.dns) == 0 {
		t.Subject.OrganizationalUnit = []string{l.service}
	} else {
		t.Subject.CommonName = l.service
	}
	for _, ip := range l.names.ip {
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	if len(l.use) == 0 || slices.Contains(l.use, Server) {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if len(l.use) == 0 || slices.Contains(l.use, Client) {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.intermediate, l.pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return der, nil
}
