package recovery

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/recovery/access"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// Command is a command that changes something, before it does.
type Command struct {
	Words []string // the command line, without what is secret in it
	// Verb is what the policy is asked about; "" where nobody is asked, for breaking the glass must always be possible.
	Verb    string
	Objects []string // services or containers; none stands for the host
	Reason  string
	// Mends is set where the command may be what mends a policy that cannot be read: it goes on.
	Mends bool
}

// Begun is a command that may go on.
type Begun struct {
	site  Site
	seq   uint64 // of its line in the record; 0 where there is none
	began time.Time
	safe  chan error // when that line is on disk
	kept  *keeping
}

// The kinds of a command's lines in the record.
const (
	kindCommand = "command"
	kindDenied  = "command-denied"
	kindOutcome = "command-outcome"
)

// commandLine is what the record says of a command.
type commandLine struct {
	Command  []string       `json:"command"`
	Verb     string         `json:"verb,omitempty"`
	On       []string       `json:"on,omitempty"`
	Outcome  access.Outcome `json:"decision"`
	By       string         `json:"by"` // the line that decided, or why nobody was asked
	Policy   string         `json:"policy,omitempty"`
	Grant    string         `json:"grant,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	User     string         `json:"user,omitempty"`
	Logins   []string       `json:"principals,omitempty"` // of an SSH certificate
	Key      string         `json:"key,omitempty"`
	Problems []string       `json:"problems,omitempty"`
}

type outcomeLine struct {
	Of   uint64 `json:"of"` // the number of the command's line
	Exit int    `json:"exit"`
	Took string `json:"took"`
}

// Begin asks the policy of this host's kit whether a command may go on, and puts it into the record before it returns; End waits
// until that is on disk, so that the command and the disk work at the same time. A record that cannot be kept is said on
// stderr and in the kernel's log, and stops nobody.
//
// Without a kit, without keys that are trusted, or without a policy in the kit everything is allowed. A policy that is there and
// cannot be read denies what has no reason given, for a kit that is damaged must not keep anybody from recovering. One
// whose time is over holds on.
//
// Errors: ErrDenied.
func (s Site) Begin(c Command) (*Begun, error) {
	b := &Begun{site: s, began: time.Now()}
	line := commandLine{Command: c.Words, Verb: c.Verb, On: c.Objects, Outcome: access.Allowed, Reason: c.Reason}
	if denied := s.decide(c, &line); denied != nil {
		if err := s.record(kindDenied, line); err != nil {
			s.unrecorded(err)
		} else {
			s.keepCopies().end()
		}
		return nil, denied
	}
	j, err := s.openJournal()
	if err != nil {
		s.unrecorded(err)
		return b, nil
	}
	e, err := j.Jot(s.nowAfter(j.Head()), kindCommand, who(), line)
	if err != nil {
		s.unrecorded(errors.Join(err, j.Close()))
		return b, nil
	}
	b.seq, b.safe = e.Seq, make(chan error, 1)
	go func() { b.safe <- errors.Join(j.Sync(), j.Close()) }()
	b.kept = s.keepCopies()
	return b, nil
}

// End puts into the record what became of the command, and waits until that it was begun is on disk. Of the outcome a power
// loss may leave nothing. The copies that are kept are brought up to it. What it returns is where the record is now; its Seq is 0
// where none is kept.
func (b *Begun) End(code int) (now journal.Head) {
	if b.seq == 0 {
		return now
	}
	defer b.kept.end()
	err := <-b.safe
	j, openErr := b.site.openJournal()
	if err = errors.Join(err, openErr); openErr == nil {
		line := outcomeLine{b.seq, code, time.Since(b.began).Round(time.Microsecond).String()}
		_, jotErr := j.Jot(b.site.nowAfter(j.Head()), kindOutcome, who(), line)
		now = j.Head()
		err = errors.Join(err, jotErr, j.Close())
	}
	if err != nil {
		b.site.unrecorded(err)
	}
	return now
}

// unrecorded says loudly that something is missing in the record. Who is not root has none to write to.
func (s Site) unrecorded(err error) {
	switch {
	case errors.Is(err, errNoRecord):
		return
	case os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission):
		s.Log.Warn("only root can keep the record, so this is not in it", "error", err)
		return
	}
	if err := journal.Shout(os.Stderr, "/dev/kmsg", "the record of what is done cannot be kept: "+err.Error()); err != nil {
		s.Log.Warn("the kernel's log has not heard that", "error", err)
	}
}

// decide fills in what was decided, and says why not where it was no.
func (s Site) decide(c Command, line *commandLine) error {
	a, err := s.policyInForce()
	if a == nil {
		a = &Access{site: s, ssh: s.sshCA()}
	}
	subject, whoErr := a.Subject()
	line.User, line.Logins, line.Key = subject.User, subject.Principals, subject.Key
	switch {
	case c.Verb == "":
		line.By = "nobody is asked"
		return nil
	case a.Policy == nil && err == nil:
		line.By = "no policy is in force"
		return nil
	}
	if err := errors.Join(err, whoErr); err != nil {
		line.Problems = append(line.Problems, err.Error())
		if c.Reason == "" && !c.Mends {
			line.Outcome, line.By = access.Denied, "the policy cannot be read"
			return fmt.Errorf("%w: the policy cannot be read, and no --reason is given for going on without: %w", ErrDenied, err)
		}
		line.By = "the policy cannot be read"
		s.Log.Warn("nobody was asked, and the record says so: the policy cannot be read", "error", err)
		return nil
	}
	line.Policy = a.Source
	for _, b := range a.banners() {
		s.Log.Warn(b)
	}
	objects := c.Objects
	if len(objects) == 0 {
		objects = []string{""}
	}
	for _, o := range objects {
		d := a.Decide(subject, c.Verb, o).Decision
		line.Outcome, line.By = d.Outcome, d.String()
		if d.Grant != "" {
			line.Grant = d.Grant
			line.Reason = cmp.Or(line.Reason, a.reason(d.Grant))
		}
		if d.Outcome != access.Allowed {
			return deniedBy(c.Verb, o, d)
		}
	}
	return nil
}

// deniedBy says which line decided, and what to do about it.
func deniedBy(verb, object string, d access.Decision) error {
	what := verb + " on this host"
	if object != "" {
		what = verb + " on " + object
	}
	if d.Outcome == access.Needed {
		return fmt.Errorf("%w: %s %s; to break the glass: blackstart access request --reason WHY --verb %s --service %s", ErrDenied, what, d, verb, cmp.Or(object, "NAME"))
	}
	return fmt.Errorf("%w: %s: %s", ErrDenied, what, d)
}

// policyInForce is the policy of the kit in DATA/kit; nil where there is none.
func (s Site) policyInForce() (*Access, error) {
	// Whatever kit a command is given, what holds on this host is the host's own.
	if !exists(filepath.Join(s.kitDir(""), "index.json")) {
		return nil, nil
	}
	a, err := s.OpenAccess(AccessOptions{Kit: KitOptions{AcceptStale: true, AcceptRollback: true, quiet: true}})
	switch {
	case errors.Is(err, ErrNoPolicy), errors.Is(err, ErrNoTrust):
		return nil, nil
	case os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission):
		return nil, nil // the kernel's permissions hold for them
	}
	return a, err
}

// banners are what is to be seen while grants are open.
func (a *Access) banners() []string {
	var all []string
	for _, g := range a.Grants {
		if b := a.View(g).Banner; b != "" {
			all = append(all, b)
		}
	}
	return all
}

// reason is what was written in a request.
func (a *Access) reason(id string) string {
	for _, g := range a.Grants {
		if g.Request.ID == id {
			return g.Request.Reason
		}
	}
	return ""
}

// ServiceOf is what a container of an image or a root filesystem is called where nobody says.
func ServiceOf(ref string) string { return nameOf(strings.TrimPrefix(ref, "containerd://")) }
