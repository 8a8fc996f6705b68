package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/blackstart-project/blackstart/runbooks"
)

// ErrLost is returned where the connection to a host ended in the middle of a step. What
// the step had begun there is ended.
var ErrLost = errors.New("the connection was lost in the middle of it")

// sshGround is another host as a place where steps are done: each by this program, there.
type sshGround struct{ host *farHost }

func (g sshGround) On(host string) (Ground, error) { return g.host.fleet.on(host) }

func (g sshGround) Ready(ctx context.Context) error {
	if _, err := g.host.connect(ctx); err != nil {
		return fmt.Errorf("host %s: %w", g.host.name, err)
	}
	return nil
}

func (g sshGround) Shell(ctx context.Context, text string, env []string, dir string, out io.Writer) (int, error) {
	code, said, err := g.send(ctx, errand{Shell: &script{text, dir}, Env: inJSON(env)}, out)
	if err == nil && said != "" {
		err = errors.New(said) // it was no status of the script's
	}
	return code, err
}

func (g sshGround) Probe(ctx context.Context, p *runbooks.Probe, env []string) error {
	_, err := g.done(ctx, errand{Probe: p, Env: inJSON(env)}, io.Discard)
	return err
}

func (g sshGround) Do(ctx context.Context, t runbooks.Task, out io.Writer) error {
	t.Env = nil
	e := errand{Do: &t}
	if t.Step.Kind() == runbooks.Cert {
		// The session is open here: only what it gives out goes there.
		issued, err := g.host.fleet.site.issue(ctx, *t.Step)
		if err != nil {
			return err
		}
		e.Issued = &issued
	}
	_, err := g.done(ctx, e, out)
	return err
}

// done is send for what has no status of its own.
func (g sshGround) done(ctx context.Context, e errand, out io.Writer) (int, error) {
	code, said, err := g.send(ctx, e, out)
	if err == nil && code != 0 {
		if said == "" {
			said = fmt.Sprintf("it ended with status %d", code)
		}
		err = errors.New(said)
	}
	return code, err
}

// letGo is how long a host gets to end what was begun there.
const letGo = 5 * time.Second

// send has an errand done on the host, and gives the status of the program that did it
// and what that said of its failure. When ctx ends, what was begun there is ended first.
func (g sshGround) send(ctx context.Context, e errand, out io.Writer) (code int, said string, err error) {
	f := g.host.fleet
	e.Lease = f.lease
	text, err := f.site.errandText(e)
	if err != nil {
		return 0, "", fmt.Errorf("writing a step for %s: %w", g.host.name, err)
	}
	l, ses, err := g.session(ctx)
	if err == nil {
		code, said, err = g.exchange(ctx, ses, f.site.errandArgs(l.program), text, out)
	}
	if err != nil {
		err = fmt.Errorf("host %s: %w", g.host.name, err)
	}
	return code, said, err
}

const (
	sessionWait  = time.Minute // for another step to end, where a server has no more sessions
	sessionEvery = 100 * time.Millisecond
)

// session begins a session, on a new connection where the one that is there has died and
// nobody has noticed.
func (g sshGround) session(ctx context.Context) (*link, *ssh.Session, error) {
	until := time.Now().Add(sessionWait)
	for first := true; ; first = false {
		l, err := g.host.connect(ctx)
		if err != nil {
			return nil, nil, err
		}
		ses, err := newSession(ctx, l.client)
		var full *ssh.OpenChannelError // the connection carries other steps, and is well
		switch {
		case err == nil:
			return l, ses, nil
		case ctx.Err() != nil:
			return nil, nil, err
		case errors.As(err, &full) && time.Now().Before(until):
			if err := sleep(ctx, sessionEvery); err != nil {
				return nil, nil, err
			}
		case errors.As(err, &full) || !first:
			return nil, nil, err
		default:
			_ = l.client.Close() // it is dead
			g.host.forget(l)
		}
	}
}

// newSession begins a session. A host that has gone silent does not hold it up for
// longer than ctx.
func newSession(ctx context.Context, c *ssh.Client) (*ssh.Session, error) {
	type begun struct {
		s   *ssh.Session
		err error
	}
	got := make(chan begun)
	go func() { // it ends with the connection at the latest
		s, err := c.NewSession()
		select {
		case got <- begun{s, err}:
		case <-ctx.Done():
			if err == nil {
				_ = s.Close() // nobody wants it any more
			}
		}
	}()
	select {
	case b := <-got:
		return b.s, b.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// exchange starts the program, gives it the errand and keeps it company until it ends.
func (g sshGround) exchange(ctx context.Context, ses *ssh.Session, args []string, text []byte, out io.Writer) (int, string, error) {
	defer func() { _ = ses.Close() }() // it mostly is
	passing := &gate{to: out}
	defer passing.shut()
	complaint := &firstBytes{left: answerLimit}
	ses.Stdout, ses.Stderr = passing, complaint
	in, err := ses.StdinPipe()
	if err != nil {
		return 0, "", err
	}
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = quote(a)
	}
	over := make(chan struct{})
	var why error
	ended := make(chan struct{})
	go func() { // it ends with the connection at the latest
		defer close(ended)
		why = ses.Start("exec " + strings.Join(words, " "))
		if why == nil {
			go g.accompany(in, text, over)
			why = ses.Wait()
		}
	}()
	select {
	case <-ended:
		close(over)
	case <-ctx.Done():
		close(over) // the end of its input is what it ends by
		t := time.NewTimer(letGo)
		defer t.Stop()
		select {
		case <-ended:
		case <-t.C:
		}
		return 0, "", context.Cause(ctx)
	}
	said := failure(complaint.b.Bytes())
	var exit *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case why == nil:
		return 0, said, nil
	case errors.As(why, &exit) && exit.Signal() == "":
		return exit.ExitStatus(), said, nil
	case errors.As(why, &exit):
		return 0, said, fmt.Errorf("the program that did it there was ended by SIG%s", exit.Signal())
	case errors.As(why, &missing), errors.Is(why, io.EOF):
		return 0, said, ErrLost
	}
	return 0, said, fmt.Errorf("%w: %w", ErrLost, why)
}

// accompany sends the errand, and goes on to say that somebody waits for it.
func (g sshGround) accompany(in io.WriteCloser, text []byte, over <-chan struct{}) {
	defer func() { _ = in.Close() }() // which tells the host that nobody does
	t := time.NewTicker(g.host.fleet.lease / beats)
	defer t.Stop()
	for said := append(text, '\n'); ; said = []byte{'\n'} {
		if _, err := in.Write(said); err != nil {
			return // it has ended, and what its end was is known elsewhere
		}
		select {
		case <-over:
			return
		case <-t.C:
		}
	}
}

// gate passes on what is written to it, until it is shut: a session that has been given
// up may still write.
type gate struct {
	mu   sync.Mutex
	to   io.Writer
	done bool
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done {
		return len(b), nil
	}
	return g.to.Write(b)
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.done = true
}
