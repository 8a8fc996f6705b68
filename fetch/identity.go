package fetch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

const identityFile = "identity.pem"

// ServerIdentity gives the certificate that [Serve] shows, and its [SPKI], which
// is what other hosts know it by. It is made once and kept in dir, in
// identity.pem: key and certificate (mode 0600). Where that cannot be written, or
// is there and cannot be read, the identity lasts as long as the process.
func ServerIdentity(dir string, now time.Time) (tls.Certificate, digest.Digest, error) {
	path := filepath.Join(dir, identityFile)
	both, err := os.ReadFile(path)
	keep := err == nil || errors.Is(err, fs.ErrNotExist)
	if err == nil {
		if c, err := tls.X509KeyPair(both, both); err == nil {
			return c, SPKI(c.Leaf), nil
		}
		// Damaged: whoever pinned its key has to learn a new one in any case.
	}
	both, err = makeIdentity(now)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("making the server's identity: %w", err)
	}
	c, err := tls.X509KeyPair(both, both)
	if err != nil {
		return tls.Certificate{}, "", fmt.Errorf("making the server's identity: %w", err)
	}
	if keep {
		_ = keepIdentity(path, both) // a full or read-only disk must not stop the server
	}
	return c, SPKI(c.Leaf), nil
}

// makeIdentity makes a key and a certificate for it that it has signed itself, as
// PEM.
func makeIdentity(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	from := now.Add(-24 * time.Hour) // the other host's clock may be behind
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), // of the only one its key ever signs
		Subject:      pkix.Name{CommonName: "blackstart"},
		NotBefore:    from,
		NotAfter:     from.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...), nil
}

func keepIdentity(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, identityFile+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}
