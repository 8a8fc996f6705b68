package kit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"aead.dev/minisign"
	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKey bounds a key file, in bytes.
const maxKey = 64 << 10

// KeyFile is a key to sign with.
type KeyFile struct {
	// Path is a minisign secret key, an SSH private key, or an SSH public key (.pub) whose private half the SSH
	// agent holds. A key on a FIDO device is always used through the agent.
	Path string
	// Namespace is what the signature is for; "" stands for [Namespace]. Another one
	// takes an SSH key: a minisign signature does not say what it is for.
	Namespace string
	// Agent is the path of the agent's socket, $SSH_AUTH_SOCK; "" where there is none.
	Agent string
	// Password asks for the password of an encrypted key. It is called at most once. To decrypt a minisign key
	// takes 1 GiB of memory, as minisign itself does.
	Password func(prompt string) ([]byte, error)
}

// Sign makes a detached signature of a document's exact bytes: one that minisign -V or ssh-keygen -Y verify
// -n blackstart-kit, or the key's namespace, accepts as well. It waits for a touch on a FIDO device until ctx ends.
func Sign(ctx context.Context, doc []byte, k KeyFile) ([]byte, error) {
	sig, err := sign(ctx, doc, k)
	if err != nil {
		return nil, fmt.Errorf("signing with %s: %w", k.Path, err)
	}
	return sig, nil
}

func sign(ctx context.Context, doc []byte, k KeyFile) ([]byte, error) {
	raw, err := os.ReadFile(k.Path)
	if err != nil {
		return nil, err
	}
	switch {
	case len(raw) > maxKey:
		return nil, fmt.Errorf("%w: this is no key, it is larger than %d bytes", ErrInvalid, maxKey)
	case bytes.HasPrefix(raw, []byte("untrusted comment:")) && k.namespace() != Namespace:
		return nil, fmt.Errorf("%w: a minisign key signs kits alone: name an SSH key", ErrInvalid)
	case bytes.HasPrefix(raw, []byte("untrusted comment:")):
		return signMinisign(doc, raw, k)
	case bytes.HasPrefix(raw, []byte("-----BEGIN")):
		signer, err := privateSSH(raw, k)
		if err != nil {
			return nil, err
		}
		return signSSH(doc, signer, k.namespace())
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: neither a minisign secret key nor an SSH key: %w", ErrInvalid, err)
	}
	return signAgent(ctx, doc, pub, k)
}

func (k KeyFile) namespace() string {
	if k.Namespace == "" {
		return Namespace
	}
	return k.Namespace
}

func (k KeyFile) password() ([]byte, error) {
	if k.Password == nil {
		return nil, errors.New("the key is encrypted, and there is nobody to ask for its password")
	}
	return k.Password("Password of " + k.Path + ": ")
}

func signMinisign(doc, raw []byte, k KeyFile) ([]byte, error) {
	var key minisign.PrivateKey
	if minisign.IsEncrypted(raw) {
		pass, err := k.password()
		if err != nil {
			return nil, err
		}
		if key, err = minisign.DecryptKey(string(pass), raw); err != nil {
			return nil, err
		}
	} else if err := key.UnmarshalText(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	hashed := minisign.NewReader(bytes.NewReader(doc))
	if _, err := bytes.NewBuffer(nil).ReadFrom(hashed); err != nil {
		return nil, err
	}
	// The comment holds no time, so that the same key always gives the same signature.
	return hashed.SignWithComments(key, Namespace+" "+digest.FromBytes(doc).String(), "signature of a blackstart kit"), nil
}

func privateSSH(raw []byte, k KeyFile) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(raw)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		pass, err := k.password()
		if err != nil {
			return nil, err
		}
		if signer, err = ssh.ParsePrivateKeyWithPassphrase(raw, pass); err != nil {
			return nil, err
		}
		return signer, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w; a key on a FIDO device is used through the agent: name its .pub file", ErrInvalid, err)
	}
	return signer, nil
}

func signAgent(ctx context.Context, doc []byte, pub ssh.PublicKey, k KeyFile) (_ []byte, err error) {
	if k.Agent == "" {
		return nil, errors.New("this is a public key, and there is no SSH agent to hold the private one: SSH_AUTH_SOCK is not set")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", k.Agent)
	if err != nil {
		return nil, fmt.Errorf("asking the SSH agent: %w", err)
	}
	defer conn.Close()
	// The agent's protocol knows no cancelling; a closed connection ends the wait.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err != nil {
			err = ctx.Err()
		}
	}()
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, fmt.Errorf("asking the SSH agent: %w", err)
	}
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), pub.Marshal()) {
			return signSSH(doc, s, k.namespace())
		}
	}
	return nil, fmt.Errorf("the SSH agent does not hold %s; add it with ssh-add", ssh.FingerprintSHA256(pub))
}
