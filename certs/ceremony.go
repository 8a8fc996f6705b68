package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ssh"
)

// Lives of what a ceremony makes, where InitOptions says nothing.
const (
	DefaultRootLife = 10 * 365 * 24 * time.Hour
	DefaultLife     = 2 * 365 * 24 * time.Hour
)

// InitOptions say what a ceremony makes. It is held on a machine without a network.
type InitOptions struct {
	Name     string        // of the organisation, as people will see it in a browser
	Scope    Scope         // what the intermediate may certify
	Key      KeyType       // of root and intermediate; P256 when empty
	Now      time.Time     // the time floor applied
	RootLife time.Duration // DefaultRootLife when 0; at most 30 years
	Life     time.Duration // of the intermediate, DefaultLife when 0; not longer than the root's
	// Root is a root that exists already and signs the intermediate; its key then is not sealed here.
	Root        *Issuer
	RootCustody Custody // of the root's key: not needed again until the next intermediate
	Custody     Custody // of the intermediate's key and the SSH authorities'
}

// Issuer is a certificate and the key to it.
type Issuer struct {
	Certificate *x509.Certificate
	Key         crypto.Signer
}

// Ceremony is what Init made, as it is written to disk: nothing in it needs to be secret.
type Ceremony struct {
	Name         string
	Created      time.Time
	Root         *x509.Certificate
	Intermediate *x509.Certificate
	SSHHost      ssh.PublicKey
	SSHUser      ssh.PublicKey

	root, emergency Vault
	files           map[string][]byte // sealed, by file name
}

// record is ceremony.json.
type record struct {
	Format    string    `json:"format"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Root      *Vault    `json:"root,omitempty"`
	Emergency Vault     `json:"emergency"`
}

const recordFormat = "blackstart-ceremony/1"

// keys is what emergency.age holds: private keys in PKCS #8.
type keys struct {
	X509    []byte `json:"x509"`
	SSHHost []byte `json:"ssh_host"`
	SSHUser []byte `json:"ssh_user"`
}

// Init holds a ceremony. Write puts the result on disk.
//
// Errors: ErrInvalid; ErrExpired where the root given is not valid now.
func Init(o InitOptions) (*Ceremony, error) {
	c, err := initCeremony(o)
	if err != nil {
		return nil, fmt.Errorf("making the emergency authority: %w", err)
	}
	return c, nil
}

func initCeremony(o InitOptions) (*Ceremony, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	c := &Ceremony{Name: o.Name, Created: o.Now.UTC().Truncate(time.Second), files: map[string][]byte{}}
	root := o.Root
	if root == nil {
		var err error
		if root, err = c.makeRoot(o); err != nil {
			return nil, err
		}
	}
	c.Root = root.Certificate
	if now := c.Created; now.Before(c.Root.NotBefore) || now.After(c.Root.NotAfter) {
		return nil, fmt.Errorf("%w: the root is valid from %s to %s", ErrExpired, day(c.Root.NotBefore), day(c.Root.NotAfter))
	}
	key, err := newKey(o.Key)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{o.Name}, CommonName: o.Name + " emergency"},
		NotBefore:             c.Created.Add(-Backdate),
		NotAfter:              earlier(c.Created.Add(o.Life), c.Root.NotAfter),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	o.Scope.constrain(t)
	if c.Intermediate, err = create(t, c.Root, key.Public(), root.Key); err != nil {
		return nil, err
	}
	return c, c.sealKeys(key, o.Custody)
}

func (c *Ceremony) makeRoot(o InitOptions) (*Issuer, error) {
	key, err := newKey(o.Key)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{o.Name}, CommonName: o.Name + " emergency root"},
		NotBefore:             c.Created.Add(-Backdate),
		NotAfter:              c.Created.Add(o.RootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := create(t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	defer clear(text)
	if err := c.keep("root", text, o.RootCustody, &c.root); err != nil {
		return nil, fmt.Errorf("the root's key: %w", err)
	}
	return &Issuer{Certificate: cert, Key: key}, nil
}

func (c *Ceremony) sealKeys(key crypto.Signer, to Custody) (err error) {
	var k keys
	if k.X509, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return err
	}
	if k.SSHHost, c.SSHHost, err = newSSHKey(); err != nil {
		return err
	}
	if k.SSHUser, c.SSHUser, err = newSSHKey(); err != nil {
		return err
	}
	defer k.forget()
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	defer clear(text)
	if err := c.keep("emergency", text, to, &c.emergency); err != nil {
		return fmt.Errorf("the emergency keys: %w", err)
	}
	return nil
}

// keep seals a secret into the ceremony's files.
func (c *Ceremony) keep(name string, secret []byte, to Custody, v *Vault) error {
	var shares map[string][]byte
	var err error
	if *v, c.files[name+".age"], shares, err = keep(secret, to); err != nil {
		return err
	}
	for who, s := range shares {
		c.files[name+".share."+who+".age"] = s
	}
	return nil
}

func (k *keys) forget() {
	clear(k.X509)
	clear(k.SSHHost)
	clear(k.SSHUser)
}

func (o *InitOptions) check() error {
	if o.Key == "" {
		o.Key = P256
	}
	if o.RootLife == 0 {
		o.RootLife = DefaultRootLife
	}
	if o.Life == 0 {
		o.Life = DefaultLife
	}
	switch {
	case o.Name == "" || len(o.Name) > 48:
		return fmt.Errorf("%w: want a name of at most 48 bytes", ErrInvalid)
	case o.Now.IsZero():
		return fmt.Errorf("%w: no time was given", ErrInvalid)
	case o.Life < time.Hour || o.RootLife < time.Hour || o.RootLife > 30*365*24*time.Hour || o.Root == nil && o.Life > o.RootLife:
		return fmt.Errorf("%w: want lives of an hour to 30 years, the root's not shorter than the intermediate's", ErrInvalid)
	}
	if o.Root != nil && (!o.Root.Certificate.IsCA || o.Root.Certificate.MaxPathLenZero) {
		return fmt.Errorf("%w: the root given may not sign another authority", ErrInvalid)
	}
	return o.Scope.check()
}

// create signs a certificate with a random serial number.
func create(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	var err error
	if t.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// serial is 127 random bits: positive, and at most 16 octets (RFC 5280, section 4.1.2.2).
func serial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

func newKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case P256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case Ed25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	}
	return nil, fmt.Errorf("%w: key type %.40q; want %s or %s", ErrInvalid, t, P256, Ed25519)
}

func newSSHKey() (pkcs8 []byte, _ ssh.PublicKey, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	defer clear(key)
	if pkcs8, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, nil, err
	}
	p, err := ssh.NewPublicKey(pub)
	return pkcs8, p, err
}

// Fingerprint is the SHA-256 of a certificate in hexadecimal, for people to compare.
func Fingerprint(c *x509.Certificate) string { return fmt.Sprintf("%x", sha256.Sum256(c.Raw)) }

func pemCert(all ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range all {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return b.Bytes()
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
