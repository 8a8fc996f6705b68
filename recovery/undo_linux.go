package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/blackstart-project/blackstart/recovery/journal"
	"github.com/blackstart-project/blackstart/runbooks"
)

// Undoing is a task that a run has done, and that can be taken back.
type Undoing struct {
	Task    string `json:"task"`
	Command string `json:"command"` // variables are not replaced
}

// undoing is written to the journal when a run begins to be taken back.
type undoing struct {
	Process int `json:"process"`
}

// UndoRun takes back what a run has done, the last task first, where steps have an undo;
// "" is the latest run with such tasks. It stops where that fails: what was done before
// may hold up what could not be taken back. Each is in the journal before and after; one
// that was cut off, or failed, is taken back again by the next UndoRun. ResumeRun does
// the steps again. What a check found done already is not this run's to take back.
//
// ask is told what will be done before anything is; nil: nobody is asked.
//
// Errors: ErrNoRun, ErrRunning, ErrStep.
func (s Site) UndoRun(ctx context.Context, id string, in RunInputs, ask func([]Undoing) (bool, error)) (Run, error) {
	r, err := s.undoable(id)
	if err != nil {
		return r, err
	}
	id = r.ID
	b, _, bound, unlock, err := s.takeRun(ctx, id, in)
	if err != nil {
		return Run{}, err
	}
	defer unlock()
	if r, err = s.undoable(id); err != nil { // what another process did until its end counts as well
		return r, err
	}
	plan, err := bound.Plan(runbooks.Selection{})
	if err != nil {
		return r, err
	}
	var tasks []runbooks.Task
	for _, u := range r.Undo {
		i := slices.IndexFunc(plan.Tasks, func(t runbooks.Task) bool { return t.ID == u.Task })
		tasks = append(tasks, plan.Tasks[i]) // a plan of everything has it
	}
	if ask != nil {
		yes, err := ask(r.Undo)
		if err == nil && !yes {
			err = errRefused
		}
		if err != nil {
			return r, err
		}
	}
	err = s.undo(ctx, r, b.Hosts, tasks, bound.Masker(), in)
	r, readErr := s.ShowRun(id)
	return r, errors.Join(err, readErr)
}

// undoable is a run with something to take back; "" is the latest.
func (s Site) undoable(id string) (Run, error) {
	if id != "" {
		r, err := s.ShowRun(id)
		if err == nil && len(r.Undo) == 0 {
			err = fmt.Errorf("%w with anything to take back: %s", ErrNoRun, id)
		}
		return r, err
	}
	all, err := s.Runs()
	if err != nil {
		return Run{}, err
	}
	i := slices.IndexFunc(all, func(r Run) bool { return len(r.Undo) > 0 })
	if i < 0 {
		return Run{}, fmt.Errorf("%w with anything to take back", ErrNoRun)
	}
	return all[i], nil
}

// Undoable is what UndoRun would take back, in the order of that.
//
// Errors: ErrNoRun.
func (s Site) Undoable(id string) ([]Undoing, error) {
	r, err := s.undoable(id)
	return r.Undo, err
}

// undo takes tasks back one after another.
func (s Site) undo(ctx context.Context, r Run, logins map[string]Login, tasks []runbooks.Task, mask *runbooks.Masker, in RunInputs) (err error) {
	j, err := journal.Open(filepath.Join(r.Dir, runJournal))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	write := func(kind string, data any) error {
		if _, err := j.Append(s.now(), kind, who(), data); err != nil {
			return fmt.Errorf("writing the run's journal: %w", err)
		}
		return nil
	}
	if err := write("undo", undoing{os.Getpid()}); err != nil {
		return err
	}
	if in.Started != nil {
		in.Started(r.ID)
	}
	hosts := s.fleet(logins, in.Pins)
	defer hosts.Close()
	e := &engine{mask: mask, o: RunbookOptions{Ground: hostGround{s, hosts}, Tell: in.Tell, Output: func(t runbooks.Task) (io.WriteCloser, error) { return newOutput(r.Dir, t) }}}
	for _, t := range tasks {
		if err := write("undo-begin", finished{Task: t.ID}); err != nil {
			return err
		}
		f, undoErr := e.undo(ctx, t)
		if err := errors.Join(undoErr, write("undo-step", f)); err != nil {
			return err
		}
	}
	return write("undo-end", nil)
}

// undo takes one task back, and says what became of that.
func (e *engine) undo(ctx context.Context, t runbooks.Task) (finished, error) {
	w := &taskRun{e: e, t: t, ground: e.o.Ground, begun: time.Now(), attempt: 1}
	w.tell(StepUndoing, nil)
	err := w.undo(ctx)
	f := finished{Task: t.ID, State: StepUndone, Took: time.Since(w.begun), Tries: 1, Last: w.lastLine()}
	if err == nil {
		w.tell(f.State, nil)
		return f, nil
	}
	f.State, f.Error = StepFailed, e.mask.Text("taking it back: "+err.Error())
	w.tell(f.State, errors.New(f.Error))
	if cause := context.Cause(ctx); cause != nil {
		return f, fmt.Errorf("%w: step %q: %s", cause, t.ID, f.Error)
	}
	return f, fmt.Errorf("%w: step %q: %s", ErrStep, t.ID, f.Error)
}

// undo runs the step's undo where the step was done, as the step's own commands are.
func (w *taskRun) undo(ctx context.Context) (err error) {
	s := w.t.Step
	out, closeOut, err := w.output()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeOut()) }()
	if w.t.Host != "" {
		if w.ground, err = w.ground.On(w.t.Host); err != nil {
			return err
		}
	}
	if err := w.ground.Ready(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(s.Timeout), fmt.Errorf("it took longer than %s", s.Timeout))
	defer cancel()
	return w.script(ctx, s.Undo, out)
}
