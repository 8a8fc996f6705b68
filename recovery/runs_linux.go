package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/recovery/journal"
	"github.com/blackstart-project/blackstart/runbooks"
)

// RunInputs are what a run is started with.
type RunInputs struct {
	Vars     map[string]string
	Hosts    map[string]Login
	Pins     []digest.Digest // of host keys, for hosts that have none of their own
	Select   runbooks.Selection
	TakeOver bool // end the run that is under way, rather than to refuse
	Confirm  func(context.Context, string) (bool, error)
	Tell     func(StepEvent)
	Started  func(id string)
}

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
	Dir      string       `json:"dir"`
}

// Done says whether every task is over.
func (r Run) Done() bool {
	return !slices.ContainsFunc(r.Tasks, func(t TaskResult) bool { return !t.State.over() })
}

// began is the first entry of a run's journal. Secrets are not in it: a run that
// goes on needs them again.
type began struct {
	Title   string             `json:"title"`
	Service string             `json:"service"`
	Digest  string             `json:"digest"`
	Vars    map[string]string  `json:"vars"`
	Hosts   map[string]Login   `json:"hosts,omitempty"`
	Select  runbooks.Selection `json:"select"`
	Process int                `json:"process"`
}

const (
	runbookCopy = "runbook.yaml"
	runJournal  = "journal.jsonl"
	runTime     = "20060102T150405.000"
	maxOutput   = 16 << 20 // of a step's output that is kept, in bytes
)

func (s Site) runsDir() string { return filepath.Join(s.Host.Data, "runs") }

// StartRunbook runs a runbook from its beginning. The file is kept, so that a run
// that is cut off goes on with the same one.
func (s Site) StartRunbook(ctx context.Context, file *runbooks.File, raw []byte, rb *runbooks.Runbook, in RunInputs) (Run, error) {
	bound, err := rb.Bind(in.Vars, Addresses(in.Hosts))
	if err != nil {
		return Run{}, err
	}
	unlock, err := s.lockRuns(ctx, rb.Service, in.TakeOver)
	if err != nil {
		return Run{}, err
	}
	defer unlock()
	id := rb.Service + "/" + s.now().UTC().Format(runTime)
	dir := filepath.Join(s.runsDir(), filepath.FromSlash(id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Run{}, fmt.Errorf("beginning a run: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, runbookCopy), raw, 0o600); err != nil {
		return Run{}, fmt.Errorf("beginning a run: %w", err)
	}
	b := began{Title: rb.Title, Service: rb.Service, Digest: file.Digest, Vars: map[string]string{}, Hosts: in.Hosts, Select: in.Select, Process: os.Getpid()}
	for name, value := range in.Vars {
		if v := rb.Vars[name]; v != nil && !v.Secret {
			b.Vars[name] = value
		}
	}
	return s.goOn(ctx, id, b, bound, nil, in)
}

// ResumeRun goes on with a run that stopped; "" is the latest one that is not done.
// What is done is looked at again where that can be, and not repeated. Secrets have
// to be given again; a host that has come back elsewhere may be.
func (s Site) ResumeRun(ctx context.Context, id string, in RunInputs) (Run, error) {
	if id == "" {
		all, err := s.Runs()
		if err != nil {
			return Run{}, err
		}
		i := slices.IndexFunc(all, func(r Run) bool { return !r.Done() })
		if i < 0 {
			return Run{}, fmt.Errorf("%w that is not done", ErrNoRun)
		}
		id = all[i].ID
	}
	b, _, err := s.readRun(id)
	if err != nil {
		return Run{}, err
	}
	dir := filepath.Join(s.runsDir(), filepath.FromSlash(id))
	raw, err := os.ReadFile(filepath.Join(dir, runbookCopy))
	if err != nil {
		return Run{}, fmt.Errorf("reading the run's runbook: %w", err)
	}
	file, err := runbooks.Parse(filepath.Join(dir, runbookCopy), raw)
	if err != nil {
		return Run{}, err
	}
	i := slices.IndexFunc(file.Runbooks, func(r *runbooks.Runbook) bool { return r.Title == b.Title })
	if i < 0 || file.Digest != b.Digest {
		return Run{}, fmt.Errorf("%w: the runbook in %s is not the one that the run began with", ErrNoRun, dir)
	}
	rb := file.Runbooks[i]
	for name, value := range in.Vars {
		if v := rb.Vars[name]; v == nil || !v.Secret {
			return Run{}, fmt.Errorf("%w: only secrets are given again: %s", ErrUsage, name)
		}
		b.Vars[name] = value
	}
	if b.Hosts == nil {
		b.Hosts = map[string]Login{}
	}
	maps.Copy(b.Hosts, in.Hosts)
	bound, err := rb.Bind(b.Vars, Addresses(b.Hosts))
	if err != nil {
		return Run{}, err
	}
	unlock, err := s.lockRuns(ctx, rb.Service, in.TakeOver)
	if err != nil {
		return Run{}, err
	}
	defer unlock()
	// What another process did until its end counts as well.
	_, done, err := s.readRun(id)
	if err != nil {
		return Run{}, err
	}
	for name := range b.Vars {
		if v := rb.Vars[name]; v != nil && v.Secret {
			delete(b.Vars, name)
		}
	}
	b.Process = os.Getpid()
	before := map[string]bool{}
	for task, f := range done {
		before[task] = f.State.over()
	}
	return s.goOn(ctx, id, b, bound, before, in)
}

// goOn runs what is to be done, and writes it down.
func (s Site) goOn(ctx context.Context, id string, b began, bound *runbooks.Bound, done map[string]bool, in RunInputs) (Run, error) {
	dir := filepath.Join(s.runsDir(), filepath.FromSlash(id))
	j, err := journal.Open(filepath.Join(dir, runJournal))
	if err != nil {
		return Run{}, err
	}
	who := journal.Who{UID: os.Getuid(), SudoUser: os.Getenv("SUDO_USER"), SSH: os.Getenv("SSH_CONNECTION")}
	write := func(kind string, data any) error {
		_, err := j.Append(s.now(), kind, who, data)
		return err
	}
	if err := write("run", b); err != nil {
		return Run{}, errors.Join(fmt.Errorf("beginning a run: %w", err), j.Close())
	}
	if in.Started != nil {
		in.Started(id)
	}
	hosts := s.fleet(b.Hosts, in.Pins)
	defer hosts.Close()
	_, err = RunPlan(ctx, RunbookOptions{
		Bound: bound, Digest: b.Digest, Select: b.Select, Ground: hostGround{s, hosts}, Confirm: in.Confirm, Tell: in.Tell, Journal: write, Done: done,
		Output: func(t runbooks.Task) (io.WriteCloser, error) { return newOutput(dir, t) },
	})
	if werr := write("end", nil); err == nil {
		err = werr
	}
	err = errors.Join(err, j.Close())
	r, readErr := s.ShowRun(id)
	return r, errors.Join(err, readErr)
}

// lockRuns makes this process the one that runs this service's runbooks.
func (s Site) lockRuns(ctx context.Context, service string, takeOver bool) (func(), error) {
	dir := filepath.Join(s.runsDir(), service)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("beginning a run: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("beginning a run: %w", err)
	}
	asked := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		pid := lockHolder(f)
		switch {
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("locking the runs of %s: %w", service, err), f.Close())
		case !takeOver:
			return nil, errors.Join(fmt.Errorf("%w: %s, by process %d", ErrRunning, service, pid), f.Close())
		case !asked && pid > 0:
			asked = true
			s.Log.Info(fmt.Sprintf("asking process %d to stop after what it is at", pid))
			if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
				return nil, errors.Join(fmt.Errorf("ending process %d: %w", pid, err), f.Close())
			}
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid()))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // the lock goes with it
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func lockHolder(f *os.File) int {
	var b [20]byte
	n, _ := f.ReadAt(b[:], 0) // EOF is how it ends
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// readRun reads a run's journal: how it began, and the last word on each task.
func (s Site) readRun(id string) (began, map[string]finished, error) {
	var b began
	if !validRun(id) {
		return b, nil, fmt.Errorf("%w: %.100q", ErrNoRun, id)
	}
	path := filepath.Join(s.runsDir(), filepath.FromSlash(id), runJournal)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil, fmt.Errorf("%w: %s", ErrNoRun, id)
	} else if err != nil {
		return b, nil, err
	}
	defer f.Close()
	done := map[string]finished{}
	_, err = journal.Scan(f, journal.Head{}, func(e journal.Entry) error {
		switch e.Kind {
		case "run":
			v, err := decode[began](e.Data)
			b = v
			return err
		case "begin":
			v, err := decode[finished](e.Data)
			done[v.Task] = finished{Task: v.Task, State: StepRunning}
			return err
		case "step":
			v, err := decode[finished](e.Data)
			done[v.Task] = v
			return err
		}
		return nil
	})
	return b, done, err
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
	b, done, err := s.readRun(id)
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
	raw, err := os.ReadFile(filepath.Join(dir, runbookCopy))
	if err != nil {
		return r, fmt.Errorf("reading the run's runbook: %w", err)
	}
	file, err := runbooks.Parse(runbookCopy, raw)
	if err != nil {
		return r, err
	}
	i := slices.IndexFunc(file.Runbooks, func(rb *runbooks.Runbook) bool { return rb.Title == b.Title })
	if i < 0 {
		return r, fmt.Errorf("%w: its runbook %q is not in %s", ErrNoRun, b.Title, dir)
	}
	r.Contacts = file.Runbooks[i].Contacts
	for _, t := range tasksOf(file.Runbooks[i]) {
		f, ok := done[t]
		switch {
		case !ok:
			f = finished{Task: t, State: StepBlocked}
		case f.State == StepRunning && r.Process == 0:
			f.State, f.Error = StepFailed, "it was cut off"
		}
		r.Tasks = append(r.Tasks, TaskResult{t, f.State, f.Took, f.Tries, f.Error, f.Last})
	}
	return r, nil
}

// tasksOf are the IDs of all tasks of a runbook, in the file's order.
func tasksOf(rb *runbooks.Runbook) []string {
	var ids []string
	for _, s := range rb.Steps {
		if len(s.Hosts) == 0 {
			ids = append(ids, s.Name)
		}
		for _, h := range s.Hosts {
			ids = append(ids, s.Name+" @ "+h)
		}
	}
	return ids
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

// output keeps a task's output up to maxOutput, and says how much more there was.
type output struct {
	f    *os.File
	left int64
	lost int64
}

func newOutput(dir string, t runbooks.Task) (io.WriteCloser, error) {
	name := fmt.Sprintf("%02d", t.Number)
	if t.Host != "" {
		name += "-" + t.Host
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keeping the step's output: %w", err)
	}
	return &output{f: f, left: maxOutput}, nil
}

// Write never fails for a full disk: the step is more important than its output.
func (o *output) Write(b []byte) (int, error) {
	n := min(int64(len(b)), o.left)
	w, err := o.f.Write(b[:n])
	if err != nil {
		o.left = 0
	} else {
		o.left -= n
	}
	o.lost += int64(len(b) - w)
	return len(b), nil
}

func (o *output) Close() error {
	if o.lost > 0 {
		_, _ = fmt.Fprintf(o.f, "\n[%d bytes more are not kept]\n", o.lost) // as far as it goes
	}
	return o.f.Close()
}
