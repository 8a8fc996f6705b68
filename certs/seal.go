package certs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"
)

// Bounds of sealed files and keys, in bytes, and of scrypt's cost: 2^18 takes 256 MiB and about a second.
const (
	maxSealed     = 256 << 10
	maxKeyFile    = 64 << 10
	maxWorkFactor = 18
)

// Lock says who can open something that is sealed: each of the recipients, or whoever knows the passphrase. It is
// one or the other, for age does not mix them.
type Lock struct {
	Recipients []string // "age1…", "ssh-ed25519 AAAA…", "ssh-rsa AAAA…"
	Passphrase []byte

	work int // scrypt's cost, where a test cannot wait for maxWorkFactor
}

// Unlock is what somebody opens a sealed file with.
type Unlock struct {
	Passphrase []byte // of the sealed file
	// Identities are the contents of files of age identities or of SSH private keys.
	Identities [][]byte
	// Password asks for the password of an encrypted SSH private key; nil where nobody can be asked.
	Password func(prompt string) ([]byte, error)
}

func (l Lock) recipients() ([]age.Recipient, error) {
	if len(l.Passphrase) > 0 {
		if len(l.Recipients) > 0 {
			return nil, fmt.Errorf("%w: either recipients or a passphrase, not both", ErrInvalid)
		}
		r, err := age.NewScryptRecipient(string(l.Passphrase))
		if err != nil {
			return nil, err
		}
		r.SetWorkFactor(cmp.Or(l.work, maxWorkFactor))
		return []age.Recipient{r}, nil
	}
	var all []age.Recipient
	for _, s := range l.Recipients {
		r, err := parseRecipient(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%w: recipient %.40q: %w", ErrInvalid, s, err)
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: nobody could open what is to be sealed: name a recipient, a passphrase or people with shares", ErrInvalid)
	}
	return all, nil
}

func parseRecipient(s string) (age.Recipient, error) {
	if strings.HasPrefix(s, "ssh-") {
		return agessh.ParseRecipient(s)
	}
	return age.ParseX25519Recipient(s)
}

// seal encrypts a secret in age's armoured form.
func seal(secret []byte, to ...age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	a := armor.NewWriter(&out)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if _, err := w.Write(secret); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// unseal decrypts what seal made, or age(1).
func unseal(sealed []byte, with ...age.Identity) ([]byte, error) {
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("unsealing: %w: larger than %d bytes", ErrInvalid, maxSealed)
	}
	var in io.Reader = bytes.NewReader(sealed)
	if bytes.HasPrefix(bytes.TrimSpace(sealed), []byte(armor.Header)) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, with...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, fmt.Errorf("unsealing: %w", ErrSealed)
	}
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w: %w", ErrInvalid, err)
	}
	secret, err := io.ReadAll(r)
	if err != nil {
		clear(secret)
		return nil, fmt.Errorf("unsealing: %w: %w", ErrInvalid, err)
	}
	return secret, nil
}

func (u Unlock) identities() ([]age.Identity, error) {
	var all []age.Identity
	if len(u.Passphrase) > 0 {
		id, err := age.NewScryptIdentity(string(u.Passphrase))
		if err != nil {
			return nil, err
		}
		id.SetMaxWorkFactor(maxWorkFactor)
		all = append(all, id)
	}
	for _, f := range u.Identities {
		ids, err := u.parse(f)
		if err != nil {
			return nil, fmt.Errorf("reading identity: %w", err)
		}
		all = append(all, ids...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no passphrase and no identity was given", ErrSealed)
	}
	return all, nil
}

func (u Unlock) parse(f []byte) ([]age.Identity, error) {
	if len(f) > maxKeyFile {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrInvalid, maxKeyFile)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(f), []byte("-----BEGIN")) {
		ids, err := age.ParseIdentities(bytes.NewReader(f))
		if err != nil {
			return nil, fmt.Errorf("%w: neither an age identity nor an SSH private key", ErrInvalid)
		}
		return ids, nil
	}
	id, err := agessh.ParseIdentity(f)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return []age.Identity{id}, nil
	}
	if u.Password == nil {
		return nil, fmt.Errorf("%w: the SSH key is encrypted, and there is nobody to ask for its password", ErrSealed)
	}
	pub := locked.PublicKey
	if pub == nil {
		return nil, fmt.Errorf("%w: the SSH key is encrypted in the old PEM form; ssh-keygen -p rewrites it", ErrInvalid)
	}
	enc, err := agessh.NewEncryptedSSHIdentity(pub, f, func() ([]byte, error) { return u.Password("Password of the SSH key: ") })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return []age.Identity{enc}, nil
}
