package recovery

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/blackstart-project/blackstart/certs"
)

// Keys say what opens something sealed, and who can be asked.
type Keys struct {
	Shares     []string // files of sealed shares that do not lie with the ceremony
	Identities []string // files of age identities or SSH private keys
	Passphrase func(prompt string) ([]byte, error)
	Password   func(prompt string) ([]byte, error) // of an encrypted SSH key
	// Next asks for one more file of an identity; nil where nobody can be asked.
	Next func(certs.Progress) (string, error)
}

// unlock adds shares in whatever order they come, until there are enough. What it returns opens what is sealed as a whole.
func (s Site) unlock(name string, opening *certs.Opening, lying []sealedShare, k Keys) (u certs.Unlock, err error) {
	u.Password = k.Password
	for _, file := range k.Identities {
		b, err := readBounded(file)
		if err != nil {
			return u, err
		}
		u.Identities = append(u.Identities, b)
	}
	if !opening.Split() {
		if len(u.Identities) == 0 {
			u.Passphrase, err = k.Passphrase("Passphrase of " + name + ": ")
		}
		return u, err
	}
	var sealed []sealedShare
	for _, f := range k.Shares {
		b, err := readBounded(f)
		if err != nil {
			return u, err
		}
		sealed = append(sealed, sealedShare{f, b})
	}
	sealed = append(sealed, lying...)
	if err := addShares(opening, sealed, u); err != nil {
		return u, err
	}
	for p := opening.Progress(); p.Need > 0 && k.Next != nil; p = opening.Progress() {
		file, err := k.Next(p)
		if err != nil {
			return u, err
		}
		b, err := readBounded(file)
		if err != nil {
			s.Log.Warn(err.Error())
			continue
		}
		err = addShares(opening, sealed, certs.Unlock{Identities: [][]byte{b}, Password: k.Password})
		clear(b)
		if err != nil {
			s.Log.Warn(err.Error())
		} else if len(opening.Progress().Have) == len(p.Have) {
			s.Log.Warn(file + " opens no share that is missing")
		}
	}
	return u, nil
}

// wipe overwrites what opened something.
func wipe(u *certs.Unlock) {
	for _, b := range u.Identities {
		clear(b)
	}
	clear(u.Passphrase)
}

// sealedShare is somebody's share that is not open yet.
type sealedShare struct {
	from string
	data []byte
}

// addShares adds all that can be opened. A share of nobody who is here is no error; a wrong one is.
func addShares(o *certs.Opening, sealed []sealedShare, u certs.Unlock) error {
	if len(u.Identities) == 0 {
		return nil
	}
	for _, share := range sealed {
		p := o.Progress()
		if p.Need == 0 {
			return nil
		}
		if slices.Contains(p.Have, share.from) {
			continue
		}
		if _, err := o.Add(share.data, u); err != nil && !errors.Is(err, certs.ErrSealed) {
			return fmt.Errorf("%s: %w", share.from, err)
		}
	}
	return nil
}

// openRoot opens the root of a ceremony, to sign the next intermediate with.
func (s Site) openRoot(dir string, k Keys) (*certs.Issuer, error) {
	c, err := certs.LoadCeremony(dir)
	if err != nil {
		return nil, err
	}
	opening, err := c.BeginRoot()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "root.share.*.age"))
	if err != nil {
		return nil, fmt.Errorf("opening the root: %w", err)
	}
	var lying []sealedShare
	for _, f := range files {
		b, err := readBounded(f)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "root.share."), ".age")
		lying = append(lying, sealedShare{name, b})
	}
	u, err := s.unlock(c.Name+" root", opening, lying, k)
	defer wipe(&u)
	if err != nil {
		return nil, err
	}
	return c.OpenRoot(opening, u)
}

// ResealShare opens a share in a file with its person's key, and gives it sealed to somebody else.
func (s Site) ResealShare(file string, to certs.Lock, k Keys, unguarded bool) ([]byte, error) {
	if err := s.guard(unguarded); err != nil {
		return nil, err
	}
	sealed, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	u := certs.Unlock{Password: k.Password}
	defer wipe(&u)
	for _, f := range k.Identities {
		b, err := readBounded(f)
		if err != nil {
			return nil, err
		}
		u.Identities = append(u.Identities, b)
	}
	return certs.Reseal(sealed, u, to)
}
