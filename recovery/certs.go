package recovery

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/blackstart-project/blackstart/certs"
)

// SessionPath is where certs open answers, unless it is told otherwise.
func (s Site) SessionPath() string { return filepath.Join(s.Host.State, "certs", "session") }

func (s Site) tokensPath() string  { return filepath.Join(s.Host.Data, "certs", "tokens") }
func (s Site) plantedPath() string { return filepath.Join(s.Host.Data, "certs", "planted") }

// guard keeps secrets out of swap and core dumps, or says that it cannot.
func (s Site) guard(unguarded bool) error {
	err := certs.Guard()
	if err != nil && unguarded {
		s.Log.Warn(err.Error())
		return nil
	}
	return err
}

// InitOptions say what a ceremony makes, and where.
type InitOptions struct {
	certs.InitOptions
	Dir string // that is made
	// Root is a ceremony whose root signs this one as well, opened by Keys; "" for a new root.
	Root      string
	Keys      Keys
	Unguarded bool
}

// InitCerts holds a ceremony and puts it into a directory.
func (s Site) InitCerts(o InitOptions) (_ *certs.Ceremony, err error) {
	if err := s.guard(o.Unguarded); err != nil {
		return nil, err
	}
	o.Now = s.now()
	if o.Root != "" {
		if o.InitOptions.Root, err = s.openRoot(o.Root, o.Keys); err != nil {
			return nil, err
		}
	}
	c, err := certs.Init(o.InitOptions)
	if err != nil {
		return nil, err
	}
	if err := c.Write(o.Dir); err != nil {
		return nil, err
	}
	return c, s.record("certs-init", struct {
		Name string `json:"name"`
		Root string `json:"root"`
		Dir  string `json:"dir"`
	}{c.Name, certs.Fingerprint(c.Root), o.Dir})
}

// ShowCerts reads a file, the certificates of a kit or a ceremony, or what a server at IP:PORT presents.
func (s Site) ShowCerts(ctx context.Context, what, sni string) ([]certs.Item, error) {
	st, err := os.Stat(what)
	if err != nil {
		at, addrErr := netip.ParseAddrPort(what)
		if ip, err := netip.ParseAddr(what); err == nil {
			at, addrErr = netip.AddrPortFrom(ip, 443), nil
		}
		if addrErr != nil {
			return nil, fmt.Errorf("%w: %s is neither a file nor IP:PORT: %w", ErrUsage, what, err)
		}
		return certs.ShowHost(ctx, s.now(), at, sni)
	}
	if !st.IsDir() {
		b, err := readBounded(what)
		if err != nil {
			return nil, err
		}
		return certs.Show(s.now(), b)
	}
	if exists(filepath.Join(what, "index.json")) {
		return s.showKitCerts(what)
	}
	var all []byte
	for _, pattern := range []string{"*.pem", "*.crt", "*.pub"} {
		files, err := filepath.Glob(filepath.Join(what, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			b, err := readBounded(f)
			if err != nil {
				return nil, err
			}
			all = append(append(all, b...), '\n')
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: %s holds no .pem, .crt or .pub", ErrUsage, what)
	}
	return certs.Show(s.now(), all)
}

func (s Site) showKitCerts(dir string) (_ []certs.Item, err error) {
	k, err := s.OpenKit(KitOptions{Dir: dir, Unverified: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	var all []byte
	for _, t := range k.Document.Trust {
		all = append(append(all, t.CA...), '\n')
	}
	if len(bytes.TrimSpace(all)) == 0 {
		return nil, fmt.Errorf("%w: kit %s holds no certificates", ErrUsage, dir)
	}
	return certs.Show(s.now(), all)
}

// Accepting says whether a place would accept an emergency certificate today.
type Accepting struct {
	What    string         `json:"what"` // a root's path, or a service of the kit
	Verdict certs.Verdict  `json:"verdict"`
	Why     string         `json:"why"`
	Bundles []certs.Bundle `json:"bundles,omitempty"`
}

// CheckRoots looks for an authority in the bundles below each root.
func (s Site) CheckRoots(roots []string, ca *x509.Certificate) ([]Accepting, error) {
	all := []Accepting{}
	for _, root := range roots {
		b, err := certs.CheckTrust(root, ca)
		if err != nil {
			return nil, err
		}
		v, why := certs.Accepts(b)
		all = append(all, Accepting{root, v, why, b})
	}
	return all, nil
}

// PlantTrust puts an authority into the bundles below root, until RemoveTrust.
func (s Site) PlantTrust(root string, ca *x509.Certificate) (certs.Planted, error) {
	p, err := certs.AddTrust(s.now(), root, s.plantedPath(), ca)
	if err != nil {
		return p, err
	}
	return p, s.record("certs-trust-add", planted(p))
}

// RemoveTrust takes back what PlantTrust did.
func (s Site) RemoveTrust(id string) (certs.Planted, error) {
	p, err := certs.RemoveTrust(s.plantedPath(), id)
	if err != nil {
		return p, err
	}
	return p, s.record("certs-trust-remove", planted(p))
}

// ListTrust gives what PlantTrust did and nobody has taken back.
func (s Site) ListTrust() ([]certs.Planted, error) {
	all, err := certs.ListTrust(s.plantedPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return all, err
}

func planted(p certs.Planted) any {
	files := []string{}
	for _, f := range p.Files {
		if f.Problem == "" {
			files = append(files, f.Path)
		}
	}
	return struct {
		ID    string   `json:"id"`
		Root  string   `json:"root"`
		Files []string `json:"files"`
	}{p.ID, p.Root, files}
}

// ReadAuthority reads the first certificate of a file, or the root of a ceremony's directory.
func ReadAuthority(path string) (*x509.Certificate, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, "root.pem")
	}
	b, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("reading %s: %w: %w", path, certs.ErrInvalid, err)
			}
			return c, nil
		}
	}
	return nil, fmt.Errorf("reading %s: %w: no certificate in PEM", path, certs.ErrInvalid)
}

// maxText bounds the small files that people name: keys, policies, certificates.
const maxText = 16 << 20

func readBounded(path string) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("%w: %s is larger than %d bytes", ErrUsage, path, maxText)
	}
	return b, err
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Now is the clock, or the time floor where the clock is behind it.
func (s Site) Now() time.Time { return s.now() }
