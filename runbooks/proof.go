package runbooks

import (
	"encoding/json"
	"errors"
	"time"
)

// Proof is what a rehearsal that passed leaves: the stamp on a document, and edges of the recovery graph. In JSON, a
// condition is a name, or {"any_of": [NAME, NAME]}.
type Proof struct {
	Service    string              `json:"service,omitempty"`
	Rehearsal  string              `json:"rehearsal"` // title
	At         time.Time           `json:"at"`
	Took       Duration            `json:"took"`
	Runs       []Duration          `json:"runs,omitempty"`  // how long each took, where there were several
	Steps      map[string]Duration `json:"steps,omitempty"` // by name: how long each took
	Conditions []Condition         `json:"conditions,omitempty"`
	Minimal    bool                `json:"minimal,omitempty"`  // without any one of the conditions it failed
	Attempts   []Attempted         `json:"attempts,omitempty"` // what was tried to be reached
	Commit     string              `json:"commit,omitempty"`
	Runbook    string              `json:"runbook"` // digest
	Kit        string              `json:"kit,omitempty"`
	Binary     string              `json:"binary"`
	Signer     string              `json:"signer,omitempty"`
	Stale      string              `json:"stale,omitempty"`    // why it does not hold any more
	Unsigned   string              `json:"unsigned,omitempty"` // why nobody who counts has signed it; "" as well where nobody asked
}

// Attempted is something that a rehearsal tried to reach.
type Attempted struct {
	To      string `json:"to"`                // a capability, or an endpoint that none covers
	Blocked bool   `json:"blocked,omitempty"` // and it passed all the same
	Count   int    `json:"count"`
}

// MarshalJSON writes a name, or any_of.
func (c Condition) MarshalJSON() ([]byte, error) {
	if c.Name != "" {
		return json.Marshal(c.Name)
	}
	return json.Marshal(map[string][]string{"any_of": c.AnyOf})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Condition) UnmarshalJSON(b []byte) error {
	if json.Unmarshal(b, &c.Name) == nil {
		return nil
	}
	var any struct {
		AnyOf []string `json:"any_of"`
	}
	if err := json.Unmarshal(b, &any); err != nil || len(any.AnyOf) < 2 {
		return errors.New("want a condition: a name, or any_of with two names or more")
	}
	c.AnyOf = any.AnyOf
	return nil
}
