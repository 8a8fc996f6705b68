package recovery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/recovery/journal"
	"github.com/blackstart-project/blackstart/runbooks"
)

// Run is a run of a runbook, as its journal has it.
type Run struct {
	ID       string       `json:"id"` // SERVICE/TIME
	Title    string       `json:"title"`
	Service  string       `json:"service"`
	Digest   string       `json:"digest"` // of the runbook's file
	Began    time.Time    `json:"began"`
	Process  int          `json:"process,omitempty"` // that is at it
	Ended    time.Time    `json:"ended,omitzero"`
	Tasks    []TaskResult `json:"tasks"` // in the plan's order
	Contacts []string     `json:"contacts,omitempty"`
	Undo     []Undoing    `json:"undo,omitempty"` // what can be taken back, in the order of that
	Dir      string       `json:"dir"`
}

// Done says whether every task is over.
func (r Run) Done() bool {
	return !slices.ContainsFunc(r.Tasks, func(t TaskResult) bool { return !t.State.over() })
}

// readRun reads a run's journal: how it began, and the last word on each task.
func (s Site) readRun(id string) (began, past, error) {
	var b began
	var p past
	if !validRun(id) {
		return b, p, fmt.Errorf("%w: %.100q", ErrNoRun, id)
	}
	path := filepath.Join(s.runsDir(), filepath.FromSlash(id), runJournal)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, p, fmt.Errorf("%w: %s", ErrNoRun, id)
	} else if err != nil {
		return b, p, err
	}
	defer f.Close()
	p.last = map[string]finished{}
	_, err = journal.Scan(f, journal.Head{}, func(e journal.Entry) error {
		switch e.Kind {
		case "run":
			v, err := decode[began](e.Data)
			b = v
			return err
		case "undo":
			v, err := decode[undoing](e.Data)
			b.Process = v.Process
			return err
		}
		v, err := decode[finished](e.Data)
		switch e.Kind {
		case "begin":
			p.last[v.Task] = finished{Task: v.Task, State: StepRunning}
		case "undo-begin":
			p.last[v.Task] = finished{Task: v.Task, State: StepUndoing}
		case "step", "undo-step":
			p.ended(v)
		default:
			return nil
		}
		return err
	})
	return b, p, err
}

// past is what a run's journal says of its tasks.
type past struct {
	last map[string]finished // the last word on each
	done []string            // those whose work this run has done and not taken back, in the order of their ends
}

// ended takes in what became of a task.
func (p *past) ended(f finished) {
	p.last[f.Task] = f
	if f.State == StepDone || f.State == StepUndone {
		p.done = slices.DeleteFunc(p.done, func(t string) bool { return t == f.Task })
	}
	if f.State == StepDone {
		p.done = append(p.done, f.Task)
	}
}

// validRun says whether an id has the form of one: it becomes a path.
func validRun(id string) bool {
	service, at, ok := strings.Cut(id, "/")
	if !ok || service == "" || service[0] == '.' || strings.ContainsAny(service, "/\\\x00") {
		return false
	}
	_, err := time.Parse(runTime, at)
	return err == nil
}

// ShowRun says where a run stands, also while it is running.
func (s Site) ShowRun(id string) (Run, error) {
	b, past, err := s.readRun(id)
	if err != nil {
		return Run{}, err
	}
	_, at, _ := strings.Cut(id, "/")
	start, _ := time.Parse(runTime, at) // readRun has looked at it
	dir := filepath.Join(s.runsDir(), filepath.FromSlash(id))
	r := Run{ID: id, Title: b.Title, Service: b.Service, Digest: b.Digest, Began: start, Dir: dir, Tasks: []TaskResult{}}
	if f, err := os.Open(filepath.Join(s.runsDir(), b.Service, "lock")); err == nil {
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil && lockHolder(f) == b.Process {
			r.Process = b.Process
		}
		_ = f.Close() // only looked at
	}
	rb, err := s.runbookOf(id, b)
	if err != nil {
		return r, err
	}
	r.Contacts = rb.Contacts
	steps := map[string]*runbooks.Step{}
	for _, t := range tasksOf(rb) {
		steps[t.id] = t.step
		f, ok := past.last[t.id]
		switch {
		case !ok:
			f = finished{Task: t.id, State: StepBlocked}
		case f.State == StepRunning && r.Process == 0:
			f.State, f.Error = StepFailed, "it was cut off"
		case f.State == StepUndoing && r.Process == 0:
			f.State, f.Error = StepFailed, "it was cut off while it was taken back"
		}
		res := TaskResult{ID: t.id, State: f.State, Took: f.Took, Attempt: f.Tries, Error: f.Error, Last: f.Last}
		if log := filepath.Join(dir, outputName(t.number, t.host)); exists(log) {
			res.Log = log
		}
		r.Tasks = append(r.Tasks, res)
	}
	for _, t := range slices.Backward(past.done) {
		if step := steps[t]; step != nil && step.Undo != "" {
			r.Undo = append(r.Undo, Undoing{t, step.Undo})
		}
	}
	return r, nil
}

// runbookOf is the runbook that a run was begun with.
func (s Site) runbookOf(id string, b began) (*runbooks.Runbook, error) {
	path := filepath.Join(s.runsDir(), filepath.FromSlash(id), runbookCopy)
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the run's runbook: %w", err)
	}
	file, err := runbooks.Parse(path, raw)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(file.Runbooks, func(rb *runbooks.Runbook) bool { return rb.Title == b.Title })
	if i < 0 || file.Digest != b.Digest {
		return nil, fmt.Errorf("%w: the runbook in %s is not the one that the run began with", ErrNoRun, path)
	}
	return file.Runbooks[i], nil
}

// runTask is a task as a run's journal knows it.
type runTask struct {
	id     string
	step   *runbooks.Step
	number int
	host   string
}

// tasksOf are all tasks of a runbook, in the file's order.
func tasksOf(rb *runbooks.Runbook) []runTask {
	var all []runTask
	for i, s := range rb.Steps {
		if len(s.Hosts) == 0 {
			all = append(all, runTask{s.Name, s, i + 1, ""})
		}
		for _, h := range s.Hosts {
			all = append(all, runTask{s.Name + " @ " + h, s, i + 1, h})
		}
	}
	return all
}

// Runs lists the runs of this host, the latest first.
func (s Site) Runs() ([]Run, error) {
	dirs, err := filepath.Glob(filepath.Join(s.runsDir(), "*", "*", runJournal))
	if err != nil {
		return nil, err
	}
	runs := []Run{}
	var errs []error
	for _, d := range dirs {
		rel, err := filepath.Rel(s.runsDir(), filepath.Dir(d))
		if err != nil {
			return nil, err
		}
		r, err := s.ShowRun(filepath.ToSlash(rel))
		if err != nil {
			errs = append(errs, fmt.Errorf("run %s: %w", rel, err))
			continue
		}
		runs = append(runs, r)
	}
	slices.SortFunc(runs, func(a, b Run) int { return b.Began.Compare(a.Began) })
	if len(runs) == 0 {
		return runs, errors.Join(errs...)
	}
	for _, err := range errs {
		s.Log.Warn("passed over", "error", err)
	}
	return runs, nil
}
