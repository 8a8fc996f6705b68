package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/runbooks"
)

// Errors of a run of a runbook, wrapped.
var (
	// ErrStep is returned where a step failed: the rest of the runbook may go on
	// with RunbookOptions.Resume.
	ErrStep = errors.New("the runbook is not done")
	// ErrRunning is returned where a run of the same service is under way.
	ErrRunning = errors.New("a runbook of this service is running")
	// ErrNoRun is returned where there is no such run.
	ErrNoRun = errors.New("no such run")
)

// StepState is what became of a task.
type StepState string

// The states. Waiting tasks have none.
const (
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepAlready StepState = "done already" // its check said so
	StepLeftOut StepState = "left out"     // its when said so
	StepFailed  StepState = "failed"
	StepBlocked StepState = "not begun" // what it needs was not done
	StepUndoing StepState = "taking back"
	StepUndone  StepState = "taken back"
)

// over says whether what needs a task may go on.
func (s StepState) over() bool { return s == StepDone || s == StepAlready || s == StepLeftOut }

// StepEvent is news of one task of a run.
type StepEvent struct {
	Task    runbooks.Task
	State   StepState
	Attempt int           // from 1
	Line    string        // the last line of its output, masked
	Took    time.Duration // so far
	Err     error         // of a failed attempt
}

// Ground is where a runbook's steps are done: this host, another one, or a vacuum.
type Ground interface {
	// On is the same on a host that steps name.
	On(host string) (Ground, error)
	// Ready returns when steps can be done there: a step's own timeout begins after it.
	Ready(ctx context.Context) error
	// Shell runs a script with sh -eu. A program that ends itself with another status
	// than 0 is no error.
	Shell(ctx context.Context, script string, env []string, dir string, out io.Writer) (code int, err error)
	// Probe looks once at what a probe speaks of; nil: it is true.
	Probe(ctx context.Context, p *runbooks.Probe, env []string) error
	// Do does a step of another kind than run, wait_for, confirm and note.
	Do(ctx context.Context, t runbooks.Task, out io.Writer) error
}

// RunbookOptions say how a runbook is run.
type RunbookOptions struct {
	Bound     *runbooks.Bound
	Digest    string // of the runbook's file
	Run       string // its id, by which a step's programs are known; may be ""
	Select    runbooks.Selection
	Ground    Ground
	Confirm   func(ctx context.Context, question string) (bool, error) // nil: every question is answered with yes
	Tell      func(StepEvent)                                          // one call at a time; may be nil
	Journal   func(kind string, data any) error                        // what happens is on disk when it returns; may be nil
	Done      map[string]bool                                          // tasks that an earlier run did: each is looked at again
	Output    func(t runbooks.Task) (io.WriteCloser, error)            // where a task's output is kept; may be nil
	AtOnce    int                                                      // tasks; 0: 8
	FirstWait time.Duration                                            // before the first retry; 0: a second
}

// TaskResult is what became of a task in a run.
type TaskResult struct {
	ID      string        `json:"id"`
	State   StepState     `json:"state"`
	Took    time.Duration `json:"took"`
	Attempt int           `json:"attempt"`
	Error   string        `json:"error,omitempty"`
	Last    string        `json:"last_line,omitempty"`
	Log     string        `json:"log,omitempty"` // the file with its output
}

// RunResult is what became of a run.
type RunResult struct {
	Tasks []TaskResult  `json:"tasks"`
	Took  time.Duration `json:"took"`
}

// RunPlan does a plan's tasks, each when what it needs is done. A task that fails
// holds up what needs it, and nothing else. Errors: ErrStep; those of the journal,
// which end the run, for nothing may be done that nobody would know of.
func RunPlan(ctx context.Context, o RunbookOptions) (RunResult, error) {
	plan, err := o.Bound.Plan(o.Select)
	if err != nil {
		return RunResult{}, err
	}
	return RunTasks(ctx, o, plan.Tasks)
}

// RunTasks is RunPlan for tasks that are planned already.
func RunTasks(ctx context.Context, o RunbookOptions, tasks []runbooks.Task) (RunResult, error) {
	e := &engine{o: o, mask: o.Bound.Masker(), state: map[string]StepState{}, changed: make(chan struct{}, 1)}
	if e.o.AtOnce == 0 {
		e.o.AtOnce = 8
	}
	if e.o.FirstWait == 0 {
		e.o.FirstWait = time.Second
	}
	begun := time.Now()
	ctx, e.stop = context.WithCancelCause(ctx)
	defer e.stop(nil)
	e.run(ctx, tasks)
	r := RunResult{Took: time.Since(begun)}
	var failed []error
	for _, t := range tasks {
		res := e.result(t)
		r.Tasks = append(r.Tasks, res)
		if res.State == StepFailed {
			failed = append(failed, fmt.Errorf("step %q: %s", t.ID, res.Error))
		}
	}
	if e.stranger {
		failed = append(failed, fetch.ErrPeer)
	}
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return r, errors.Join(append([]error{cause}, failed...)...)
	case len(failed) > 0:
		return r, fmt.Errorf("%w: %w", ErrStep, errors.Join(failed...))
	}
	return r, nil
}

// engine is one run.
type engine struct {
	o       RunbookOptions
	mask    *runbooks.Masker
	stop    context.CancelCauseFunc
	changed chan struct{}

	mu      sync.Mutex
	state   map[string]StepState
	results []TaskResult
	running int

	stranger bool // a host had another key than the one it is known by
}

func (e *engine) result(t runbooks.Task) TaskResult {
	i := slices.IndexFunc(e.results, func(r TaskResult) bool { return r.ID == t.ID })
	if i < 0 {
		return TaskResult{ID: t.ID, State: StepBlocked}
	}
	return e.results[i]
}

// run starts tasks as they become ready, until none can.
func (e *engine) run(ctx context.Context, tasks []runbooks.Task) {
	var wg sync.WaitGroup
	defer wg.Wait()
	begun := map[string]bool{}
	for {
		e.mu.Lock()
		ready := 0
		for _, t := range tasks {
			if begun[t.ID] || e.running >= e.o.AtOnce || ctx.Err() != nil || !e.free(t) {
				continue
			}
			begun[t.ID] = true
			ready++
			e.running++
			e.state[t.ID] = StepRunning
			wg.Go(func() { e.task(ctx, t) })
		}
		idle := e.running == 0
		e.mu.Unlock()
		if ready == 0 && idle {
			return
		}
		<-e.changed
	}
}

// free says whether all that a task needs is done. e.mu is held.
func (e *engine) free(t runbooks.Task) bool {
	return !slices.ContainsFunc(t.Needs, func(id string) bool { return !e.state[id].over() })
}

// finished is written to the journal when a task is over.
type finished struct {
	Task  string        `json:"task"`
	State StepState     `json:"state"`
	Took  time.Duration `json:"took"`
	Tries int           `json:"tries,omitempty"`
	Error string        `json:"error,omitempty"`
	Last  string        `json:"last_line,omitempty"`
}

// task does one task and says what became of it.
func (e *engine) task(ctx context.Context, t runbooks.Task) {
	w := &taskRun{e: e, t: t, begun: time.Now(), attempt: 1}
	state, err := w.do(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	f := finished{Task: t.ID, State: state, Took: time.Since(w.begun), Tries: w.attempt, Last: w.lastLine()}
	if err != nil {
		f.Error = e.mask.Text(err.Error())
	}
	if jerr := e.journal("step", f); jerr != nil {
		e.stop(fmt.Errorf("writing the run's journal: %w", jerr))
	}
	e.mu.Lock()
	e.state[t.ID] = state
	e.results = append(e.results, TaskResult{t.ID, state, f.Took, w.attempt, f.Error, f.Last, ""})
	e.running--
	e.stranger = e.stranger || errors.Is(err, fetch.ErrPeer)
	e.mu.Unlock()
	w.tell(state, err)
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

func (e *engine) journal(kind string, data any) error {
	if e.o.Journal == nil {
		return nil
	}
	return e.o.Journal(kind, data)
}

// tell passes news on, one at a time.
func (e *engine) tell(ev StepEvent) {
	if e.o.Tell == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.o.Tell(ev)
}

// decode reads an entry's data.
func decode[T any](raw json.RawMessage) (T, error) {
	var v T
	err := json.Unmarshal(raw, &v)
	return v, err
}
