package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	b, past, bound, unlock, err := s.takeRun(ctx, id, in)
	if err != nil {
		return Run{}, err
	}
	defer unlock()
	b.Process = os.Getpid()
	before := map[string]bool{}
	for task, f := range past.last {
		before[task] = f.State.over()
	}
	return s.goOn(ctx, id, b, bound, before, in)
}

// takeRun reads a run that was begun, binds its runbook again and takes charge of its
// service's runs, until unlock. What is left of steps that were cut off is ended. In p is
// also what another process did until its end.
func (s Site) takeRun(ctx context.Context, id string, in RunInputs) (b began, p past, bound *runbooks.Bound, unlock func(), err error) {
	if b, _, err = s.readRun(id); err == nil {
		bound, err = s.bindAgain(id, &b, in)
	}
	if err == nil {
		unlock, err = s.lockRuns(ctx, b.Service, in.TakeOver)
	}
	if err != nil {
		return b, p, bound, nil, err
	}
	if _, p, err = s.readRun(id); err == nil {
		err = s.endCutOff(ctx, id, p)
	}
	if err != nil {
		unlock()
	}
	return b, p, bound, unlock, err
}

// bindAgain binds the runbook that a run was begun with. Secrets, and hosts that have
// come back elsewhere, are those of in; b gets the hosts.
func (s Site) bindAgain(id string, b *began, in RunInputs) (*runbooks.Bound, error) {
	rb, err := s.runbookOf(id, *b)
	if err != nil {
		return nil, err
	}
	vars := maps.Clone(b.Vars)
	if vars == nil {
		vars = map[string]string{}
	}
	for name, value := range in.Vars {
		if v := rb.Vars[name]; v == nil || !v.Secret {
			return nil, fmt.Errorf("%w: only secrets are given again: %s", ErrUsage, name)
		}
		vars[name] = value
	}
	if b.Hosts == nil {
		b.Hosts = map[string]Login{}
	}
	maps.Copy(b.Hosts, in.Hosts)
	return rb.Bind(vars, Addresses(b.Hosts))
}

// goOn runs what is to be done, and writes it down.
func (s Site) goOn(ctx context.Context, id string, b began, bound *runbooks.Bound, done map[string]bool, in RunInputs) (Run, error) {
	dir := filepath.Join(s.runsDir(), filepath.FromSlash(id))
	j, err := journal.Open(filepath.Join(dir, runJournal))
	if err != nil {
		return Run{}, err
	}
	write := func(kind string, data any) error {
		_, err := j.Append(s.now(), kind, who(), data)
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
		Bound: bound, Digest: b.Digest, Run: id, Select: b.Select, Ground: hostGround{s, hosts}, Confirm: in.Confirm, Tell: in.Tell, Journal: write, Done: done,
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

// outputName is the file of a task's output: its step's number, from 1, and its host.
func outputName(step int, host string) string {
	if host != "" {
		host = "-" + host
	}
	return fmt.Sprintf("%02d%s.log", step, host)
}

// output keeps a task's output up to maxOutput, and says how much more there was.
type output struct {
	f    *os.File
	left int64
	lost int64
}

func newOutput(dir string, t runbooks.Task) (io.WriteCloser, error) {
	f, err := os.OpenFile(filepath.Join(dir, outputName(t.Number, t.Host)), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
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
