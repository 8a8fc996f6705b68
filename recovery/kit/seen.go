package kit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
)

// seen is the file NAME.json in the directory of what was seen: the kit with the highest epoch that was ever
// accepted on this host, and the keys that accepted kits revoked.
type seen struct {
	Epoch   uint64        `json:"epoch"`
	Digest  digest.Digest `json:"digest"`
	Revoked []string      `json:"revoked,omitempty"`
}

func readSeen(dir, name string) (seen, error) {
	var s seen
	f, err := os.Open(filepath.Join(dir, name+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		defer f.Close()
		err = json.NewDecoder(f).Decode(&s)
	}
	if err == nil && checkDigest(s.Digest) != nil {
		err = errors.New("no digest in it")
	}
	if err != nil {
		// Without the record nobody can tell: the operator decides, with the same word as for a known rollback.
		return seen{}, fmt.Errorf("%w: which epoch of %s was seen last cannot be read: %w", ErrRollback, name, err)
	}
	return s, nil
}

// refuse says why a kit would be a step back.
func (s seen) refuse(c Checked) error {
	d := c.Document
	switch {
	case d.Epoch < s.Epoch:
		return fmt.Errorf("%w: %s has the epoch %d, %d was seen here", ErrRollback, d.Name, d.Epoch, s.Epoch)
	case d.Epoch == s.Epoch && c.Digest != s.Digest:
		return fmt.Errorf("%w: another %s with the epoch %d was seen here: %s, this is %s", ErrRollback, d.Name, d.Epoch, s.Digest, c.Digest)
	}
	return nil
}

// Remember records in dir that a kit which Check let pass has been used, so that an older one of the same name
// is refused from now on. A kit below the highest epoch leaves that epoch as it is. The caller decides whether an
// error, such as a file system that is read-only, is one to stop for.
func Remember(dir string, c Checked) error {
	if c.Document == nil || !ValidName(c.Document.Name) {
		return fmt.Errorf("remembering kit: %w: it was not checked", ErrInvalid)
	}
	name := c.Document.Name
	s, err := readSeen(dir, name)
	if err != nil && c.Rollback == nil {
		return err
	}
	next := seen{Epoch: s.Epoch, Digest: s.Digest, Revoked: slices.Clone(s.Revoked)}
	if c.Document.Epoch > s.Epoch {
		next.Epoch, next.Digest = c.Document.Epoch, c.Digest
	}
	for _, r := range c.Document.Revoked {
		if keyID.MatchString(r) && !slices.Contains(next.Revoked, r) {
			next.Revoked = append(next.Revoked, r)
		}
	}
	if err == nil && next.Epoch == s.Epoch && len(next.Revoked) == len(s.Revoked) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("remembering kit %s: %w", name, err)
	}
	b, err := json.Marshal(next)
	if err == nil {
		err = replaceFile(filepath.Join(dir, name+".json"), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("remembering kit %s: %w", name, err)
	}
	return nil
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
