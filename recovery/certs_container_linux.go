package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/container"
)

// DefaultIdentity is where a container finds an identity that is not put elsewhere.
const DefaultIdentity = "/run/blackstart/identity"

// Identity is a certificate and key that a container gets of the open session, renewed while it runs.
type Identity struct {
	Request certs.Request `json:"request"`
	At      string        `json:"at"`      // directory in the container
	Session string        `json:"session"` // socket
}

// ParseIdentity reads SERVICE[,dns=NAME][,ip=IP][,uri=URI][,for=TIME][,at=DIR]. Without names the session's policy gives them.
//
// Errors: ErrUsage.
func (s Site) ParseIdentity(text string) (Identity, error) {
	parts := strings.Split(text, ",")
	id := Identity{At: DefaultIdentity, Session: s.SessionPath(), Request: certs.Request{Service: parts[0]}}
	bad := func(format string, a ...any) (Identity, error) {
		return id, fmt.Errorf("%w: identity %.200q: %w", ErrUsage, text, fmt.Errorf(format, a...))
	}
	if parts[0] == "" || strings.Contains(parts[0], "=") {
		return bad("the service comes first")
	}
	for _, p := range parts[1:] {
		key, value, ok := strings.Cut(p, "=")
		if !ok || value == "" {
			return bad("%q is not KEY=VALUE", p)
		}
		var err error
		switch key {
		case "dns":
			id.Request.DNS = append(id.Request.DNS, value)
		case "ip":
			var ip netip.Addr
			ip, err = netip.ParseAddr(value)
			id.Request.IP = append(id.Request.IP, ip)
		case "uri":
			id.Request.URI = append(id.Request.URI, value)
		case "for":
			id.Request.For, err = time.ParseDuration(value)
		case "at":
			if id.At = path.Clean(value); !path.IsAbs(value) || id.At == "/" {
				err = errors.New("at is no absolute directory")
			}
		default:
			return bad("%q is not dns, ip, uri, for or at", key)
		}
		if err != nil {
			return bad("%w", err)
		}
	}
	return id, nil
}

// identityDir is where the n-th identity of a container is on the host.
func identityDir(c *container.Container, n int) string {
	return filepath.Join(c.Identities(), fmt.Sprint(n))
}

func identityList(c *container.Container) string { return filepath.Join(c.Identities(), "list.json") }

// mountIdentities makes the directories, and has them mounted.
func mountIdentities(c *container.Container, spec *container.Spec, ids []Identity) error {
	seen := map[string]bool{}
	for n, id := range ids {
		if seen[id.At] {
			return fmt.Errorf("%w: two identities at %s: put one elsewhere with at=DIR", ErrUsage, id.At)
		}
		seen[id.At] = true
		dir := identityDir(c, n)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making an identity: %w", err)
		}
		spec.Mounts = append(spec.Mounts, container.Mount{Source: dir, Target: id.At, ReadOnly: true})
	}
	return nil
}

// issueIdentities fills those directories, for the user that the container runs as.
func issueIdentities(ctx context.Context, c *container.Container, ids []Identity) ([]certs.Issued, error) {
	var all []certs.Issued
	for n, id := range ids {
		out, err := certs.Session{Path: id.Session}.Issue(ctx, id.Request)
		if err != nil {
			return nil, err
		}
		at, err := identityOf(c, n)
		if err != nil {
			return nil, err
		}
		if err := at.Write(out); err != nil {
			return nil, err
		}
		all = append(all, out)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(ids)
	if err == nil {
		err = os.WriteFile(identityList(c), b, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("making an identity: %w", err)
	}
	return all, nil
}

func identityOf(c *container.Container, n int) (certs.Identity, error) {
	conf, err := c.OCI()
	if err != nil {
		return certs.Identity{}, err
	}
	u := conf.Process.User
	return certs.Identity{Dir: identityDir(c, n), UID: int(u.UID), GID: int(u.GID)}, nil
}

// keepIdentities renews identities until the function it returns is called. Those without a certificate in now are renewed at once.
func (s Site) keepIdentities(ctx context.Context, c *container.Container, ids []Identity, now []certs.Issued) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for n, id := range ids {
		at, err := identityOf(c, n)
		if err != nil {
			s.Log.Warn("an identity will not be renewed", "service", id.Request.Service, "error", err)
			continue
		}
		var current certs.Issued
		if n < len(now) {
			current = now[n]
		}
		wg.Go(func() {
			issue := func(ctx context.Context) (certs.Issued, error) {
				return certs.Session{Path: id.Session}.Issue(ctx, id.Request)
			}
			at.Keep(ctx, current, issue, func(out certs.Issued, err error) {
				if err != nil {
					s.Log.Warn("an identity could not be renewed; it is tried again", "service", id.Request.Service, "error", err)
					return
				}
				s.Log.Info(fmt.Sprintf("%s: identity renewed, serial %s, until %s", id.Request.Service, out.Serial, out.NotAfter.Format(time.RFC3339)))
			})
		})
	}
	return func() { cancel(); wg.Wait() }
}

// Supervise is Host.Supervise, and renews the identities of the container meanwhile.
func (s Site) Supervise(ctx context.Context, name string, adopt bool) error {
	c, err := s.Host.Load(name)
	if err != nil {
		return err
	}
	var ids []Identity
	b, err := os.ReadFile(identityList(c))
	if err == nil {
		err = json.Unmarshal(b, &ids)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log.Warn("its identities will not be renewed", "error", err)
	}
	var now []certs.Issued
	for n := range ids {
		out, err := certs.ReadIdentity(identityDir(c, n))
		if err != nil || adopt { // how much of its life is over nobody knows
			break
		}
		now = append(now, out)
	}
	defer s.keepIdentities(ctx, c, ids, now)()
	return s.Host.Supervise(ctx, name, adopt)
}
