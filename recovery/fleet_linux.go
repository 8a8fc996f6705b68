package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/fetch"
)

// fleet is the other hosts of a run, with a connection to each that a step has needed.
type fleet struct {
	site    Site
	logins  map[string]Login
	pins    []digest.Digest // for hosts that have none of their own
	keys    map[string]digest.Digest
	silence time.Duration // after which a host is gone
	lease   time.Duration // after which a host ends what was begun there, when this one is gone

	self   func() (program, error)
	closed chan struct{} // when the run is over

	mu    sync.Mutex
	hosts map[string]*farHost
	wg    sync.WaitGroup
}

// program is this one.
type program struct {
	sha256 string // hexadecimal
	size   int64
}

// beats is how often a host is told, within its lease, that it is still wanted.
const beats = 4

// fleet makes it. Nothing is dialled yet.
func (s Site) fleet(logins map[string]Login, pins []digest.Digest) *fleet {
	f := &fleet{
		site: s, logins: logins, pins: pins, silence: fetch.SSHSilence, hosts: map[string]*farHost{},
		self: sync.OnceValues(readSelf), closed: make(chan struct{}),
	}
	// There it ends before it is taken as failed here, or it would be tried again beside
	// itself.
	f.lease = f.silence * 4 / 5
	if len(logins) > 0 {
		f.keys = s.kitHostKeys()
	}
	return f
}

// Close ends the connections.
func (f *fleet) Close() {
	close(f.closed)
	f.wg.Wait()
}

// lasting is a context that ends with the run: a connection outlives the step that
// needed it first.
func (f *fleet) lasting(limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	f.wg.Go(func() {
		select {
		case <-f.closed:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, cancel
}

// on is a host as a place where steps are done.
func (f *fleet) on(name string) (Ground, error) {
	login, ok := f.logins[name]
	if !ok {
		return nil, fmt.Errorf("%w: host %s has no address: give it with --host %[2]s=IP", ErrUsage, name)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := f.hosts[name]
	if h == nil {
		h = &farHost{fleet: f, name: name, login: login}
		f.hosts[name] = h
	}
	return sshGround{h}, nil
}

// place is how a host is reached, and by what key it is known: the one that was given
// with its address, else with --pin, else the kit's, else known_hosts'.
func (f *fleet) place(name string, l Login) fetch.Place {
	pins := f.pins
	if k, ok := f.keys[name]; ok && len(pins) == 0 {
		pins = []digest.Digest{k}
	}
	return l.place(pins)
}

// kitHostKeys are the digests in the kit's trust, by the names that runbooks give hosts.
func (s Site) kitHostKeys() map[string]digest.Digest {
	keys := map[string]digest.Digest{}
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		if s.From.Kit.Dir != "" || !errors.Is(err, fs.ErrNotExist) {
			s.Log.Warn("doing without the host keys of the kit: " + err.Error())
		}
		return keys
	}
	for _, a := range k.Document.Trust {
		if a.SPKI != "" {
			keys[a.Name] = a.SPKI
		}
	}
	if err := k.Close(); err != nil {
		s.Log.Warn("letting go of the kit: " + err.Error())
	}
	return keys
}

func readSelf() (p program, err error) {
	file, err := self()
	if err != nil {
		return p, fmt.Errorf("reading this program: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if p.size, err = io.Copy(sum, file); err != nil {
		return p, fmt.Errorf("reading this program: %w", err)
	}
	p.sha256 = hex.EncodeToString(sum.Sum(nil))
	return p, nil
}
