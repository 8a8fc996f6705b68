package certs

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// crlLife is how long a revocation list counts.
const crlLife = 7 * 24 * time.Hour

// maxRevoked bounds a revocation list, in entries: it has to go through the session's socket.
const maxRevoked = 5000

// Revoke makes the revocation list (RFC 5280, section 5) that follows a previous one, nil for the first, with more serial numbers in
// hexadecimal. It is PEM, and counts for a week from at. Nobody asks for it by themselves: whoever is to heed it is given the file.
//
// Errors: ErrInvalid; ErrExpired once the authority is closed.
func (a *Authority) Revoke(now time.Time, previous []byte, serials []string, by string) ([]byte, error) {
	out, err := a.revoke(later(now, a.floor), previous, serials, by)
	if err != nil {
		return nil, fmt.Errorf("making a revocation list: %w", err)
	}
	return out, nil
}

func (a *Authority) revoke(at time.Time, previous []byte, serials []string, by string) ([]byte, error) {
	t := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: at.Add(-Backdate), NextUpdate: at.Add(crlLife)}
	if previous != nil {
		last, err := a.ownCRL(previous)
		if err != nil {
			return nil, err
		}
		t.Number.Add(last.Number, t.Number)
		t.RevokedCertificateEntries = last.RevokedCertificateEntries
	}
	if len(t.RevokedCertificateEntries)+len(serials) > maxRevoked {
		return nil, fmt.Errorf("%w: more than %d certificates", ErrInvalid, maxRevoked)
	}
	have := map[string]bool{}
	for _, e := range t.RevokedCertificateEntries {
		have[e.SerialNumber.Text(16)] = true
	}
	ev := Event{Kind: "crl", By: by}
	for _, s := range serials {
		n, ok := new(big.Int).SetString(s, 16)
		if !ok || n.Sign() <= 0 || len(s) > 40 {
			return nil, fmt.Errorf("%w: %.60q is no serial number in hexadecimal", ErrInvalid, s)
		}
		if !have[n.Text(16)] {
			have[n.Text(16)] = true
			t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: at})
			ev.Names = append(ev.Names, "serial:"+n.Text(16))
		}
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.isClosed {
		return nil, fmt.Errorf("%w: the session is closed", ErrExpired)
	}
	der, err := x509.CreateRevocationList(rand.Reader, t, a.intermediate, a.key)
	if err != nil {
		return nil, err
	}
	if a.record != nil {
		if err := a.record(ev); err != nil {
			return nil, fmt.Errorf("recording it: %w", err)
		}
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

// ownCRL reads a list of this authority.
func (a *Authority) ownCRL(text []byte) (*x509.RevocationList, error) {
	b, rest := pem.Decode(text)
	if b == nil || b.Type != "X509 CRL" || len(rest) > 0 {
		return nil, fmt.Errorf("%w: the previous list is no X509 CRL in PEM", ErrInvalid)
	}
	l, err := x509.ParseRevocationList(b.Bytes)
	if err == nil {
		err = l.CheckSignatureFrom(a.intermediate)
	}
	if err == nil && (l.Number == nil || len(l.RevokedCertificateEntries) > maxRevoked) {
		err = errors.New("it has no number, or is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the previous list is not this authority's: %w", ErrInvalid, err)
	}
	return l, nil
}
