package certs

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Identity is a directory that is mounted into a container: cert.pem (the leaf and the intermediate), key.pem and
// ca.pem. They are links through "..data" to a directory that is replaced as a whole, so that a reader never sees the
// certificate of one and the key of another. Mount the directory, not its files.
type Identity struct {
	Dir      string
	UID, GID int // of the process that reads the key; its mode is 0600
}

// identityFiles are the links that never change.
func identityFiles() []string { return []string{"cert.pem", "key.pem", "ca.pem"} }

// Write puts a certificate in place; the one before stays until it is complete.
func (i Identity) Write(out Issued) error {
	if err := i.write(out); err != nil {
		return fmt.Errorf("writing the identity in %s: %w", i.Dir, err)
	}
	return nil
}

func (i Identity) write(out Issued) error {
	if len(out.Key) == 0 {
		return fmt.Errorf("%w: there is no private key", ErrInvalid)
	}
	if err := os.MkdirAll(i.Dir, 0o755); err != nil {
		return err
	}
	r, err := os.OpenRoot(i.Dir)
	if err != nil {
		return err
	}
	defer r.Close()
	fresh := ".." + out.Serial
	if err := r.Mkdir(fresh, 0o755); err != nil {
		return err
	}
	for name, b := range map[string][]byte{"cert.pem": out.Cert, "key.pem": out.Key, "ca.pem": out.Root} {
		if err := i.file(r, filepath.Join(fresh, name), b); err != nil {
			return err
		}
	}
	if err := syncRootDir(r, fresh); err != nil {
		return err
	}
	if err := swap(r, "..data", fresh); err != nil {
		return err
	}
	for _, name := range identityFiles() {
		if to, err := r.Readlink(name); err == nil && to == filepath.Join("..data", name) {
			continue
		}
		if err := swap(r, name, filepath.Join("..data", name)); err != nil {
			return err
		}
	}
	return errors.Join(syncRootDir(r, "."), i.sweep(r, fresh))
}

// file writes one file of an identity; a key is nobody else's to read.
func (i Identity) file(r *os.Root, name string, b []byte) error {
	mode := os.FileMode(0o644)
	if filepath.Base(name) == "key.pem" {
		mode = 0o600
	}
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Chown(i.UID, i.GID), f.Sync(), f.Close())
}

// swap makes a link point elsewhere at once.
func swap(r *os.Root, name, to string) error {
	tmp := name + ".new"
	if err := r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(r.Symlink(to, tmp), r.Rename(tmp, name))
}

// sweep removes what earlier certificates left, half-written ones after a crash among them.
func (i Identity) sweep(r *os.Root, fresh string) error {
	all, err := fs.ReadDir(r.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range all {
		if n := e.Name(); e.IsDir() && strings.HasPrefix(n, "..") && n != fresh {
			err = errors.Join(err, r.RemoveAll(n))
		}
	}
	return err
}

// Keep renews an identity when two thirds of its life are over, on the monotonic clock, and asks again with growing pauses
// where that fails, until ctx ends. issue gives the next certificate; told, where it is not nil, hears of each attempt.
func (i Identity) Keep(ctx context.Context, current Issued, issue func(context.Context) (Issued, error), told func(Issued, error)) {
	const first, last = 10 * time.Second, 5 * time.Minute
	pause := first
	wait := due(current)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		next, err := issue(ctx)
		if err == nil {
			err = i.Write(next)
		}
		if ctx.Err() != nil {
			return
		}
		if told != nil {
			told(next, err)
		}
		if err != nil {
			wait, pause = pause, min(2*pause, last)
			continue
		}
		wait, pause = due(next), first
	}
}

// due is how long after its issue a certificate is renewed.
func due(c Issued) time.Duration {
	return max(time.Second, c.NotAfter.Sub(c.NotBefore.Add(Backdate))*2/3)
}

// ReadIdentity reads what Write wrote.
func ReadIdentity(dir string) (Issued, error) {
	var out Issued
	r, err := os.OpenRoot(dir)
	if err != nil {
		return out, fmt.Errorf("reading an identity: %w", err)
	}
	defer r.Close()
	for name, to := range map[string]*[]byte{"cert.pem": &out.Cert, "key.pem": &out.Key, "ca.pem": &out.Root} {
		if *to, err = readBounded(r, name, maxFile); err != nil {
			return Issued{}, fmt.Errorf("reading an identity: %w", err)
		}
	}
	b, _ := pem.Decode(out.Cert)
	if b == nil {
		return Issued{}, fmt.Errorf("reading an identity: %w: cert.pem holds no certificate", ErrInvalid)
	}
	c, err := oneCert(pem.EncodeToMemory(b))
	if err != nil {
		return Issued{}, fmt.Errorf("reading an identity: %w", err)
	}
	out.Serial, out.NotBefore, out.NotAfter = fmt.Sprintf("%x", c.SerialNumber), c.NotBefore, c.NotAfter
	return out, nil
}
