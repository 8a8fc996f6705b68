package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// SessionOptions say which authority is opened, by what, and for how long.
type SessionOptions struct {
	Keys
	Dir       string // of the ceremony
	Socket    string
	Lasts     time.Duration
	Policy    string // file; "" for none
	Unguarded bool
	Ready     func(certs.SessionStatus) error
}

// OpenSession opens the emergency authority and serves it until its time is over, ctx ends or somebody closes it. Every
// certificate is in the journal before it is given out.
func (s Site) OpenSession(ctx context.Context, o SessionOptions) (err error) {
	if err := s.guard(o.Unguarded); err != nil {
		return err
	}
	c, err := certs.LoadCeremony(o.Dir)
	if err != nil {
		return err
	}
	opt := certs.AuthorityOptions{Floor: s.now()}
	if o.Policy != "" {
		text, err := readBounded(o.Policy)
		if err != nil {
			return err
		}
		if opt.Policy, err = certs.ParsePolicy(text); err != nil {
			return fmt.Errorf("%s: %w", o.Policy, err)
		}
	}
	l, err := certs.ListenSession(ctx, o.Socket)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Host.Data, 0o711); err != nil {
		return errors.Join(err, l.Close())
	}
	j, err := journal.Open(s.journalPath())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	opt.Record = s.recorder(journal.NewGroup(j), opt.Floor)
	a, opened, err := s.openAuthority(c, o, opt)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if _, err := j.Append(opt.Floor, "certs-open", who(), opened); err != nil {
		a.Close()
		return errors.Join(err, l.Close())
	}
	served := make(chan error, 1)
	go func() { served <- certs.ServeSession(ctx, l, a, o.Lasts) }()
	if status, err := (certs.Session{Path: o.Socket}).Status(ctx); err == nil {
		err = o.Ready(status)
		if err != nil {
			s.Log.Warn("this could not be said", "error", err)
		}
	}
	err = <-served
	if errors.Is(ctx.Err(), context.Canceled) {
		s.Log.Info("interrupted: the session is closed")
	}
	_, recordErr := j.Append(later(time.Now(), opt.Floor), "certs-close", who(), nil)
	head := j.Head()
	s.Log.Info(fmt.Sprintf("the journal ends with entry %d, sha256 %s", head.Seq, head.Hash))
	return errors.Join(err, recordErr)
}

// recorder puts what an authority is about to give out into the journal. Where that cannot be done it is said loudly, and
// nothing is given out.
func (s Site) recorder(g *journal.Group, floor time.Time) func(certs.Event) error {
	return func(e certs.Event) error {
		kind := "certs-issue"
		switch {
		case e.Refused != "":
			kind = "certs-refused"
		case e.Kind == "crl":
			kind = "certs-revoke"
		}
		_, err := g.Append(later(time.Now(), floor), kind, who(), e)
		if err != nil {
			text := "blackstart: no certificates are issued, for the journal cannot be kept: " + err.Error()
			return errors.Join(err, journal.Shout(os.Stderr, "/dev/kmsg", text))
		}
		return nil
	}
}

type openedBy struct {
	Name   string   `json:"name"`
	Root   string   `json:"root"`
	Shares []string `json:"shares,omitempty"` // whose they were
	Lasts  string   `json:"lasts"`
}

// openAuthority opens the emergency keys of a ceremony.
func (s Site) openAuthority(c *certs.Ceremony, o SessionOptions, opt certs.AuthorityOptions) (*certs.Authority, openedBy, error) {
	by := openedBy{Name: c.Name, Root: certs.Fingerprint(c.Root), Lasts: o.Lasts.String()}
	opening, err := c.Begin()
	if err != nil {
		return nil, by, err
	}
	var lying []sealedShare
	_, people := c.Holders()
	for _, p := range people {
		if b, ok := c.Share(p.Name); ok {
			lying = append(lying, sealedShare{p.Name, b})
		}
	}
	u, err := s.unlock(c.Name, opening, lying, o.Keys)
	defer wipe(&u)
	if err != nil {
		return nil, by, err
	}
	by.Shares = opening.Progress().Have
	a, err := c.Open(opening, u, opt)
	return a, by, err
}
