package drill

import (
	"time"

	"github.com/blackstart-project/blackstart/runbooks"
)

// Standing is where a drill stands.
type Standing struct {
	Drill   string            `json:"drill"`
	Runbook string            `json:"runbook"`
	As      string            `json:"as"`
	Outcome Outcome           `json:"outcome"`
	Elapsed float64           `json:"elapsed"` // seconds; the clock stands when it is back
	Within  runbooks.Duration `json:"within"`
	Healthy bool              `json:"healthy"`
	Why     string            `json:"why,omitempty"` // it is not
	Steps   []StepStanding    `json:"steps"`
}

// StepStanding is where a step stands.
type StepStanding struct {
	Step
	Done bool    `json:"done"`
	At   float64 `json:"at,omitempty"` // seconds after the beginning
	By   string  `json:"by,omitempty"` // command, check or probe
	Next bool    `json:"next"`
}

// NewStanding says where a drill stands now, or stood when it ended.
func NewStanding(d Drill, events []Event, now time.Time) Standing {
	s := Standing{Drill: d.ID, Runbook: d.Runbook, As: d.As, Outcome: d.Outcome(), Within: d.Within, Steps: []StepStanding{}}
	back := false
	for _, e := range events {
		switch e.Kind {
		case Health:
			s.Healthy, s.Why = e.Healthy, e.Text
			if e.Healthy && !back {
				s.Elapsed = e.At
			}
		case Recovered:
			back = true
		case CommandBegan, CommandEnded, Hint, StepSeen:
		}
	}
	switch {
	case d.End != nil:
		s.Elapsed = d.End.Took
	case back:
		s.Outcome = DidRecover
	case d.Running:
		s.Elapsed = max(now.Sub(d.Began).Seconds(), 0)
	case len(events) > 0:
		s.Elapsed = events[len(events)-1].At
	}
	p := d.Progress(events)
	next := p.Next()
	for i, st := range p.Steps {
		s.Steps = append(s.Steps, StepStanding{st.Step, st.Done, st.At, st.By, i == next && d.End == nil})
	}
	return s
}
