package kit

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
)

// An SSHSIG is what ssh-keygen -Y sign writes (PROTOCOL.sshsig of OpenSSH): a PEM-like armour around sshsigBlob,
// whose signature is over sshsigSigned. Both begin with sshsigMagic.
const (
	sshsigMagic  = "SSHSIG"
	sshsigArmour = "SSH SIGNATURE"
)

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

// sshSignature is an SSHSIG that was taken apart.
type sshSignature struct {
	namespace string
	key       ssh.PublicKey
	hash      string
	sig       *ssh.Signature
}

// sshFormats are the signature formats to each type of key. RSA with SHA-1 and DSA are not among them, nor are
// certificates.
func sshFormats(keyType string) []string {
	switch keyType {
	case ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return []string{keyType}
	}
	return nil
}

// checkSSHKey refuses types of keys that are not strong enough.
func checkSSHKey(k ssh.PublicKey) error {
	if sshFormats(k.Type()) == nil {
		return fmt.Errorf("key type %.100q is not one of ed25519, ecdsa, rsa and their FIDO kinds", k.Type())
	}
	if c, ok := k.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < 2048 {
			return fmt.Errorf("RSA key of %d bits, want at least 2048", r.N.BitLen())
		}
	}
	return nil
}

func parseSSHSIG(b []byte, namespace string) (*sshSignature, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != sshsigArmour || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one armoured SSH signature")
	}
	raw, ok := bytes.CutPrefix(block.Bytes, []byte(sshsigMagic))
	if !ok {
		return nil, errors.New("SSH signature without its magic")
	}
	var blob sshsigBlob
	if err := ssh.Unmarshal(raw, &blob); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	if blob.Version != 1 {
		return nil, fmt.Errorf("SSH signature of version %d, want 1", blob.Version)
	}
	if blob.Namespace != namespace {
		return nil, fmt.Errorf("SSH signature for the namespace %.100q, want %s", blob.Namespace, namespace)
	}
	if len(blob.Reserved) > 0 || (blob.Hash != "sha256" && blob.Hash != "sha512") {
		return nil, fmt.Errorf("SSH signature with the hash %.100q, want sha512 or sha256", blob.Hash)
	}
	s := &sshSignature{namespace: namespace, hash: blob.Hash, sig: &ssh.Signature{}}
	var err error
	if s.key, err = ssh.ParsePublicKey(blob.PublicKey); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	if err := checkSSHKey(s.key); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	if err := ssh.Unmarshal(blob.Signature, s.sig); err != nil {
		return nil, fmt.Errorf("SSH signature: %w", err)
	}
	if !slices.Contains(sshFormats(s.key.Type()), s.sig.Format) {
		return nil, fmt.Errorf("SSH signature of the format %.100q by a key of the type %s", s.sig.Format, s.key.Type())
	}
	return s, nil
}

// verify checks the signature of doc by the key it names. For a FIDO key that includes the user's presence.
func (s *sshSignature) verify(doc []byte) error {
	return s.key.Verify(sshsigMessage(s.namespace, s.hash, doc), s.sig)
}

func sshsigMessage(namespace, hash string, doc []byte) []byte {
	m := sshsigSigned{Namespace: namespace, Hash: hash}
	if hash == "sha256" {
		sum := sha256.Sum256(doc)
		m.Sum = sum[:]
	} else {
		sum := sha512.Sum512(doc)
		m.Sum = sum[:]
	}
	return append([]byte(sshsigMagic), ssh.Marshal(m)...)
}

// signSSH makes an SSHSIG of doc.
func signSSH(doc []byte, signer ssh.Signer, namespace string) ([]byte, error) {
	key := signer.PublicKey()
	if err := checkSSHKey(key); err != nil {
		return nil, err
	}
	const hash = "sha512"
	message := sshsigMessage(namespace, hash, doc)
	var sig *ssh.Signature
	var err error
	if a, ok := signer.(ssh.AlgorithmSigner); ok && key.Type() == ssh.KeyAlgoRSA {
		sig, err = a.SignWithAlgorithm(rand.Reader, message, ssh.KeyAlgoRSASHA512)
	} else {
		sig, err = signer.Sign(rand.Reader, message)
	}
	if err != nil {
		return nil, err
	}
	blob := ssh.Marshal(sshsigBlob{Version: 1, PublicKey: key.Marshal(), Namespace: namespace, Hash: hash, Signature: ssh.Marshal(sig)})
	return pem.EncodeToMemory(&pem.Block{Type: sshsigArmour, Bytes: append([]byte(sshsigMagic), blob...)}), nil
}
