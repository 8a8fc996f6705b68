package drill

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Outcome is how a drill came out.
type Outcome string

// The outcomes.
const (
	DidRecover    Outcome = "recovered"
	DidNotRecover Outcome = "not recovered"
	CutOff        Outcome = "cut off" // its process was killed
	StillRunning  Outcome = "running"
)

// Outcome says how the drill came out.
func (d Drill) Outcome() Outcome {
	switch {
	case d.End == nil && d.Running:
		return StillRunning
	case d.End == nil:
		return CutOff
	case d.End.Recovered:
		return DidRecover
	}
	return DidNotRecover
}

// StepState is what an operator did with a step.
type StepState string

// The states of a step.
const (
	InOrder    StepState = "done"
	OutOfOrder StepState = "out of order" // before what it needs
	Skipped    StepState = "skipped"
	NotSeen    StepState = "not seen" // a question or a note, which leaves no trace
)

// lookLag is how many seconds later a check or a probe may see what was done.
const lookLag = 5

// StepScore is what became of a step.
type StepScore struct {
	ID     string    `json:"id"`
	Number int       `json:"number"`
	State  StepState `json:"state"`
	At     float64   `json:"at,omitempty"` // when it was seen done, in seconds after the beginning
	By     string    `json:"by,omitempty"` // command, check, probe or runbook
}

// Score is how a drill went.
type Score struct {
	Drill    string      `json:"drill"`
	Runbook  string      `json:"runbook"`
	As       string      `json:"as"`
	Team     string      `json:"team,omitempty"`
	Began    time.Time   `json:"began"`
	Outcome  Outcome     `json:"outcome"`
	Why      string      `json:"why,omitempty"`
	Took     float64     `json:"took"`   // seconds: to recover, or else until the end
	Within   float64     `json:"within"` // seconds
	Late     bool        `json:"late"`
	Lost     bool        `json:"lost"`    // it was back, and at the end not healthy any more
	Earlier  int         `json:"earlier"` // drills of the runbook that recovered, before this one
	Best     float64     `json:"best,omitempty"`
	Median   float64     `json:"median,omitempty"`
	Blind    bool        `json:"blind"` // what was typed is not known
	Steps    []StepScore `json:"steps"`
	Commands int         `json:"commands"`
	Failed   []Command   `json:"failed"`
	Outside  []Command   `json:"outside"` // the runbook
	Hints    []StepHint  `json:"hints"`
	Dark     []Dark      `json:"dark"`
	Unproven string      `json:"unproven,omitempty"`
}

// StepHint is a hint that was asked for.
type StepHint struct {
	At   float64 `json:"at"`
	Step string  `json:"step,omitempty"`
}

// NewScore scores a drill against its runbook and, of all the drills given, the
// earlier ones of the same runbook.
func NewScore(d Drill, events []Event, all []Drill) Score {
	s := Score{
		Drill: d.ID, Runbook: d.Runbook, As: d.As, Team: d.Team, Began: d.Began, Outcome: d.Outcome(), Within: time.Duration(d.Within).Seconds(),
		Blind: d.Blind, Steps: []StepScore{}, Failed: []Command{}, Outside: []Command{}, Hints: []StepHint{}, Dark: []Dark{},
	}
	switch {
	case d.End != nil:
		s.Took, s.Why, s.Unproven = d.End.Took, d.End.Why, d.End.Unproven
		s.Dark = append(s.Dark, d.End.Dark...)
	case len(events) > 0:
		s.Took = events[len(events)-1].At
	}
	s.Late = s.Took > s.Within
	var before []float64
	for _, e := range all {
		if e.Service == d.Service && e.Runbook == d.Runbook && e.ID != d.ID && e.Began.Before(d.Began) && e.Outcome() == DidRecover {
			before = append(before, e.End.Took)
		}
	}
	if s.Earlier = len(before); s.Earlier > 0 {
		s.Best, s.Median = slices.Min(before), median(before)
	}
	p := d.Progress(events)
	for i := range p.Steps {
		s.Steps = append(s.Steps, p.score(i, d.Blind))
	}
	s.Commands = len(p.Commands)
	for _, c := range p.Commands {
		if c.Ended && c.Status != 0 {
			s.Failed = append(s.Failed, c)
		}
		if c.Step == "" && !c.Whole {
			s.Outside = append(s.Outside, c)
		}
	}
	for _, e := range events {
		switch e.Kind {
		case Hint:
			s.Hints = append(s.Hints, StepHint{e.At, e.Step})
		case Health:
			s.Lost = !e.Healthy && s.Outcome == DidRecover
		case CommandBegan, CommandEnded, StepSeen, Recovered:
		}
	}
	return s
}

func (p Progress) score(n int, blind bool) StepScore {
	st := p.Steps[n]
	s := StepScore{ID: st.ID, Number: st.Number, State: Skipped}
	switch {
	case st.Done:
		s.State, s.At, s.By = InOrder, st.At, st.By
		began := cmp.Or(max(st.Began, 0), st.At)
		for _, i := range p.needs(n) {
			need := p.Steps[i]
			if need.By != "command" {
				need.At -= lookLag
			}
			if st.By == "command" && (!need.Done || need.At > began) {
				s.State = OutOfOrder
			}
		}
	case !st.Seen(), blind:
		s.State = NotSeen
	}
	return s
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}

// Count is how many steps are in a state.
func (s Score) Count(state StepState) int {
	n := 0
	for _, st := range s.Steps {
		if st.State == state {
			n++
		}
	}
	return n
}

// Seconds is a time of a score for people.
func Seconds(s float64) time.Duration {
	if math.IsNaN(s) || s < 0 || s > 1e8 {
		return 0
	}
	d := time.Duration(s * float64(time.Second))
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}
