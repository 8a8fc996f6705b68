package recovery

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/blackstart-project/blackstart/recovery/access"
)

const (
	requestFile = "request.json"
	maxGrants   = 1000 // directories that are looked at
)

// readGrants reads the requests of this host. One that cannot be read counts for nothing, and keeps no other from counting.
func (a *Access) readGrants() error {
	list, err := os.ReadDir(a.site.grantsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading requests: %w", err)
	}
	host, err := hostname()
	if err != nil {
		return err
	}
	for i, e := range list {
		if i >= maxGrants {
			return fmt.Errorf("%w: %s holds more than %d requests: remove old ones", ErrUsage, a.site.grantsDir(), maxGrants)
		}
		g, err := readGrant(filepath.Join(a.site.grantsDir(), e.Name()))
		if err == nil && g.Request.ID != e.Name() {
			err = fmt.Errorf("%w: its ID is %s", access.ErrInvalid, g.Request.ID)
		}
		if err == nil {
			err = forHost(g.Request, host)
		}
		if err != nil {
			a.Unreadable = append(a.Unreadable, fmt.Sprintf("%s: %v", e.Name(), err))
			continue
		}
		a.Grants = append(a.Grants, g)
	}
	return nil
}

// forHost refuses what was asked for on another host: that is what the approvers have read.
func forHost(r access.Request, host string) error {
	if r.Host != host {
		return fmt.Errorf("%w: it is for the host %.100q, this is %s", access.ErrApproval, r.Host, host)
	}
	return nil
}

func readGrant(dir string) (access.Grant, error) {
	text, err := readBounded(filepath.Join(dir, requestFile))
	if err != nil {
		return access.Grant{}, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+signatureTail))
	if err != nil {
		return access.Grant{}, err
	}
	var signatures [][]byte
	for _, f := range files {
		b, err := readBounded(f)
		if err != nil {
			return access.Grant{}, err
		}
		signatures = append(signatures, b)
	}
	return access.ParseGrant(text, signatures)
}

// GrantView is a request and how far it is.
type GrantView struct {
	access.Request
	Open   bool      `json:"open"`
	Until  time.Time `json:"until,omitzero"`
	Why    string    `json:"why,omitempty"` // where it is not open
	Banner string    `json:"banner,omitempty"`
}

// View says how far a request is.
func (a *Access) View(g access.Grant) GrantView {
	now := a.site.now()
	v := GrantView{Request: g.Request}
	until, err := a.Policy.Approved(now, g)
	v.Open, v.Until, v.Banner = err == nil, until, a.Policy.Banner(now, g)
	if err != nil {
		v.Why = err.Error()
	}
	return v
}

// Approve adds signatures to a request of this host, and says how far it is then. Signatures that count for nothing change
// nothing.
//
// Errors: access.ErrApproval where a signature does not count.
func (a *Access) Approve(request string, signatures []string) (GrantView, error) {
	text, err := readBounded(request)
	if err != nil {
		return GrantView{}, err
	}
	g, err := access.ParseGrant(text, nil)
	if err != nil {
		return GrantView{}, err
	}
	host, err := hostname()
	if err != nil {
		return GrantView{}, err
	}
	if err := forHost(g.Request, host); err != nil {
		return GrantView{}, err
	}
	dir := filepath.Join(a.site.grantsDir(), g.Request.ID)
	if have, err := readGrant(dir); err == nil {
		if mine, err := have.Request.Text(); err != nil || string(mine) != string(text) {
			return GrantView{}, fmt.Errorf("%w: request %s is another one on this host", access.ErrInvalid, g.Request.ID)
		}
	}
	files := map[string][]byte{}
	names := []string{}
	for _, f := range signatures {
		sig, err := readBounded(f)
		if err != nil {
			return GrantView{}, err
		}
		alone, err := access.ParseGrant(text, [][]byte{sig})
		if err != nil {
			return GrantView{}, err
		}
		name, err := a.counts(alone)
		if err != nil {
			return GrantView{}, fmt.Errorf("%s: %w", f, err)
		}
		sum := sha256.Sum256(sig)
		files[hex.EncodeToString(sum[:8])+signatureTail] = sig
		names = append(names, name)
	}
	note := struct {
		Request access.Request `json:"request"`
		By      []string       `json:"by"`
	}{g.Request, names}
	if err := a.site.record("access-approve", note); err != nil {
		return GrantView{}, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return GrantView{}, fmt.Errorf("writing approvals: %w", err)
	}
	files[requestFile] = text
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return GrantView{}, fmt.Errorf("writing approvals: %w", err)
		}
	}
	if g, err = readGrant(dir); err != nil {
		return GrantView{}, err
	}
	return a.View(g), nil
}

// counts says whose signature it is that a request carries, where some line waits for it.
func (a *Access) counts(g access.Grant) (string, error) {
	why := error(nil)
	for _, verb := range g.Request.Verbs {
		for _, service := range g.Request.Services {
			d := a.Policy.Decide(a.site.now(), g.Request.Who, verb, service, nil)
			if d.Needs == nil {
				continue
			}
			for _, p := range a.Policy.Approvals(g, *d.Needs) {
				if p.Counts {
					return p.Name, nil
				}
				why = fmt.Errorf("%w: %s %s", access.ErrApproval, p.Name, p.Why)
			}
		}
	}
	if why == nil {
		why = fmt.Errorf("%w: no line waits for approval of this", access.ErrApproval)
	}
	return "", why
}
