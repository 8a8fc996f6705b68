package certs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"filippo.io/age"
)

// maxPeople bounds how many people share a secret.
const maxPeople = 64

// Custody says who keeps a key: all who can open Lock, each alone; or, with a Threshold, that many of the People
// together.
type Custody struct {
	Lock
	Threshold int
	People    []Person
}

// Person holds a share.
type Person struct {
	Name string // letters, digits, ., _, -; it is part of a file's name
	Lock
}

// Holder is a share as the ceremony's public record knows it.
type Holder struct {
	Name   string `json:"name"`
	X      int    `json:"x"`      // 1 and up
	SHA256 string `json:"sha256"` // of the share's y, in hexadecimal: a wrong share is known before it spoils the sum
}

// Vault is the public record of something sealed.
type Vault struct {
	ID        string   `json:"id"`                  // random, in every share as well
	Threshold int      `json:"threshold,omitempty"` // 0: sealed to recipients or a passphrase
	Holders   []Holder `json:"holders,omitempty"`
}

// share is what a person's sealed file holds.
type share struct {
	Vault string `json:"vault"`
	Name  string `json:"name"`
	X     int    `json:"x"`
	Y     []byte `json:"y"`
}

// keep seals a secret. shares has each person's sealed file by name.
func keep(secret []byte, c Custody) (v Vault, sealed []byte, shares map[string][]byte, err error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return v, nil, nil, err
	}
	v.ID = hex.EncodeToString(id)
	if c.Threshold == 0 && len(c.People) == 0 {
		to, err := c.recipients()
		if err != nil {
			return v, nil, nil, err
		}
		sealed, err = seal(secret, to...)
		return v, sealed, nil, err
	}
	if err := c.check(); err != nil {
		return v, nil, nil, err
	}
	v.Threshold = c.Threshold
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return v, nil, nil, err
	}
	points, err := split([]byte(key.String()), c.Threshold, len(c.People))
	if err != nil {
		return v, nil, nil, err
	}
	shares = map[string][]byte{}
	for i, p := range c.People {
		sum := sha256.Sum256(points[i].y)
		v.Holders = append(v.Holders, Holder{Name: p.Name, X: int(points[i].x), SHA256: hex.EncodeToString(sum[:])})
		if shares[p.Name], err = p.seal(v.ID, points[i]); err != nil {
			return v, nil, nil, fmt.Errorf("share of %s: %w", p.Name, err)
		}
	}
	sealed, err = seal(secret, key.Recipient())
	return v, sealed, shares, err
}

func (p Person) seal(vault string, s point) ([]byte, error) {
	to, err := p.recipients()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(share{Vault: vault, Name: p.Name, X: int(s.x), Y: s.y})
	if err != nil {
		return nil, err
	}
	defer clear(text)
	defer clear(s.y)
	return seal(text, to...)
}

func (c Custody) check() error {
	if len(c.Recipients) > 0 || len(c.Passphrase) > 0 {
		return fmt.Errorf("%w: a key is either split among people or sealed as a whole", ErrInvalid)
	}
	if len(c.People) > maxPeople || c.Threshold < 1 || c.Threshold > len(c.People) {
		return fmt.Errorf("%w: %d of %d people; want 1 <= threshold <= people <= %d", ErrInvalid, c.Threshold, len(c.People), maxPeople)
	}
	seen := map[string]bool{}
	for _, p := range c.People {
		if !plainName(p.Name) || seen[p.Name] {
			return fmt.Errorf("%w: person %.80q: want a name of letters, digits, ., _, - that nobody else has", ErrInvalid, p.Name)
		}
		seen[p.Name] = true
	}
	return nil
}

// plainName says whether a name may be part of a file's name.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && s[0] != '.' && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}
