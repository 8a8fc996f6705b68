package access

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Bounds of a list of signers and of a signature, in bytes.
const (
	maxSigners   = 1 << 20
	maxSignature = 64 << 10
)

// Signers are keys by name, for signatures of one namespace.
type Signers struct {
	keys      map[string]string // from the key's wire form to its name
	namespace string
}

// ParseSigners reads ssh-keygen's allowed_signers (ssh-keygen(1)), one NAME KEYTYPE KEY a line. Of the options only namespaces
// is taken, and a line for other ones than namespace is skipped; the others are errors, for leaving out valid-before would
// trust more than was meant.
//
// Errors: ErrInvalid with the line.
func ParseSigners(text []byte, namespace string) (Signers, error) {
	s := Signers{keys: map[string]string{}, namespace: namespace}
	if len(text) > maxSigners {
		return s, fmt.Errorf("reading signers: %w: larger than %d bytes", ErrInvalid, maxSigners)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 64<<10)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if err := s.line(line); err != nil {
			return s, fmt.Errorf("reading signers: %w: line %d: %w", ErrInvalid, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return s, fmt.Errorf("reading signers: %w: line %d: %w", ErrInvalid, n+1, err)
	}
	return s, nil
}

func (s Signers) line(line string) error {
	name, after, ok := strings.Cut(line, " ")
	if !ok || !plainSigner(name) {
		return errors.New("want NAME KEYTYPE KEY, one plain name a line")
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(after))
	if err != nil || len(rest) > 0 {
		return errors.New("want NAME KEYTYPE KEY")
	}
	if err := checkKey(key); err != nil {
		return err
	}
	for _, o := range options {
		v, found := strings.CutPrefix(o, "namespaces=")
		if !found {
			return fmt.Errorf("option %.80q is not taken, only namespaces is", o)
		}
		if !slices.Contains(strings.Split(strings.Trim(v, `"`), ","), s.namespace) {
			return nil
		}
	}
	wire := string(key.Marshal())
	if have, ok := s.keys[wire]; ok && have != name {
		return fmt.Errorf("the key of %s is also that of %s: one person would count twice", name, have)
	}
	s.keys[wire] = name
	return nil
}

func plainSigner(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsAny(s, "\"*?!,\t")
}

func (s Signers) has(name string) bool {
	for _, n := range s.keys {
		if n == name {
			return true
		}
	}
	return false
}

// An SSHSIG is what ssh-keygen -Y sign writes (PROTOCOL.sshsig of OpenSSH).
const sshsigMagic = "SSHSIG"

type sshsigBlob struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  []byte
	Hash      string
	Signature []byte
}

type sshsigSigned struct {
	Namespace string
	Reserved  []byte
	Hash      string
	Sum       []byte
}

// Verify gives the name of who made a detached signature of a text.
//
// Errors: ErrInvalid.
func (s Signers) Verify(text, signature []byte) (string, error) {
	bad := func(format string, args ...any) (string, error) {
		return "", fmt.Errorf("%w: signature: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	if len(signature) > maxSignature {
		return bad("larger than %d bytes", maxSignature)
	}
	block, rest := pem.Decode(signature)
	if block == nil || block.Type != "SSH SIGNATURE" || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return bad("not one armoured SSH signature")
	}
	raw, ok := bytes.CutPrefix(block.Bytes, []byte(sshsigMagic))
	var blob sshsigBlob
	if !ok || ssh.Unmarshal(raw, &blob) != nil || blob.Version != 1 || len(blob.Reserved) > 0 {
		return bad("not an SSH signature of version 1")
	}
	if blob.Namespace != s.namespace {
		return bad("made for the namespace %.80q; sign with ssh-keygen -Y sign -n %s", blob.Namespace, s.namespace)
	}
	key, err := ssh.ParsePublicKey(blob.PublicKey)
	if err != nil {
		return bad("%v", err)
	}
	if err := checkKey(key); err != nil {
		return bad("%v", err)
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(blob.Signature, &sig); err != nil || !slices.Contains(formats(key.Type()), sig.Format) {
		return bad("of the format %.80q by a key of the type %s", sig.Format, key.Type())
	}
	signed := sshsigSigned{Namespace: s.namespace, Hash: blob.Hash}
	switch blob.Hash {
	case "sha512":
		sum := sha512.Sum512(text)
		signed.Sum = sum[:]
	case "sha256":
		sum := sha256.Sum256(text)
		signed.Sum = sum[:]
	default:
		return bad("with the hash %.80q", blob.Hash)
	}
	if err := key.Verify(append([]byte(sshsigMagic), ssh.Marshal(signed)...), &sig); err != nil {
		return bad("it is not of this text: %v", err)
	}
	name, ok := s.keys[string(key.Marshal())]
	if !ok {
		return bad("by %s, which nobody among the signers has", ssh.FingerprintSHA256(key))
	}
	return name, nil
}

// formats are the signature formats to each type of key: no SHA-1, no DSA, no certificates.
func formats(keyType string) []string {
	switch keyType {
	case ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return []string{keyType}
	}
	return nil
}

func checkKey(k ssh.PublicKey) error {
	if formats(k.Type()) == nil {
		return fmt.Errorf("key type %.80q is not one of ed25519, ecdsa, rsa and their FIDO kinds", k.Type())
	}
	if c, ok := k.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && (r.N.BitLen() < 2048 || r.N.BitLen() > 8192) {
			return fmt.Errorf("RSA key of %d bits, want 2048 to 8192", r.N.BitLen())
		}
	}
	return nil
}
