package certs

import (
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Event is what an authority is about to give out, for the record. It holds no secrets.
type Event struct {
	Kind      string    `json:"kind"` // x509, ssh-host, ssh-user, crl
	Service   string    `json:"service,omitempty"`
	Names     []string  `json:"names"`
	Serial    string    `json:"serial"` // hexadecimal; decimal for SSH
	Key       string    `json:"key"`    // SHA-256 of the SubjectPublicKeyInfo in hexadecimal, or the SSH key's fingerprint
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	By        string    `json:"by,omitempty"`      // who asked: Request.By
	Refused   string    `json:"refused,omitempty"` // why; then nothing was given out
}

// AuthorityOptions say how an open authority behaves.
type AuthorityOptions struct {
	Policy *Policy   // nil: whatever the scope allows, and no SSH user certificates
	Floor  time.Time // the time floor
	// Record is told of every certificate before it is given out, and of every refusal. Where it fails, nothing is
	// given out. It may be called by several goroutines at once. nil for none.
	Record func(Event) error
}

// Authority is an emergency authority that is open: its keys are in memory. It may be used by several goroutines.
type Authority struct {
	root, intermediate *x509.Certificate
	chain, anchor      []byte // PEM of the intermediate, and of the root
	scope              Scope
	policy             *Policy
	floor              time.Time
	record             func(Event) error

	mu       sync.RWMutex
	key      crypto.Signer
	raw      keys
	ssh      map[SSHKind]ssh.Signer
	isClosed bool
}

// Begin starts opening the emergency keys of a ceremony.
func (c *Ceremony) Begin() (*Opening, error) {
	return newOpening(c.emergency, c.files["emergency.age"])
}

// Open opens the authority with the shares that o holds, or with u where the keys are not split. Close it after use; the
// shares are forgotten.
//
// Errors: ErrShares, ErrSealed; ErrInvalid where the keys are not those of the certificates.
func (c *Ceremony) Open(o *Opening, u Unlock, opt AuthorityOptions) (*Authority, error) {
	text, err := o.open(u)
	if err != nil {
		return nil, fmt.Errorf("opening the emergency authority: %w", err)
	}
	defer clear(text)
	var k keys
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("opening the emergency authority: %w: what is sealed are not its keys", ErrInvalid)
	}
	a, err := c.authority(k, opt)
	if err != nil {
		k.forget()
		return nil, fmt.Errorf("opening the emergency authority: %w", err)
	}
	o.forget()
	return a, nil
}

func (c *Ceremony) authority(k keys, opt AuthorityOptions) (*Authority, error) {
	a := &Authority{
		root: c.Root, intermediate: c.Intermediate, chain: pemCert(c.Intermediate), anchor: pemCert(c.Root), scope: c.Scope(), policy: opt.Policy,
		floor: opt.Floor, record: opt.Record, raw: k, ssh: map[SSHKind]ssh.Signer{},
	}
	// Whoever made the ceremony knew that time to be over.
	if c.Created.After(a.floor) {
		a.floor = c.Created
	}
	var err error
	if a.key, err = signer(k.X509); err != nil {
		return nil, err
	}
	if pub, ok := a.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(c.Intermediate.PublicKey) {
		return nil, fmt.Errorf("%w: the key is not that of intermediate.pem", ErrInvalid)
	}
	for kind, der := range map[SSHKind][]byte{SSHHost: k.SSHHost, SSHUser: k.SSHUser} {
		key, err := signer(der)
		if err != nil {
			return nil, err
		}
		if a.ssh[kind], err = ssh.NewSignerFromSigner(key); err != nil {
			return nil, err
		}
	}
	if string(a.ssh[SSHHost].PublicKey().Marshal()) != string(c.SSHHost.Marshal()) || string(a.ssh[SSHUser].PublicKey().Marshal()) != string(c.SSHUser.Marshal()) {
		return nil, fmt.Errorf("%w: the SSH keys are not those of ssh_host_ca.pub and ssh_user_ca.pub", ErrInvalid)
	}
	return a, nil
}

func signer(pkcs8 []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("%w: a sealed key is no PKCS #8", ErrInvalid)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: a sealed key cannot sign", ErrInvalid)
	}
	return s, nil
}

// OpenRoot opens the root's key, to sign the next intermediate with.
func (c *Ceremony) OpenRoot(o *Opening, u Unlock) (*Issuer, error) {
	text, err := o.open(u)
	if err != nil {
		return nil, fmt.Errorf("opening the root: %w", err)
	}
	defer clear(text)
	b, _ := pem.Decode(text)
	if b == nil {
		return nil, fmt.Errorf("opening the root: %w: what is sealed is no key", ErrInvalid)
	}
	defer clear(b.Bytes)
	key, err := signer(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("opening the root: %w", err)
	}
	return &Issuer{Certificate: c.Root, Key: key}, nil
}

// BeginRoot starts opening the root's key. It is an error where the ceremony used a root from elsewhere.
func (c *Ceremony) BeginRoot() (*Opening, error) {
	if c.root.ID == "" || c.files["root.age"] == nil {
		return nil, fmt.Errorf("opening the root: %w: its key is not part of this ceremony", ErrInvalid)
	}
	return newOpening(c.root, c.files["root.age"])
}

// Close overwrites the keys as far as Go allows, and refuses everything from now on.
func (a *Authority) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.isClosed = true
	a.key, a.ssh = nil, nil
	a.raw.forget()
}
