package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Planted is what AddTrust did to a host or a container's root. It lies with the originals in a directory of its own,
// and was there, on disk, before the first file was changed.
type Planted struct {
	ID    string        `json:"id"`   // the certificate's fingerprint, shortened, and that of the root's path
	Root  string        `json:"root"` // absolute
	At    time.Time     `json:"at"`
	Cert  string        `json:"cert"` // PEM
	Files []PlantedFile `json:"files"`
}

// PlantedFile is a file that was changed or made.
type PlantedFile struct {
	Path   string      `json:"path"` // below Root
	Kind   BundleKind  `json:"kind"`
	Before string      `json:"before,omitempty"` // SHA-256 in hexadecimal; "" where the file was made
	After  string      `json:"after"`
	Mode   os.FileMode `json:"mode"`
	UID    int         `json:"uid"`
	GID    int         `json:"gid"`
	MTime  time.Time   `json:"mtime,omitzero"`
	// Problem is why a bundle was left alone; then nothing was changed.
	Problem string `json:"problem,omitempty"`
	// Was is what RemoveTrust found: "restored", "untouched", "cleaned" where somebody had changed the file since and
	// only the certificate was taken out, "gone".
	Was string `json:"was,omitempty"`
}

const planFile = "plan.json"

// AddTrust puts a certificate into every bundle below root: "/" for the host. state is a directory that outlives a reboot. Adding
// again what is there finishes what was interrupted and changes nothing else.
//
// Errors: ErrInvalid where ca is no authority, or where there is no bundle; a bundle that cannot be changed is reported in
// its PlantedFile, and the others are.
func AddTrust(now time.Time, root, state string, ca *x509.Certificate) (Planted, error) {
	p, err := addTrust(now, root, state, ca)
	if err != nil {
		return p, fmt.Errorf("adding trust below %s: %w", root, err)
	}
	return p, nil
}

func addTrust(now time.Time, root, state string, ca *x509.Certificate) (p Planted, err error) {
	if !ca.IsCA || !ca.BasicConstraintsValid {
		return p, fmt.Errorf("%w: the certificate is no authority", ErrInvalid)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return p, err
	}
	r, err := os.OpenRoot(abs)
	if err != nil {
		return p, err
	}
	defer r.Close()
	sum := sha256.Sum256([]byte(abs))
	p = Planted{ID: Fingerprint(ca)[:16] + "-" + hex.EncodeToString(sum[:4]), Root: abs, At: now.UTC().Truncate(time.Second), Cert: string(pemCert(ca))}
	if err := os.MkdirAll(state, 0o755); err != nil {
		return p, err
	}
	unlock, err := lockDir(state)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir := filepath.Join(state, p.ID)
	if have, err := readPlan(dir); err == nil {
		// What was begun is finished as it was planned.
		return have, have.apply(r, dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	tmp, err := os.MkdirTemp(state, ".planting-*")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }() // nothing, once it was renamed
	if err := p.plan(r, tmp, ca); err != nil {
		return p, err
	}
	if err := errors.Join(syncDir(tmp), os.Rename(tmp, dir), syncDir(state)); err != nil {
		return p, err
	}
	return p, p.apply(r, dir)
}

// plan saves the originals and what they become.
func (p *Planted) plan(r *os.Root, dir string, ca *x509.Certificate) error {
	bundles := findBundles(r)
	if len(bundles) == 0 {
		return fmt.Errorf("%w: there is no bundle of authorities that this knows", ErrInvalid)
	}
	for _, b := range bundles {
		b.check(r, ca)
		if b.Trusts {
			continue
		}
		f := PlantedFile{Path: b.Path, Kind: b.Kind, Mode: 0o644, Problem: b.Problem}
		var after []byte
		var err error
		if f.Problem == "" {
			if f.Path, after, err = b.plant(r, p.alias(), p.At, ca); err != nil {
				f.Problem = err.Error()
			}
		}
		if f.Problem == "" {
			if err := f.save(r, dir, len(p.Files), b, after); err != nil {
				return err
			}
		}
		p.Files = append(p.Files, f)
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, planFile), append(text, '\n'), 0o600)
}

func (p *Planted) alias() string { return "blackstart-" + p.ID }

// plant gives what a bundle becomes; for a directory, the file that is to be made.
func (b *Bundle) plant(r *os.Root, alias string, at time.Time, ca *x509.Certificate) (string, []byte, error) {
	switch b.Kind {
	case PEMBundle:
		return b.Path, append(slices.Clone(b.content), pemBlock(b.content, alias, ca)...), nil
	case HashDir:
		name, _, err := hashSlot(r, b.Path, ca)
		return name, pemBlock(nil, alias, ca), err
	case JKSBundle:
		all, err := parseJKS(b.content)
		return b.Path, writeJKS(append(all, newJKSEntry(alias, at, ca.Raw))), err
	case PKCS12:
		all, err := parseP12(b.content)
		if err != nil {
			return b.Path, nil, err
		}
		after, err := writeP12(append(all, ca))
		return b.Path, after, err
	}
	return b.Path, nil, fmt.Errorf("%w: kind %s", ErrInvalid, b.Kind)
}

func pemBlock(after []byte, alias string, ca *x509.Certificate) []byte {
	var b []byte
	if len(after) > 0 && !bytes.HasSuffix(after, []byte("\n")) {
		b = append(b, '\n')
	}
	return append(append(b, "# "+alias+"\n"...), pemCert(ca)...)
}

// save keeps a file's original and its future beside the plan.
func (f *PlantedFile) save(r *os.Root, dir string, n int, b Bundle, after []byte) error {
	f.After = sha(after)
	if b.Kind != HashDir {
		st, err := r.Stat(f.Path)
		if err != nil {
			return err
		}
		f.Before, f.Mode, f.MTime = sha(b.content), st.Mode().Perm(), st.ModTime()
		f.UID, f.GID = owner(st)
		if err := writeSynced(filepath.Join(dir, fmt.Sprintf("%d.before", n)), b.content, 0o600); err != nil {
			return err
		}
	}
	return writeSynced(filepath.Join(dir, fmt.Sprintf("%d.after", n)), after, 0o600)
}

// apply brings every file that is still as it was to what is planned.
func (p *Planted) apply(r *os.Root, dir string) error {
	for n, f := range p.Files {
		if f.Problem != "" {
			continue
		}
		now, err := readBounded(r, f.Path, maxBundle)
		if errors.Is(err, fs.ErrNotExist) && f.Before == "" {
			now, err = nil, nil
		}
		if err != nil {
			return err
		}
		before := filepath.Join(dir, fmt.Sprintf("%d.before", n))
		if sum := sha(now); sum == f.After || (sum != f.Before && (f.Before != "" || now != nil)) {
			// Done, or somebody else's by now, or cut short while it was written in place.
			if half, err := f.half(before, now); err != nil || !half {
				if err != nil {
					return err
				}
				continue
			}
		}
		after, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.after", n)))
		if err != nil {
			return err
		}
		f.MTime = time.Time{}
		if err := f.replace(r, p.alias(), after); err != nil {
			return fmt.Errorf("writing %s: %w", f.Path, err)
		}
	}
	return nil
}

// replace puts content in a file's place at once. Where the file is a mount point, which cannot be renamed over, it is
// written in place: a crash then leaves half of it, and RemoveTrust or AddTrust makes it whole.
func (f *PlantedFile) replace(r *os.Root, alias string, content []byte) (err error) {
	tmp := path.Join(path.Dir(f.Path), "."+alias+".tmp")
	if err := r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	err = errors.Join(err, w.Chmod(f.Mode), w.Chown(f.UID, f.GID), copyAttributes(r, f.Path, w))
	err = errors.Join(err, w.Sync(), w.Close())
	if err == nil && !f.MTime.IsZero() {
		err = r.Chtimes(tmp, f.MTime, f.MTime)
	}
	if err == nil {
		err = r.Rename(tmp, f.Path)
	}
	if err != nil {
		err = errors.Join(err, r.Remove(tmp))
		if busy(err) {
			return f.overwrite(r, content)
		}
		return err
	}
	return syncRootDir(r, path.Dir(f.Path))
}

func (f *PlantedFile) overwrite(r *os.Root, content []byte) (err error) {
	w, err := r.OpenFile(f.Path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	if err = errors.Join(err, w.Sync(), w.Close()); err == nil && !f.MTime.IsZero() {
		err = r.Chtimes(f.Path, f.MTime, f.MTime)
	}
	return err
}

func syncRootDir(r *os.Root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readPlan(dir string) (Planted, error) {
	var p Planted
	b, err := os.ReadFile(filepath.Join(dir, planFile))
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%w: %s in %s: %w", ErrChanged, planFile, dir, err)
	}
	return p, nil
}

// ListTrust gives everything that AddTrust did and RemoveTrust has not taken back.
func ListTrust(state string) ([]Planted, error) {
	dirs, err := os.ReadDir(state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing trust: %w", err)
	}
	var all []Planted
	for _, d := range dirs {
		if d.Name()[0] == '.' {
			continue
		}
		p, err := readPlan(filepath.Join(state, d.Name()))
		if err != nil {
			return all, fmt.Errorf("listing trust: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// lockDir keeps other processes from planting at the same moment; the kernel lets go of it if this one dies.
func lockDir(dir string) (unlock func() error, _ error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", dir, err), d.Close())
	}
	return d.Close, nil
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (p *Planted) certificate() (*x509.Certificate, error) {
	b, _ := pem.Decode([]byte(p.Cert))
	if b == nil {
		return nil, fmt.Errorf("%w: the plan holds no certificate", ErrChanged)
	}
	return x509.ParseCertificate(b.Bytes)
}
