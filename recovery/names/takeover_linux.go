package names

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Errors of Take and Release, wrapped.
var (
	// ErrNotTaken: there is no takeover to put back.
	ErrNotTaken = errors.New("this host has not been taken over")
	// ErrChanged: somebody else has changed a file since; it is left as it is.
	ErrChanged = errors.New("changed by somebody else since, left as it is")
)

// A Takeover points a host at name servers: resolv.conf(5) at once; where systemd-resolved or NetworkManager run, a
// drop-in file as well, so that the one asks them too and the other leaves resolv.conf alone.
type Takeover struct {
	// Root is the host's root directory; "/" where it is empty.
	Root string
	// State is a file that tells how to put everything back. It is on disk before anything is changed, and gone
	// when everything is back; its directory has to exist and to survive a reboot.
	State string
	// Servers are what the host is pointed at, on port 53.
	Servers []netip.Addr
	// Reload makes a service (systemd-resolved, NetworkManager) read its files again; nil for not at all.
	Reload func(ctx context.Context, service string) error

	step func(string) // for tests: called before each step that changes something
}

// Taken is a takeover as its state file holds it.
type Taken struct {
	Begun   time.Time    `json:"begun"`
	Servers []netip.Addr `json:"servers"`
	Changes []Change     `json:"changes"`
}

// A Change is a file as it was, and what has become of it.
type Change struct {
	Path    string   `json:"path"` // relative to the root
	Service string   `json:"service,omitempty"`
	Was     string   `json:"was"` // file, link or absent
	Target  string   `json:"target,omitempty"`
	Content []byte   `json:"content,omitempty"`
	Mode    uint32   `json:"mode,omitempty"`
	UID     int      `json:"uid"`
	GID     int      `json:"gid"`
	Made    []string `json:"made,omitempty"` // directories that were not there, the uppermost first
	Ours    string   `json:"ours"`           // SHA-256 of what is written, in hexadecimal
}

// maxResolv bounds the files that are put back.
const maxResolv = 1 << 20

const takeoverMark = "# Written by blackstart dns takeover, undone by blackstart dns release.\n"

// Take points the host at the servers. Where it has been taken over already, by a process that may have died midway,
// it is pointed at them anew, and what Release puts back stays what it was in the beginning. After an error everything
// is as it was before.
func (t Takeover) Take(ctx context.Context, now time.Time) (*Taken, error) {
	if len(t.Servers) == 0 {
		return nil, errors.New("taking over name resolution: no server")
	}
	root, done, err := t.open()
	if err != nil {
		return nil, fmt.Errorf("taking over name resolution: %w", err)
	}
	defer done()
	before, err := readTaken(t.State)
	if err != nil && !errors.Is(err, ErrNotTaken) {
		return nil, err
	}
	taken := &Taken{Begun: now.UTC(), Servers: t.Servers}
	contents := map[string][]byte{}
	for _, f := range t.wanted(root) {
		c, err := remember(root, f.path)
		if err != nil {
			return nil, fmt.Errorf("taking over name resolution: %w", err)
		}
		if before != nil {
			taken.Begun = before.Begun
			for _, old := range before.Changes {
				if old.Path == f.path && (c.Was == "absent" || c.Was == "file" && (hash(c.Content) == old.Ours || bytes.HasPrefix(c.Content, []byte(takeoverMark)))) {
					c = old
				}
			}
		}
		c.Service, c.Ours = f.service, hash(f.content)
		contents[f.path] = f.content
		taken.Changes = append(taken.Changes, c)
	}
	if before != nil {
		taken.keep(before)
	}
	t.at("state")
	if err := writeTaken(t.State, taken); err != nil {
		return nil, fmt.Errorf("taking over name resolution: %w", err)
	}
	for _, c := range taken.Changes {
		content, ok := contents[c.Path]
		if !ok {
			continue
		}
		t.at(c.Path)
		if err := put(root, c.Path, content, 0o644); err != nil {
			err = fmt.Errorf("taking over name resolution: %w", err)
			return nil, errors.Join(err, t.release(context.WithoutCancel(ctx), root, taken))
		}
	}
	t.at("reload")
	return taken, t.reload(ctx, taken)
}

// keep keeps the changes of an earlier takeover that are not made anew.
func (n *Taken) keep(before *Taken) {
	for _, old := range before.Changes {
		found := false
		for _, c := range n.Changes {
			found = found || c.Path == old.Path
		}
		if !found {
			n.Changes = append(n.Changes, old)
		}
	}
}

// Release puts everything back as it was before Take, also after a crash in its midst. What somebody else has changed
// since is left as it is, and reported.
//
// Errors: ErrNotTaken, ErrChanged (everything else is back then, and the state file gone).
func (t Takeover) Release(ctx context.Context) error {
	root, done, err := t.open()
	if err != nil {
		return fmt.Errorf("releasing name resolution: %w", err)
	}
	defer done()
	taken, err := readTaken(t.State)
	if err != nil {
		return err
	}
	return t.release(ctx, root, taken)
}

// State tells about the takeover in a state file.
//
// Errors: ErrNotTaken.
func State(file string) (*Taken, error) { return readTaken(file) }

func (t Takeover) release(ctx context.Context, root *os.Root, taken *Taken) error {
	var changed, failed []error
	for i := len(taken.Changes) - 1; i >= 0; i-- {
		c := taken.Changes[i]
		t.at(c.Path)
		switch err := restore(root, c); {
		case errors.Is(err, ErrChanged):
			changed = append(changed, err)
		case err != nil:
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("releasing name resolution: %w", errors.Join(append(failed, changed...)...))
	}
	t.at("reload")
	err := t.reload(ctx, taken)
	t.at("state")
	if e := os.Remove(t.State); e != nil {
		err = errors.Join(err, e)
	} else {
		err = errors.Join(err, syncDir(filepath.Dir(t.State)))
	}
	if err = errors.Join(append(changed, err)...); err != nil {
		return fmt.Errorf("releasing name resolution: %w", err)
	}
	return nil
}

func (t Takeover) at(step string) {
	if t.step != nil {
		t.step(step)
	}
}

// open opens the root and locks the state's directory, so that there is one at a time.
func (t Takeover) open() (*os.Root, func(), error) {
	dir, err := os.Open(filepath.Dir(t.State))
	if err != nil {
		return nil, nil, err
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("locking %s: another takeover or release is under way: %w", dir.Name(), err), dir.Close())
	}
	path := t.Root
	if path == "" {
		path = "/"
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	return root, func() {
		// Both were only looked at. A child of this process that is not yet what it will be may hold the lock too.
		_, _, _ = syscall.Flock(int(dir.Fd()), syscall.LOCK_UN), root.Close(), dir.Close()
	}, nil
}

func (t Takeover) reload(ctx context.Context, taken *Taken) error {
	if t.Reload == nil {
		return nil
	}
	var errs []error
	for _, c := range taken.Changes {
		if c.Service != "" {
			if err := t.Reload(ctx, c.Service); err != nil {
				errs = append(errs, fmt.Errorf("reloading %s: %w", c.Service, err))
			}
		}
	}
	return errors.Join(errs...)
}

// A wantedFile is what a takeover writes.
type wantedFile struct {
	path, service string
	content       []byte
}

const (
	resolvConf   = "etc/resolv.conf"
	resolvedConf = "etc/systemd/resolved.conf.d/zz-blackstart.conf"
	managerConf  = "etc/NetworkManager/conf.d/zz-blackstart.conf"
)

// wanted are the files to write.
func (t Takeover) wanted(root *os.Root) []wantedFile {
	var files []wantedFile
	isDir := func(path string) bool {
		st, err := root.Stat(path)
		return err == nil && st.IsDir()
	}
	var list []string
	for _, a := range t.Servers {
		list = append(list, a.String())
	}
	if isDir("run/NetworkManager") {
		files = append(files, wantedFile{managerConf, "NetworkManager", []byte(takeoverMark + "[main]\ndns=none\nrc-manager=unmanaged\n")})
	}
	domains := "~."
	text := takeoverMark
	for _, a := range list {
		text += "nameserver " + a + "\n"
	}
	for line := range strings.Lines(string(follow1(root, resolvConf))) {
		if w := strings.Fields(line); len(w) > 1 && (w[0] == "search" || w[0] == "domain" || w[0] == "options" || w[0] == "sortlist") {
			text += strings.TrimSpace(line) + "\n"
			for _, d := range w[1:] {
				if (w[0] == "search" || w[0] == "domain") && d != "." {
					domains += " ~" + d
				}
			}
		}
	}
	if isDir("run/systemd/resolve") {
		// An empty DNS= forgets the servers of other files; ~. sends every name to these, and the search domains those
		// that would else be asked of the servers of the link which has the domain.
		files = append(files, wantedFile{resolvedConf, "systemd-resolved", []byte(takeoverMark + "[Resolve]\nDNS=\nDNS=" + strings.Join(list, " ") + "\nFallbackDNS=\nDomains=" + domains + "\nDNSSEC=no\nDNSOverTLS=no\n")})
	}
	return append(files, wantedFile{resolvConf, "", []byte(text)})
}

// follow1 reads a file that may be a link to anywhere below the root.
func follow1(root *os.Root, path string) []byte {
	if target, err := root.Readlink(path); err == nil {
		if filepath.IsAbs(target) {
			path = strings.TrimLeft(target, "/")
		} else {
			path = filepath.Join(filepath.Dir(path), target)
		}
	}
	data, err := readBounded(root, path)
	if err != nil {
		return nil // there are no search domains to keep then
	}
	return data
}

func hash(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

func readTaken(path string) (*Taken, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotTaken
	}
	if err != nil {
		return nil, fmt.Errorf("reading takeover: %w", err)
	}
	taken := new(Taken)
	if err := json.Unmarshal(data, taken); err != nil {
		return nil, fmt.Errorf("reading takeover %s: %w", path, err)
	}
	return taken, nil
}
