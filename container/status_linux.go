package container

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runc/libcontainer"
)

// State is what a container is doing.
type State string

// The states. A restarting container waits for its next start.
const (
	StateCreating   State = "creating"
	StateRunning    State = "running"
	StatePaused     State = "paused"
	StateRestarting State = "restarting"
	StateExited     State = "exited"
)

// Status is what is known of a container at this moment.
type Status struct {
	Name       string    `json:"name"`
	State      State     `json:"state"`
	PID        int       `json:"pid,omitempty"` // of the first process, on the host
	Detached   bool      `json:"detached"`
	Supervised bool      `json:"supervised"` // false: nobody watches it, though it may run
	Health     string    `json:"health,omitempty"`
	HealthLast string    `json:"health_last,omitempty"`
	Restarts   int       `json:"restarts"`
	Created    time.Time `json:"created"`
	Started    time.Time `json:"started,omitzero"`
	NextTry    time.Time `json:"next_try,omitzero"`
	Exit       *Exit     `json:"exit,omitempty"`
	Image      string    `json:"image"` // where its root filesystem is from
	Command    []string  `json:"command"`
}

// Status looks at the container's files and processes. It never fails: what
// cannot be read is left out.
func (c *Container) Status() Status {
	s := c.rec.Spec
	st := Status{Name: c.name, State: StateExited, Detached: c.rec.Detached, Created: c.rec.Created, Image: s.Image, Command: s.Args}
	if st.Image == "" {
		st.Image = s.From
	}
	if st.Image == "" {
		st.Image = s.Rootfs
	}
	var now record
	if err := readJSON(c.path("record.json"), &now); errors.Is(err, os.ErrNotExist) {
		st.Exit = &Exit{Code: -1, Reason: "removed"}
		return st
	} else if err == nil {
		c.rec.Phase = now.Phase
	}
	st.Supervised = c.lock != nil || c.supervised()
	lib, err := libcontainer.Load(c.host.State, c.name)
	if err == nil {
		if ls, err := lib.Status(); err == nil && ls != libcontainer.Stopped {
			if state, err := lib.State(); err == nil {
				st.PID, st.Started = state.InitProcessPid, state.Created
			}
			st.State = map[libcontainer.Status]State{libcontainer.Created: StateCreating, libcontainer.Running: StateRunning, libcontainer.Paused: StatePaused}[ls]
		}
	}
	var l live
	if readJSON(c.path("live.json"), &l) == nil {
		st.Restarts = l.Restarts
		if st.State == StateExited && st.Supervised {
			st.State, st.NextTry = StateRestarting, l.NextTry
		}
	}
	if st.State == StateRunning {
		var h healthState
		if readJSON(c.path("health.json"), &h) == nil {
			st.Health, st.HealthLast = h.State, h.Last
		}
		return st
	}
	if st.State == StateExited && st.Supervised && c.rec.Phase != exited {
		st.State = StateCreating
	}
	var e Exit
	if readJSON(c.path("exit.json"), &e) == nil {
		st.Exit, st.Started = &e, e.Started
	}
	return st
}

// StatePath is the directory in which runc finds the container.
func (c *Container) StatePath() string { return filepath.Join(c.host.State, c.name) }
