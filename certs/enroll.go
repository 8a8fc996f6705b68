package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// EnrollOptions say where a host gets its certificate.
type EnrollOptions struct {
	Server netip.AddrPort
	Token  string
	Key    KeyType // of the key that is made here and never leaves; P256 when empty
	Now    time.Time
	Floor  time.Time
}

// Enroll gets a certificate with a one-time token. The server is known by the root's fingerprint in the token.
//
// Errors: ErrToken, ErrRefused, ErrExpired, ErrInvalid as the server gives them.
func Enroll(ctx context.Context, o EnrollOptions) (Issued, error) {
	out, err := enroll(ctx, o)
	if err != nil {
		return Issued{}, fmt.Errorf("enrolling at %s: %w", o.Server, err)
	}
	return out, nil
}

func enroll(ctx context.Context, o EnrollOptions) (Issued, error) {
	_, pin, err := splitToken(o.Token)
	if err != nil {
		return Issued{}, err
	}
	now := later(o.Now, o.Floor)
	// The root is not known yet, only its fingerprint: it is fetched first, and believed if it matches.
	root, err := exchange(ctx, o.Server, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}, "GET", "/v1/root", "", nil)
	if err != nil {
		return Issued{}, err
	}
	cert, err := oneCert(root)
	if err != nil {
		return Issued{}, err
	}
	if sum := sha256.Sum256(cert.Raw); !bytes.Equal(sum[:], pin) {
		return Issued{}, fmt.Errorf("%w: the server's root is not the one in the token", ErrRefused)
	}
	return ask(ctx, o.Server, cert, nil, "/v1/enroll", o.Token, o.Key, now)
}

// Renew gets the same names for a new key, with a certificate that is still valid.
func Renew(ctx context.Context, server netip.AddrPort, current Issued, now, floor time.Time) (Issued, error) {
	root, err := oneCert(current.Root)
	if err != nil {
		return Issued{}, fmt.Errorf("renewing at %s: %w", server, err)
	}
	pair, err := tls.X509KeyPair(current.Cert, current.Key)
	if err != nil {
		return Issued{}, fmt.Errorf("renewing at %s: %w: %w", server, ErrInvalid, err)
	}
	kind := P256
	if pair.Leaf.PublicKeyAlgorithm == x509.Ed25519 {
		kind = Ed25519
	}
	out, err := ask(ctx, server, root, []tls.Certificate{pair}, "/v1/renew", "", kind, later(now, floor))
	if err != nil {
		return Issued{}, fmt.Errorf("renewing at %s: %w", server, err)
	}
	return out, nil
}

func ask(ctx context.Context, server netip.AddrPort, root *x509.Certificate, mine []tls.Certificate, path, token string, kind KeyType, now time.Time) (Issued, error) {
	if kind == "" {
		kind = P256
	}
	key, err := newKey(kind)
	if err != nil {
		return Issued{}, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return Issued{}, fmt.Errorf("making a request: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	conf := &tls.Config{RootCAs: roots, Certificates: mine, MinVersion: tls.VersionTLS12, ServerName: server.Addr().String(), Time: func() time.Time { return now }}
	chain, err := exchange(ctx, server, conf, "POST", path, token, csr)
	if err != nil {
		return Issued{}, err
	}
	return take(chain, root, key)
}

// take checks that a chain belongs to the key and the root, and puts them together.
func take(chain []byte, root *x509.Certificate, key crypto.Signer) (Issued, error) {
	b, rest := pem.Decode(chain)
	if b == nil {
		return Issued{}, fmt.Errorf("%w: the server's answer is no certificate", ErrInvalid)
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return Issued{}, fmt.Errorf("%w: the server's answer: %w", ErrInvalid, err)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	inter.AppendCertsFromPEM(rest)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: leaf.NotBefore.Add(Backdate), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return Issued{}, fmt.Errorf("%w: the server's answer: %w", ErrInvalid, err)
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return Issued{}, fmt.Errorf("%w: the server's answer is for another key", ErrInvalid)
	}
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Issued{}, err
	}
	return Issued{
		Serial: fmt.Sprintf("%x", leaf.SerialNumber), Cert: chain, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), Root: pemCert(root),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}, nil
}

// exchange sends one request to an address, through no proxy and no resolver.
func exchange(ctx context.Context, server netip.AddrPort, conf *tls.Config, method, path, token string, body []byte) ([]byte, error) {
	tr := &http.Transport{
		TLSClientConfig: conf, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", server.String())
		},
	}
	ctx, cancel := context.WithTimeout(ctx, 2*exchangeTime)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "https://"+server.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := (&http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return b, nil
	}
	var told struct{ Error string }
	if err := json.Unmarshal(b, &told); err != nil || told.Error == "" {
		return nil, fmt.Errorf("%w: the server answers %s", ErrInvalid, resp.Status)
	}
	kind := map[int]error{http.StatusBadRequest: ErrInvalid, http.StatusForbidden: ErrRefused, http.StatusGone: ErrExpired}[resp.StatusCode]
	if kind == nil {
		return nil, errors.New(told.Error)
	}
	return nil, sessionError{fmt.Sprintf("the server says: %.500s", told.Error), kind}
}
