package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// maxFile bounds a public file of a ceremony, in bytes.
const maxFile = 1 << 20

// Write makes a directory with the ceremony's files. It is there completely or not at all; dir must not exist.
func (c *Ceremony) Write(dir string) error {
	if err := c.write(dir); err != nil {
		return fmt.Errorf("writing the ceremony to %s: %w", dir, err)
	}
	return nil
}

func (c *Ceremony) write(dir string) (err error) {
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%w: it exists already", ErrInvalid))
	}
	rec := record{Format: recordFormat, Name: c.Name, Created: c.Created, Emergency: c.emergency}
	if c.root.ID != "" {
		rec.Root = &c.root
	}
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	tmp, err := os.MkdirTemp(parent, ".ceremony-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	files := map[string][]byte{
		"ceremony.json":    append(text, '\n'),
		"root.pem":         pemCert(c.Root),
		"intermediate.pem": pemCert(c.Intermediate),
		"ssh_host_ca.pub":  ssh.MarshalAuthorizedKey(c.SSHHost),
		"ssh_user_ca.pub":  ssh.MarshalAuthorizedKey(c.SSHUser),
	}
	for name, b := range c.files {
		files[name] = b
	}
	for name, b := range files {
		mode := os.FileMode(0o644)
		if filepath.Ext(name) == ".age" {
			mode = 0o600
		}
		if err := writeSynced(filepath.Join(tmp, name), b, mode); err != nil {
			return err
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	return errors.Join(syncDir(tmp), os.Rename(tmp, dir), syncDir(parent))
}

// LoadCeremony reads a ceremony's directory, and the sealed shares that lie in it.
//
// Errors: ErrInvalid, also where the intermediate is not constrained as Init does it, or not signed by the root.
func LoadCeremony(dir string) (*Ceremony, error) {
	c, err := loadCeremony(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the ceremony in %s: %w", dir, err)
	}
	return c, nil
}

func loadCeremony(dir string) (*Ceremony, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	files := map[string][]byte{}
	for _, name := range []string{"ceremony.json", "root.pem", "intermediate.pem", "ssh_host_ca.pub", "ssh_user_ca.pub", "emergency.age"} {
		if files[name], err = readBounded(root, name, maxFile); err != nil {
			return nil, err
		}
	}
	var rec record
	if err := json.Unmarshal(files["ceremony.json"], &rec); err != nil || rec.Format != recordFormat {
		return nil, errors.Join(fmt.Errorf("%w: ceremony.json is not of the format %s", ErrInvalid, recordFormat), err)
	}
	c := &Ceremony{Name: rec.Name, Created: rec.Created, emergency: rec.Emergency, files: map[string][]byte{"emergency.age": files["emergency.age"]}}
	if c.Root, err = oneCert(files["root.pem"]); err != nil {
		return nil, fmt.Errorf("root.pem: %w", err)
	}
	if c.Intermediate, err = oneCert(files["intermediate.pem"]); err != nil {
		return nil, fmt.Errorf("intermediate.pem: %w", err)
	}
	if c.SSHHost, _, _, _, err = ssh.ParseAuthorizedKey(files["ssh_host_ca.pub"]); err != nil {
		return nil, fmt.Errorf("ssh_host_ca.pub: %w: %w", ErrInvalid, err)
	}
	if c.SSHUser, _, _, _, err = ssh.ParseAuthorizedKey(files["ssh_user_ca.pub"]); err != nil {
		return nil, fmt.Errorf("ssh_user_ca.pub: %w: %w", ErrInvalid, err)
	}
	for _, h := range rec.Emergency.Holders {
		if !plainName(h.Name) {
			return nil, fmt.Errorf("%w: ceremony.json: a share of %.80q", ErrInvalid, h.Name)
		}
		name := shareFile(h.Name)
		// Most shares are with their people.
		if b, err := readBounded(root, name, maxSealed); err == nil {
			c.files[name] = b
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if why := closed(c.Intermediate); why != "" {
		return nil, fmt.Errorf("%w: the intermediate: %s", ErrInvalid, why)
	}
	if err := c.Intermediate.CheckSignatureFrom(c.Root); err != nil {
		return nil, fmt.Errorf("%w: the intermediate is not signed by the root: %w", ErrInvalid, err)
	}
	if rec.Root != nil {
		c.root = *rec.Root
		if c.files["root.age"], err = readBounded(root, "root.age", maxSealed); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return c, nil
}

func shareFile(name string) string { return "emergency.share." + name + ".age" }

// Share is a person's sealed share of the emergency keys, where it lies with the ceremony.
func (c *Ceremony) Share(name string) ([]byte, bool) {
	b, ok := c.files[shareFile(name)]
	return b, ok
}

// Scope is what the intermediate may certify.
func (c *Ceremony) Scope() Scope { return scopeOf(c.Intermediate) }

// Holders are the people with a share of the emergency keys; none where it is sealed as a whole.
func (c *Ceremony) Holders() (threshold int, people []Holder) {
	return c.emergency.Threshold, c.emergency.Holders
}

func oneCert(text []byte) (*x509.Certificate, error) {
	b, rest := pem.Decode(text)
	if b == nil || b.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("%w: want one PEM certificate", ErrInvalid)
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return c, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name, limit)
}

func readAll(f *os.File, name string, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrInvalid, name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrInvalid, name, limit)
	}
	return b, nil
}

// writeSynced writes a new file and waits until it is on disk.
func writeSynced(path string, b []byte, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
