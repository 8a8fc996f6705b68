package runbooks

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// What a step gets that says nothing else.
const (
	DefaultTimeout = Duration(10 * time.Minute)
	DefaultWithin  = Duration(time.Minute)
)

// Selection is a part of a runbook. What is not in it is taken as done. Steps are given by their names, or by
// their numbers as documents show them, from 1.
type Selection struct {
	Only []string // these; all if there are none
	From string   // this one and those that come after it in the plan
}

// Plan is what is to be done, variables replaced, in an order that keeps every need.
type Plan struct {
	Tasks []Task
}

// Task is a step on one host.
type Task struct {
	ID     string     // the step's name, and " @ " and the host's where it has one; the same in every plan of a runbook
	Number int        // of the step in the file, from 1
	Host   string     // "" is here
	Addr   netip.Addr // of Host
	Wave   int        // from 0; those of one wave need none of each other
	Needs  []string   // IDs of tasks of this plan
	// Env is the variables for the step's shell texts, K=V. It may hold secrets.
	Env []string
	// Step has its variables replaced in all but shell texts, and its defaults in Timeout and WaitFor.Within. It may
	// hold secrets.
	Step *Step
}

// Plan orders a runbook's steps. The same runbook, values and selection always give the same plan.
//
// Errors: ErrInvalid for a selection that names no step, for needs that cannot be kept, and for values that make a
// step invalid.
func (b *Bound) Plan(sel Selection) (*Plan, error) { return b.plan(b.Steps, sel) }

// Given orders the steps that lay out a rehearsal's dead service, with the values of its runbook.
//
// Errors: as of Plan.
func (b *Bound) Given(h *Rehearsal) (*Plan, error) { return b.plan(h.Given, Selection{}) }

// Healthy is what a rehearsal asks of the service, variables replaced in all but commands, with the variables for
// commands as K=V.
//
// Errors: ErrInvalid for values that make a probe invalid.
func (b *Bound) Healthy(h *Rehearsal) (probes []*Probe, env []string, err error) {
	var texts []string
	for _, p := range h.Healthy {
		q, err := b.probe(p, "")
		if err != nil {
			return nil, nil, err
		}
		probes, texts = append(probes, q), append(texts, p.Exec)
	}
	return probes, b.env("", texts...), nil
}

func (b *Bound) plan(steps []*Step, sel Selection) (*Plan, error) {
	after := needs(steps)
	wave, stuck := layers(after)
	if len(stuck) > 0 {
		return nil, fmt.Errorf("%w: step %q can never start: its needs are a cycle", ErrInvalid, steps[stuck[0]].Name)
	}
	chosen, order, err := sel.choose(steps, after)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	for _, i := range order {
		if !chosen[i] {
			continue
		}
		s := steps[i]
		var wait []string
		for _, j := range after[i] {
			if chosen[j] {
				wait = append(wait, ids(steps[j])...)
			}
		}
		hosts := s.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for k, id := range ids(s) {
			done, err := b.step(s, hosts[k])
			if err != nil {
				return nil, fmt.Errorf("step %q: %w", s.Name, err)
			}
			p.Tasks = append(p.Tasks, Task{
				ID: id, Number: i + 1, Host: hosts[k], Addr: b.hosts[hosts[k]], Wave: wave[i], Needs: wait, Step: done,
				Env: b.env(hosts[k], s.Run, s.Check, s.When, s.Undo, done.exec()),
			})
		}
	}
	return p, nil
}

func (s *Step) exec() string {
	if s.WaitFor == nil {
		return ""
	}
	return s.WaitFor.Exec
}

// ids are those of a step's tasks, in the order of its hosts.
func ids(s *Step) []string {
	if len(s.Hosts) == 0 {
		return []string{s.Name}
	}
	all := make([]string, len(s.Hosts))
	for i, h := range s.Hosts {
		all[i] = s.Name + " @ " + h
	}
	return all
}

// choose says which steps are selected, and gives all in the plan's order: each after its needs, and else as the
// file has them.
func (sel Selection) choose(steps []*Step, after [][]int) (chosen map[int]bool, order []int, err error) {
	order = inOrder(after)
	chosen = map[int]bool{}
	for _, name := range sel.Only {
		i, err := find(steps, name)
		if err != nil {
			return nil, nil, err
		}
		chosen[i] = true
	}
	if len(sel.Only) == 0 {
		for i := range steps {
			chosen[i] = true
		}
	}
	if sel.From == "" {
		return chosen, order, nil
	}
	first, err := find(steps, sel.From)
	if err != nil {
		return nil, nil, err
	}
	for _, i := range order[:slices.Index(order, first)] {
		delete(chosen, i)
	}
	if len(chosen) == 0 {
		return nil, nil, fmt.Errorf("%w: nothing is left from step %q on", ErrInvalid, sel.From)
	}
	return chosen, order, nil
}

// find is the step of a name or number.
func find(steps []*Step, name string) (int, error) {
	if i := slices.IndexFunc(steps, func(s *Step) bool { return s.Name == name }); i >= 0 {
		return i, nil
	}
	if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= len(steps) {
		return n - 1, nil
	}
	return 0, fmt.Errorf("%w: no step %.80q%s", ErrInvalid, name, similar(name, steps))
}

// inOrder puts each after what it follows, and else keeps the order. There is no cycle.
func inOrder(after [][]int) []int {
	placed := make([]bool, len(after))
	order := make([]int, 0, len(after))
	var place func(int)
	place = func(i int) {
		if placed[i] {
			return
		}
		placed[i] = true
		for _, j := range slices.Sorted(slices.Values(after[i])) {
			place(j)
		}
		order = append(order, i)
	}
	for i := range after {
		place(i)
	}
	return order
}

// step is a copy of a step with its values on one host.
func (b *Bound) step(s *Step, host string) (*Step, error) {
	out := *s
	if s.With != nil {
		out.With = s.With.clone()
	}
	if s.WaitFor != nil {
		p, err := b.probe(s.WaitFor, host)
		if err != nil {
			return nil, err
		}
		out.WaitFor = p
	}
	if k := s.Kind(); out.Timeout == 0 && k != WaitFor && k != Confirm && k != Note {
		out.Timeout = DefaultTimeout
	}
	var errs []error
	plain := out
	plain.WaitFor = nil
	eachText(&plain, func(_ *node, t *string) {
		v, err := expand(*t, b.at(host))
		errs = append(errs, err)
		*t = v
	})
	out.Fetch, out.Confirm, out.Note = plain.Fetch, plain.Confirm, plain.Note
	if w := out.With; w != nil {
		if problem := w.problem(); problem != "" {
			errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, problem))
		}
		for _, check := range []string{w.Until, w.Health} {
			if check == "" {
				continue
			}
			if problem := checkProblem(check); problem != "" {
				errs = append(errs, fmt.Errorf("%w: %s", ErrInvalid, problem))
			}
		}
	}
	return &out, errors.Join(errs...)
}

// probe is a copy of a probe with its values on one host.
func (b *Bound) probe(p *Probe, host string) (*Probe, error) {
	out := *p
	if out.Within == 0 {
		out.Within = DefaultWithin
	}
	var errs []error
	eachProbeText(&out, func(_ *node, t *string) {
		v, err := expand(*t, b.at(host))
		errs = append(errs, err)
		*t = v
	})
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if problem := out.problem(); problem != "" {
		return nil, fmt.Errorf("%w: %s: %s", ErrInvalid, p.Kind(), problem)
	}
	return &out, nil
}

// clone copies what eachText changes.
func (w *With) clone() *With {
	out := *w
	for _, l := range []*[]string{&out.Command, &out.Args, &out.ReplaceArgs, &out.DropArgs, &out.Mounts, &out.Listen, &out.Upstream, &out.Names, &out.Addresses, &out.URIs} {
		*l = slices.Clone(*l)
	}
	out.Env, out.Overrides = maps.Clone(w.Env), maps.Clone(w.Overrides)
	return &out
}
