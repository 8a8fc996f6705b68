package certs

import (
	"encoding/json"
	"fmt"
)

// Reseal opens a person's sealed share and seals it to somebody else, such as whoever holds a session on a host that the person is
// not on. The share is theirs then, for good: to should be a key made for one session.
//
// Errors: ErrSealed where u does not open it; ErrInvalid.
func Reseal(sealed []byte, u Unlock, to Lock) ([]byte, error) {
	recipients, err := to.recipients()
	if err != nil {
		return nil, fmt.Errorf("resealing a share: %w", err)
	}
	s, err := openShare(sealed, u)
	if err != nil {
		return nil, fmt.Errorf("resealing a share: %w", err)
	}
	defer clear(s.Y)
	if s.Vault == "" || s.X < 1 || s.X > 255 || len(s.Y) == 0 {
		return nil, fmt.Errorf("resealing a share: %w: what is sealed there is no share", ErrInvalid)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("resealing a share: %w", err)
	}
	defer clear(text)
	return seal(text, recipients...)
}
