// Package drill proves beforehand that a recovery works: it runs runbooks in a
// vacuum, judges what became of the service, and finds out what it really needs.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/runbooks"
	"github.com/blackstart-project/blackstart/sandbox"
)

// Verdict is what a rehearsal proves.
type Verdict string

// The verdicts.
const (
	Pass       Verdict = "PASS"
	Fail       Verdict = "FAIL"
	Unresolved Verdict = "UNRESOLVED" // it could not be told: never a pass
)

// Options say how rehearsals are run.
type Options struct {
	Site      recovery.Site
	Catalogue sandbox.Catalogue
	Self      string    // this program's path
	Show      []string  // paths of the host that runbooks need to see
	Record    io.Writer // gets a JSON line for each attempt; may be nil
	Tell      func(recovery.StepEvent)
}

// Result is what became of a rehearsal.
type Result struct {
	Rehearsal  string                `json:"rehearsal"`
	Service    string                `json:"service"`
	File       string                `json:"file"`
	Verdict    Verdict               `json:"verdict"`
	Reason     string                `json:"reason,omitempty"` // of what is no pass
	Began      time.Time             `json:"began"`
	Took       time.Duration         `json:"took"` // from the first step until it was healthy
	Conditions []string              `json:"conditions"`
	Steps      []recovery.TaskResult `json:"steps"`
	Attempts   []sandbox.Attempt     `json:"attempts"`         // what was tried to be reached
	Hosts      []netip.Addr          `json:"hosts,omitempty"`  // its own, in the vacuum
	Suggest    []string              `json:"suggest"`          // what would have let the blocked attempts pass
	Output     string                `json:"output,omitempty"` // the end of what the steps printed
}

// Rehearse runs a rehearsal once, in a vacuum of its own where its conditions are
// all that can be reached. An error is one of this host or the caller's; what
// becomes of the service is in the result.
func Rehearse(ctx context.Context, o Options, file *runbooks.File, h *runbooks.Rehearsal, others ...*runbooks.File) (Result, error) {
	r := Result{Rehearsal: h.Title, Service: h.Service, File: file.Name, Began: time.Now().UTC(), Conditions: []string{}, Steps: []recovery.TaskResult{}, Attempts: []sandbox.Attempt{}, Suggest: []string{}}
	rb, err := file.Runbook(h, others...)
	if err != nil {
		return r, err
	}
	j, err := o.enter(ctx, rb, h)
	if errors.Is(err, sandbox.ErrUnresolved) {
		r.Verdict, r.Reason = Unresolved, err.Error()
		return r, nil
	}
	if err != nil {
		return r, err
	}
	r.Conditions = append(r.Conditions, j.reaches...)
	r.Hosts = j.v.Addresses()
	why := j.run(ctx, &r)
	attempts, closeErr := j.v.Close()
	r.Attempts = attempts
	for _, c := range sandbox.Suggest(attempts) {
		r.Suggest = append(r.Suggest, c.String())
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	r.Output = j.said.String()
	switch {
	case closeErr != nil || errors.Is(why, sandbox.ErrUnresolved):
		r.Verdict, r.Reason = Unresolved, j.bound.Masker().Text(errors.Join(closeErr, why).Error())
	case why != nil:
		r.Verdict, r.Reason = Fail, j.bound.Masker().Text(why.Error())
	default:
		r.Verdict = Pass
	}
	return r, nil
}

// judge is a rehearsal that is being run.
type judge struct {
	o       Options
	v       *recovery.Vacuum
	ground  recovery.Ground
	bound   *runbooks.Bound
	h       *runbooks.Rehearsal
	reaches []string // what its conditions name
	said    tail
}

// enter makes a rehearsal's vacuum: where its conditions are all that can be
// reached, and nothing was done yet.
func (o Options) enter(ctx context.Context, rb *runbooks.Runbook, h *runbooks.Rehearsal) (*judge, error) {
	j := &judge{o: o, h: h}
	var allow []sandbox.Capability
	for _, c := range h.Conditions {
		for _, name := range c.Names() {
			found, err := o.Catalogue.Resolve(name)
			if err != nil {
				return nil, err
			}
			j.reaches = append(j.reaches, name)
			allow = append(allow, found...)
		}
	}
	v, err := o.Site.Vacuum(ctx, recovery.VacuumOptions{
		Allow: allow, Dark: sandbox.ModeDrop, Record: o.Record, Show: append([]string{o.Self}, o.Show...),
		Hosts: max(h.Hardware.Hosts, len(rb.Hosts)), Memory: int64(h.Hardware.Memory), CPUs: h.Hardware.CPUs,
	})
	if err != nil {
		return nil, err
	}
	hosts := map[string]netip.Addr{}
	for i, a := range v.Addresses() {
		if i < len(rb.Hosts) {
			hosts[rb.Hosts[i]] = a
		}
	}
	if j.bound, err = rb.Bind(h.Vars, hosts); err != nil {
		_, closeErr := v.Close()
		return nil, errors.Join(err, closeErr)
	}
	j.v, j.ground = v, v.Ground(o.Self, rb.Hosts)
	return j, nil
}

// lay checks the tools and lays out the dead service.
func (j *judge) lay(ctx context.Context, ro recovery.RunbookOptions) error {
	for _, tool := range j.h.Tools {
		code, err := j.ground.Shell(ctx, `command -v "$tool"`, []string{"tool=" + tool}, "", io.Discard)
		if err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("the tool %s is not there", tool)
		}
	}
	given, err := j.bound.Given(j.h)
	if err != nil {
		return err
	}
	if _, err := recovery.RunTasks(ctx, ro, given.Tasks); err != nil {
		// Nothing was rehearsed: this says nothing of the runbook.
		return fmt.Errorf("%w: laying out the dead service: %w", sandbox.ErrUnresolved, err)
	}
	return nil
}

func (j *judge) keep(text string) {
	j.said.mu.Lock()
	defer j.said.mu.Unlock()
	j.said.b = append(j.said.b, text...)
	if n := len(j.said.b); n > 2*keepTail {
		j.said.b = slices.Delete(j.said.b, 0, n-keepTail)
	}
}

// run brings the service back and looks whether it is. nil: it is.
func (j *judge) run(ctx context.Context, r *Result) error {
	ro := recovery.RunbookOptions{Bound: j.bound, Ground: j.ground, Tell: j.o.Tell, Output: j.output, FirstWait: 100 * time.Millisecond}
	if err := j.lay(ctx, ro); err != nil {
		return err
	}
	began := time.Now()
	deadline := began.Add(time.Duration(j.h.Within))
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, fmt.Errorf("it is not back within %s", j.h.Within))
	defer cancel()
	done, err := recovery.RunPlan(ctx, ro)
	r.Steps = done.Tasks
	if err == nil {
		err = j.healthy(ctx, deadline)
	}
	r.Took = time.Since(began)
	if err == nil && j.h.Hold > 0 {
		err = j.hold(context.WithoutCancel(ctx))
	}
	return err
}

// healthy waits until all that makes the service healthy is true.
func (j *judge) healthy(ctx context.Context, deadline time.Time) error {
	probes, env, err := j.bound.Healthy(j.h)
	if err != nil {
		return err
	}
	for _, p := range probes {
		one := *p
		one.Within = runbooks.Duration(time.Until(deadline))
		if err := recovery.WaitFor(ctx, j.ground, &one, env); err != nil {
			return fmt.Errorf("it is not healthy: %s %s: %w", p.Kind(), p.Target(), err)
		}
	}
	return nil
}

// hold looks for as long as it says whether it stays so.
func (j *judge) hold(ctx context.Context) error {
	probes, env, err := j.bound.Healthy(j.h)
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Duration(j.h.Hold)); time.Now().Before(end); {
		for _, p := range probes {
			one, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := j.ground.Probe(one, p, env)
			cancel()
			if err != nil {
				return fmt.Errorf("it did not stay healthy for %s: %s %s: %w", j.h.Hold, p.Kind(), p.Target(), err)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}

// tail keeps the end of what the steps print.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const keepTail = 16 << 10 // bytes

func (t *tail) String() string { return strings.ToValidUTF8(string(t.b), "\uFFFD") }

func (j *judge) output(t runbooks.Task) (io.WriteCloser, error) {
	return &stepOutput{j: j, name: t.ID}, nil
}

// stepOutput collects a step's output, and hands it over when the step is over.
type stepOutput struct {
	j    *judge
	name string
	b    []byte
}

func (s *stepOutput) Write(b []byte) (int, error) {
	s.b = append(s.b, b...)
	if len(s.b) > 2*keepTail {
		s.b = slices.Delete(s.b, 0, len(s.b)-keepTail)
	}
	return len(b), nil
}

func (s *stepOutput) Close() error {
	if len(s.b) > 0 {
		s.j.keep("== " + s.name + "\n" + string(s.b))
	}
	return nil
}
