package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"filippo.io/age"
)

// Opening collects what opens a vault: in any order, from one terminal or from files.
type Opening struct {
	vault  Vault
	sealed []byte
	shares []point
	names  []string
}

// Progress says how far an Opening is.
type Progress struct {
	Have []string // whose shares are there, in the order given
	Need int      // how many more
}

func newOpening(v Vault, sealed []byte) (*Opening, error) {
	if len(v.Holders) > maxPeople || v.Threshold < 0 || v.Threshold > len(v.Holders) || v.Threshold == 0 && len(v.Holders) > 0 {
		return nil, fmt.Errorf("%w: a threshold of %d of %d shares", ErrInvalid, v.Threshold, len(v.Holders))
	}
	return &Opening{vault: v, sealed: sealed}, nil
}

// Split says whether shares are needed, or an Unlock opens it alone.
func (o *Opening) Split() bool { return o.vault.Threshold > 0 }

// Progress says how far it is.
func (o *Opening) Progress() Progress {
	return Progress{Have: append([]string{}, o.names...), Need: max(0, o.vault.Threshold-len(o.shares))}
}

// Add takes a person's sealed share. It may be called with the shares in any order; a refused share changes nothing.
//
// Errors: ErrSealed where u does not open it; ErrShares with the reason; ErrInvalid.
func (o *Opening) Add(sealed []byte, u Unlock) (Progress, error) {
	s, err := openShare(sealed, u)
	if err != nil {
		return o.Progress(), fmt.Errorf("adding a share: %w", err)
	}
	if err := o.add(s); err != nil {
		clear(s.Y)
		return o.Progress(), fmt.Errorf("adding a share: %w", err)
	}
	return o.Progress(), nil
}

func openShare(sealed []byte, u Unlock) (share, error) {
	var s share
	ids, err := u.identities()
	if err != nil {
		return s, err
	}
	text, err := unseal(sealed, ids...)
	if err != nil {
		return s, err
	}
	defer clear(text)
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%w: what is sealed there is no share", ErrInvalid)
	}
	return s, nil
}

func (o *Opening) add(s share) error {
	if !o.Split() {
		return fmt.Errorf("%w: this is sealed as a whole, it takes no shares", ErrShares)
	}
	if s.Vault != o.vault.ID {
		return fmt.Errorf("%w: the share of %.64q belongs to another ceremony (%.32q, this is %.32q)", ErrShares, s.Name, s.Vault, o.vault.ID)
	}
	for i, h := range o.vault.Holders {
		if h.X != s.X {
			continue
		}
		sum := sha256.Sum256(s.Y)
		want, err := hex.DecodeString(h.SHA256)
		if err != nil || subtle.ConstantTimeCompare(sum[:], want) != 1 {
			return fmt.Errorf("%w: the share of %s is not the one that was made for this ceremony", ErrShares, h.Name)
		}
		for _, have := range o.shares {
			if int(have.x) == s.X {
				return fmt.Errorf("%w: the share of %s is there already", ErrShares, h.Name)
			}
		}
		if s.X < 1 || s.X > 255 {
			break
		}
		o.shares = append(o.shares, point{x: byte(s.X), y: s.Y})
		o.names = append(o.names, o.vault.Holders[i].Name)
		return nil
	}
	return fmt.Errorf("%w: number %d is nobody's", ErrShares, s.X)
}

// open gives the secret. u matters only where the vault is not split.
func (o *Opening) open(u Unlock) ([]byte, error) {
	if !o.Split() {
		ids, err := u.identities()
		if err != nil {
			return nil, err
		}
		return unseal(o.sealed, ids...)
	}
	if p := o.Progress(); p.Need > 0 {
		return nil, fmt.Errorf("%w: %d more needed; there are those of %s", ErrShares, p.Need, orNobody(p.Have))
	}
	text, err := interpolate(o.shares[:o.vault.Threshold], 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShares, err)
	}
	defer clear(text)
	key, err := age.ParseX25519Identity(string(bytes.TrimSpace(text)))
	if err != nil {
		return nil, fmt.Errorf("%w: together they give no key", ErrShares)
	}
	return unseal(o.sealed, key)
}

// forget overwrites the shares.
func (o *Opening) forget() {
	for _, s := range o.shares {
		clear(s.y)
	}
	o.shares, o.names = nil, nil
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
