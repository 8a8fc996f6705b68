package kit

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"aead.dev/minisign"
)

// signature is a detached signature that was taken apart. Exactly one of its halves is there.
type signature struct {
	id   string
	text []byte // of minisign
	ssh  *sshSignature
}

// parseSignature reads a signature of minisign (its text file) or of ssh-keygen -Y sign.
func parseSignature(b []byte, namespace string) (signature, error) {
	if len(b) > maxSignature {
		return signature{}, fmt.Errorf("reading signature: %w: larger than %d bytes", ErrInvalid, maxSignature)
	}
	if bytes.HasPrefix(b, []byte("-----BEGIN")) {
		s, err := parseSSHSIG(b, namespace)
		if err != nil {
			return signature{}, fmt.Errorf("reading signature: %w: %w", ErrInvalid, err)
		}
		return signature{id: sshKey("", s.key).ID, ssh: s}, nil
	}
	var m minisign.Signature
	if err := m.UnmarshalText(b); err != nil {
		return signature{}, fmt.Errorf("reading signature: %w: neither minisign's nor SSH's: %w", ErrInvalid, err)
	}
	return signature{id: fmt.Sprintf("%016X", m.KeyID), text: b}, nil
}

// by says whether key made the signature of doc.
func (s signature) by(k key, doc []byte) bool {
	if s.ssh != nil {
		return k.ssh != nil && bytes.Equal(k.ssh.Marshal(), s.ssh.key.Marshal()) && s.ssh.verify(doc) == nil
	}
	return k.minisign != nil && minisign.Verify(*k.minisign, doc, s.text)
}

// Verify says which trusted keys signed doc. Each key counts once, however often and in whatever format it
// signed or is listed; one whose ID is among revoked does not count. Fewer than threshold, which is at least 1,
// is ErrVerification; the error says of every signature why it does not count.
func Verify(doc []byte, signatures [][]byte, t Trust, threshold int, revoked []string) ([]Signer, error) {
	if threshold < 1 {
		return nil, fmt.Errorf("verifying kit: %w: a threshold of %d signatures", ErrInvalid, threshold)
	}
	if len(signatures) > maxSigners {
		return nil, fmt.Errorf("verifying kit: %w: %d signatures, at most %d", ErrInvalid, len(signatures), maxSigners)
	}
	var signers []Signer
	var not []string
	counted := map[string]bool{}
	for i, raw := range signatures {
		k, why := t.signer(doc, raw, revoked)
		switch {
		case why != "":
			not = append(not, fmt.Sprintf("signature %d: %s", i+1, why))
		case !counted[k.same]:
			counted[k.same] = true
			signers = append(signers, k.Signer)
		}
	}
	if len(signers) < threshold {
		why := fmt.Sprintf("%d of %d needed signatures", len(signers), threshold)
		if n := len(t.Signers()); n < threshold {
			not = append(not, fmt.Sprintf("only %d keys are trusted", n))
		}
		if len(not) > 0 {
			why += " (" + strings.Join(not, "; ") + ")"
		}
		return signers, fmt.Errorf("%w: %s", ErrVerification, why)
	}
	return signers, nil
}

// signer finds the trusted key that made a signature, or says why it does not count.
func (t Trust) signer(doc, raw []byte, revoked []string) (key, string) {
	s, err := parseSignature(raw, t.forWhat())
	if err != nil {
		return key{}, err.Error()
	}
	known := false
	for _, k := range t.keys {
		if k.ID != s.id {
			continue
		}
		known = true
		if !s.by(k, doc) {
			continue
		}
		// The key may be listed, and revoked, in another format as well.
		for _, other := range t.keys {
			if other.same == k.same && slices.Contains(revoked, other.ID) {
				return key{}, fmt.Sprintf("key %s of %s is revoked", other.ID, other.Name)
			}
		}
		return k, ""
	}
	if known {
		return key{}, fmt.Sprintf("by key %s, it does not match the document", s.id)
	}
	return key{}, fmt.Sprintf("key %s is not trusted", s.id)
}
