package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// RemoveTrust takes back what AddTrust did: a file that nobody has changed since is byte for byte what it was, with its mode,
// owner and time; from one that somebody has changed only the certificate is taken out. It may be called again after a
// crash.
func RemoveTrust(state, id string) (Planted, error) {
	p, err := removeTrust(state, id)
	if err != nil {
		return p, fmt.Errorf("removing trust %s: %w", id, err)
	}
	return p, nil
}

func removeTrust(state, id string) (p Planted, err error) {
	if !plainName(id) {
		return p, fmt.Errorf("%w: %.80q is no name of a planting", ErrInvalid, id)
	}
	unlock, err := lockDir(state)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir := filepath.Join(state, id)
	if p, err = readPlan(dir); err != nil {
		return p, err
	}
	ca, err := p.certificate()
	if err != nil {
		return p, err
	}
	r, err := os.OpenRoot(p.Root)
	if err != nil {
		return p, err
	}
	defer r.Close()
	for n := range p.Files {
		f := &p.Files[n]
		if f.Problem != "" {
			continue
		}
		if err := f.takeBack(r, p.alias(), filepath.Join(dir, fmt.Sprintf("%d.before", n)), ca); err != nil {
			return p, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	// The plan goes last: until then everything can be done again.
	gone := filepath.Join(state, ".removed-"+id)
	return p, errors.Join(os.RemoveAll(gone), os.Rename(dir, gone), syncDir(state), os.RemoveAll(gone))
}

func (f *PlantedFile) takeBack(r *os.Root, alias, original string, ca *x509.Certificate) error {
	tmp := filepath.Join(filepath.Dir(f.Path), "."+alias+".tmp")
	if err := r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now, err := readBounded(r, f.Path, maxBundle)
	if errors.Is(err, fs.ErrNotExist) {
		f.Was = "gone"
		return nil
	}
	if err != nil {
		return err
	}
	switch sum := sha(now); {
	case sum == f.After && f.Before == "":
		f.Was = "restored"
		return errors.Join(r.Remove(f.Path), syncRootDir(r, filepath.Dir(f.Path)))
	case sum == f.Before:
		f.Was = "untouched"
		return nil
	case sum != f.After:
		if half, err := f.half(original, now); err != nil || !half {
			f.Was = "cleaned"
			return errors.Join(err, f.clean(r, alias, now, ca))
		}
	}
	f.Was = "restored"
	before, err := os.ReadFile(original)
	if err != nil {
		return err
	}
	if sha(before) != f.Before {
		return fmt.Errorf("%w: the original that was kept", ErrChanged)
	}
	return f.replace(r, alias, before)
}

// half says whether a file is the beginning of what was to be written in place: a crash did that.
func (f *PlantedFile) half(original string, now []byte) (bool, error) {
	if f.Before == "" {
		return false, nil
	}
	for _, name := range []string{original, original[:len(original)-len("before")] + "after"} {
		whole, err := os.ReadFile(name)
		if err != nil {
			return false, err
		}
		if len(now) < len(whole) && bytes.HasPrefix(whole, now) && !pemWhole(now) {
			return true, nil
		}
	}
	return false, nil
}

// pemWhole says whether a text ends with a whole certificate, as a bundle that somebody made shorter does.
func pemWhole(b []byte) bool {
	return bytes.HasSuffix(bytes.TrimSpace(b), []byte("-----END CERTIFICATE-----"))
}

// clean takes the certificate out of a file that somebody has changed.
func (f *PlantedFile) clean(r *os.Root, alias string, now []byte, ca *x509.Certificate) error {
	if st, err := r.Stat(f.Path); err == nil {
		f.Mode = st.Mode().Perm()
		f.UID, f.GID = owner(st)
		f.MTime = st.ModTime()
	}
	switch f.Kind {
	case PEMBundle, HashDir:
		after := cutPEM(now, alias, ca)
		if len(bytes.TrimSpace(after)) == 0 && f.Before == "" {
			return r.Remove(f.Path)
		}
		if bytes.Equal(after, now) {
			return nil
		}
		return f.replace(r, alias, after)
	case JKSBundle:
		all, err := parseJKS(now)
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(slices.Clone(all), func(e jksEntry) bool { return bytes.Equal(e.cert, ca.Raw) })
		if len(kept) == len(all) {
			return nil
		}
		return f.replace(r, alias, writeJKS(kept))
	case PKCS12:
		all, err := parseP12(now)
		if err != nil {
			return err
		}
		kept := slices.DeleteFunc(slices.Clone(all), ca.Equal)
		if len(kept) == len(all) {
			return nil
		}
		after, err := writeP12(kept)
		if err != nil {
			return err
		}
		return f.replace(r, alias, after)
	}
	return fmt.Errorf("%w: kind %s", ErrInvalid, f.Kind)
}

// cutPEM takes out every copy of a certificate, and the comment that AddTrust puts before it.
func cutPEM(text []byte, alias string, ca *x509.Certificate) []byte {
	text = bytes.ReplaceAll(text, []byte("# "+alias+"\n"), nil)
	var out []byte
	for {
		p, rest := pem.Decode(text)
		if p == nil {
			return append(out, text...)
		}
		part := text[:len(text)-len(rest)]
		if bytes.Equal(p.Bytes, ca.Raw) {
			at := bytes.LastIndex(part, []byte("-----BEGIN"))
			part = part[:at]
		}
		out = append(out, part...)
		text = rest
	}
}
