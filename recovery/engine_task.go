package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/runbooks"
)

// taskRun is a task that is being done.
type taskRun struct {
	e       *engine
	t       runbooks.Task
	ground  Ground
	begun   time.Time
	attempt int

	mu   sync.Mutex
	last []byte // the line that its output is at
	line string // the last whole one
}

const (
	maxLine      = 4 << 10 // of a task's output that is shown, in bytes
	maxRetryWait = 30 * time.Second
	probeEvery   = 250 * time.Millisecond
	probeLimit   = 5 * time.Second
	tellEvery    = 200 * time.Millisecond
)

// errRefused is returned where a person answers with no.
var errRefused = errors.New("the answer was no")

// hopeless says whether another attempt would end the same way.
func hopeless(err error) bool {
	return errors.Is(err, errRefused) || errors.Is(err, fetch.ErrPeer) || errors.Is(err, ErrMachine)
}

func (w *taskRun) tell(state StepState, err error) {
	w.e.tell(StepEvent{Task: w.t, State: state, Attempt: w.attempt, Line: w.lastLine(), Took: time.Since(w.begun), Err: err})
}

func (w *taskRun) lastLine() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.line
}

// Write keeps the last line. What is no text is shown as such.
func (w *taskRun) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i]
		}
		if room := maxLine - len(w.last); room > 0 {
			w.last = append(w.last, part[:min(len(part), room)]...)
		}
		if i < 0 {
			break
		}
		if s := strings.TrimSpace(strings.ToValidUTF8(string(w.last), "\uFFFD")); s != "" {
			w.line = s
		}
		w.last, b = w.last[:0], b[i+1:]
	}
	return n, nil
}

// do decides whether the task is to be done, and does it.
func (w *taskRun) do(ctx context.Context) (state StepState, err error) {
	s := w.t.Step
	out, closeOut, err := w.output()
	if err != nil {
		return StepFailed, err
	}
	defer func() {
		if cerr := closeOut(); err == nil && cerr != nil {
			state, err = StepFailed, cerr
		}
	}()
	if err := w.e.journal("begin", struct {
		Task string `json:"task"`
	}{w.t.ID}); err != nil {
		w.e.stop(fmt.Errorf("writing the run's journal: %w", err))
		return StepFailed, err
	}
	w.tell(StepRunning, nil)
	w.ground = w.e.o.Ground
	if w.t.Host != "" {
		if w.ground, err = w.ground.On(w.t.Host); err != nil {
			return StepFailed, err
		}
	}
	if s.When != "" {
		code, err := w.shell(ctx, s.When, nil, "", out)
		if err != nil {
			return StepFailed, fmt.Errorf("asking whether it is wanted: %w", err)
		}
		if code != 0 {
			return StepLeftOut, nil
		}
	}
	if s.Check != "" {
		code, err := w.shell(ctx, s.Check, nil, "", out)
		if err != nil {
			return StepFailed, fmt.Errorf("checking whether it is done already: %w", err)
		}
		if code == 0 {
			return StepAlready, nil
		}
	} else if k := s.Kind(); w.e.o.Done[w.t.ID] && (k == runbooks.Run || k == runbooks.Confirm || k == runbooks.Note) {
		return StepAlready, nil // nothing tells but the journal; the other kinds find out by themselves
	}
	for ; ; w.attempt++ {
		err := w.once(ctx, out)
		if err == nil {
			return StepDone, nil
		}
		if w.attempt > s.Retries || ctx.Err() != nil || hopeless(err) {
			return StepFailed, err
		}
		w.tell(StepRunning, err)
		if err := sleep(ctx, min(w.e.o.FirstWait<<min(w.attempt-1, 10), maxRetryWait)); err != nil {
			return StepFailed, err
		}
	}
}

// output is where the task's output goes: masked, to its own log and to the last
// line.
func (w *taskRun) output() (io.Writer, func() error, error) {
	var to io.Writer = w
	var file io.WriteCloser
	if w.e.o.Output != nil {
		var err error
		if file, err = w.e.o.Output(w.t); err != nil {
			return nil, nil, err
		}
		to = io.MultiWriter(w, file)
	}
	masked := w.e.mask.Writer(to)
	return masked, func() error {
		err := masked.Close()
		if file != nil {
			err = errors.Join(err, file.Close())
		}
		return err
	}, nil
}

// once is one attempt.
func (w *taskRun) once(ctx context.Context, out io.Writer) error {
	s := w.t.Step
	if s.Kind() != runbooks.WaitFor { // which goes on looking for as long as it says
		if err := w.ground.Ready(ctx); err != nil {
			return err
		}
	}
	if s.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(s.Timeout), fmt.Errorf("it took longer than %s", s.Timeout))
		defer cancel()
	}
	err := w.kind(ctx, out)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (w *taskRun) kind(ctx context.Context, out io.Writer) error {
	s := w.t.Step
	switch s.Kind() {
	case runbooks.Run:
		return w.script(ctx, s.Run, out)
	case runbooks.WaitFor:
		return w.wait(ctx, s.WaitFor)
	case runbooks.Confirm:
		if w.e.o.Confirm == nil {
			return nil
		}
		yes, err := w.e.o.Confirm(ctx, s.Confirm)
		if err == nil && !yes {
			err = errRefused
		}
		return err
	case runbooks.Note:
		_, err := io.WriteString(out, s.Note+"\n")
		return err
	case runbooks.Fetch, runbooks.Container, runbooks.Stop, runbooks.DNS, runbooks.Cert, runbooks.Handoff:
	}
	return w.ground.Do(ctx, w.t, out)
}

// script runs commands of the step with what it gives them, to a good end.
func (w *taskRun) script(ctx context.Context, text string, out io.Writer) error {
	var env []string
	dir := ""
	if with := w.t.Step.With; with != nil {
		dir = with.Dir
		for k, v := range with.Env {
			env = append(env, k+"="+v)
		}
	}
	code, err := w.shell(ctx, text, env, dir, out)
	if err == nil && code != 0 {
		err = fmt.Errorf("it ended with status %d", code)
	}
	return err
}

// shell runs a script, and tells its last line while it runs.
func (w *taskRun) shell(ctx context.Context, script string, env []string, dir string, out io.Writer) (int, error) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(tellEvery)
		defer t.Stop()
		seen := ""
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if line := w.lastLine(); line != seen {
					seen = line
					w.tell(StepRunning, nil)
				}
			}
		}
	})
	env = slices.Concat(w.t.Env, env)
	if w.e.o.Run != "" {
		env = append(env, stepMark(w.e.o.Run, w.t.ID))
	}
	code, err := w.ground.Shell(ctx, script, env, dir, out)
	close(done)
	wg.Wait()
	return code, err
}

// wait looks at a probe until it is true, and stays so for as long as it says.
func (w *taskRun) wait(ctx context.Context, p *runbooks.Probe) error {
	return waitFor(ctx, w.ground, p, w.t.Env, func(why error) { w.tell(StepRunning, why) })
}

// WaitFor looks at a probe until it is true, and stays so for as long as it says.
func WaitFor(ctx context.Context, g Ground, p *runbooks.Probe, env []string) error {
	return waitFor(ctx, g, p, env, func(error) {})
}

// waitFor tells as well what it waits for.
func waitFor(ctx context.Context, g Ground, p *runbooks.Probe, env []string, waiting func(error)) error {
	deadline := time.Now().Add(time.Duration(p.Within))
	var since time.Time // it has been true
	var last error
	for {
		one, cancel := context.WithTimeout(ctx, probeLimit)
		err := g.Probe(one, p, env)
		cancel()
		now := time.Now()
		switch {
		case ctx.Err() != nil && last != nil:
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case hopeless(err):
			return err
		case err != nil && now.After(deadline):
			return fmt.Errorf("not within %s: %w", p.Within, err)
		case err != nil:
			since, last = time.Time{}, err
			waiting(err)
		case since.IsZero():
			since = now
			fallthrough
		default:
			if now.Sub(since) >= time.Duration(p.Hold) {
				return nil
			}
		}
		_ = sleep(ctx, probeEvery) // that it ended is seen above
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
