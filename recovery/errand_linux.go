package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// errand is one thing that a step asks of another place, a vacuum or another host. There
// this program is started as `runbook step`, and reads it as one JSON value from standard
// input: arguments and the environment are seen by others, and it may hold secrets.
//
// Exactly one of Do, Shell and Probe is there.
type errand struct {
	Do    *runbooks.Task  `json:"do,omitempty"` // of a kind that Ground.Do does
	Shell *script         `json:"shell,omitempty"`
	Probe *runbooks.Probe `json:"probe,omitempty"`
	Env   [][]byte        `json:"env,omitempty"` // K=V, for Shell and Probe: a value may be no text

	From   from          `json:"from"`             // what the kit and its sources are, there as here
	Issued *certs.Issued `json:"issued,omitempty"` // for a cert step: the session is not there
	Vacuum bool          `json:"vacuum,omitempty"` // what cannot be done there leaves the run unresolved

	// Lease is how long standard input may be silent after the errand: where it ends, or
	// says nothing for longer, whoever asked is gone, and what was begun is ended. 0:
	// standard input does not matter.
	Lease time.Duration `json:"lease,omitempty"`
}

// script is a shell text.
type script struct {
	Text string `json:"text"`
	Dir  string `json:"dir,omitempty"`
}

// inJSON is an environment as an errand has it.
func inJSON(env []string) [][]byte {
	var all [][]byte
	for _, kv := range env {
		all = append(all, []byte(kv))
	}
	return all
}

// from is the part of From that means something in another place.
type from struct {
	Kit    KitOptions              `json:"kit"`
	Places []fetch.Place           `json:"places,omitempty"`
	Names  map[string][]netip.Addr `json:"names,omitempty"`
	Wait   time.Duration           `json:"wait,omitempty"`
}

// elsewhere makes it one whose paths are absolute.
func (f From) elsewhere() (from, error) {
	out := from{f.Kit, f.Places, f.Net.Names, f.Wait}
	for _, p := range []*string{&out.Kit.Dir, &out.Kit.Trust} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return out, err
		}
		*p = abs
	}
	return out, nil
}

// errandText is an errand for another place, as it reads it.
func (s Site) errandText(e errand) (text []byte, err error) {
	if e.From, err = s.From.elsewhere(); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}

const maxErrand = 4 << 20 // bytes

// errAbandoned is the end of an errand that nobody waits for any more.
var errAbandoned = errors.New("whoever asked for it is gone")

// RunErrand does the errand that in holds, on this host: the other half of a step in
// another place. code is the exit status of a script.
//
// Errors: ErrUsage for what is no errand; those of the step.
func (s Site) RunErrand(ctx context.Context, in io.Reader, out io.Writer) (code int, err error) {
	var e errand
	d := json.NewDecoder(io.LimitReader(in, maxErrand))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return 0, fmt.Errorf("%w: reading a step: %w", ErrUsage, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if e.Lease > 0 {
		go attend(in, e.Lease, func() { cancel(errAbandoned) })
	}
	if e.Probe == nil && !e.Vacuum {
		// Whoever began the runbook was asked where it began; what is done here is on this host's record.
		begun, denied := s.Begin(Command{Words: e.words()})
		if denied != nil {
			return 0, denied
		}
		defer func() { begun.End(max(code, failed(err))) }()
	}
	s.From = From{Kit: e.From.Kit, Places: e.From.Places, Net: fetch.Net{Names: e.From.Names}, Wait: e.From.Wait}
	g := hostGround{site: s}
	var env []string
	for _, kv := range e.Env {
		env = append(env, string(kv))
	}
	// A file would be handed to what is started, which may live on and hold it open.
	out = struct{ io.Writer }{out}
	switch {
	case e.Shell != nil:
		return g.Shell(ctx, e.Shell.Text, env, e.Shell.Dir, out)
	case e.Probe != nil:
		return 0, g.Probe(ctx, e.Probe, env)
	case e.Do != nil && e.Do.Step != nil && e.Issued != nil:
		return 0, keepIssued(*e.Do.Step, *e.Issued, out)
	case e.Do != nil && e.Do.Step != nil:
		err := g.Do(ctx, *e.Do, out)
		if e.Vacuum && (errors.Is(err, container.ErrPrivilege) || errors.Is(err, ErrNotHere)) {
			err = fmt.Errorf("%w: %s", sandbox.ErrUnresolved, err.Error()) // its status is that of the first alone
		}
		return 0, err
	}
	return 0, fmt.Errorf("%w: there is no step in it", ErrUsage)
}

// words are an errand for the record, without what may be secret in it.
func (e errand) words() []string {
	words := []string{"runbook", "step"}
	if e.Do != nil && e.Do.Step != nil {
		words = append(words, string(e.Do.Step.Kind()), e.Do.ID)
	}
	return words
}

func failed(err error) int {
	if err != nil {
		return 1
	}
	return 0
}

// attend reads what follows the errand, and calls gone when that ends, or is silent.
func attend(in io.Reader, lease time.Duration, gone func()) {
	t := time.AfterFunc(lease, gone)
	var b [64]byte
	for {
		if _, err := in.Read(b[:]); err != nil {
			gone()
			return
		}
		t.Reset(lease)
	}
}

// failure reads what `runbook step` said on standard error when it failed: the error,
// without its hint, which is for somebody at a terminal. "" where it said nothing.
func failure(said []byte) string {
	text, _, _ := strings.Cut(strings.TrimSpace(string(said)), "\n  next: ")
	return strings.ToValidUTF8(strings.TrimPrefix(text, "blackstart: "), "\uFFFD")
}

// errandArgs are the arguments with which this program is started for one, after the
// words given, with the directories of this host.
func (s Site) errandArgs(before ...string) []string {
	return append(before, "--state", s.Host.State, "--data", s.Host.Data, "runbook", "step")
}

// self is this program's file.
func self() (*os.File, error) { return os.Open("/proc/self/exe") }
