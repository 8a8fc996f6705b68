package container

import "time"

// Answer is what a feature probe found. Unknown is not No: the probe could not
// be made, and the detail says why.
type Answer string

// The three answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Need says what a recovery is without a feature.
type Need string

// What a missing feature does: nothing starts; something is left out with a
// warning; or only some command, or nobody, misses it.
const (
	Required Need = "required"
	Degrades Need = "degrades"
	Optional Need = "optional"
)

// Feature is one thing that this host can or cannot do.
type Feature struct {
	Name   string `json:"name"`
	Have   Answer `json:"have"`
	Need   Need   `json:"need"`
	Detail string `json:"detail"`          // what was seen
	Means  string `json:"means,omitempty"` // what it means for a recovery and what to do; empty where all is well
}

// FeatureOptions names what Features looks at. Empty directories are the
// defaults; a zero TimeFloor makes the clock's answer unknown.
type FeatureOptions struct {
	StateDir  string    // see Host.State
	DataDir   string    // see Host.Data
	TimeFloor time.Time // it is certainly later than this
	Now       time.Time // the host's clock
}

// missing gives what a feature's absence means unless the answer is Yes.
func (f Feature) missing(means string) Feature {
	if f.Have != Yes {
		f.Means = means
	}
	return f
}

// answer is Yes for true and No for false.
func answer(have bool) Answer {
	if have {
		return Yes
	}
	return No
}
