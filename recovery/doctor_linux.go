package recovery

import (
	"context"
	"fmt"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// Diagnosis says what this host can do for a recovery.
type Diagnosis struct {
	Ready    bool                `json:"ready"` // run would work
	Features []container.Feature `json:"features"`
	Stores   []FoundStore        `json:"stores"`
	Problems []string            `json:"problems"`
}

// FoundStore is one dead or living orchestrator's store.
type FoundStore struct {
	Kind       salvage.Kind `json:"kind"`
	Path       string       `json:"path"`
	Containers int          `json:"containers"`
	Images     int          `json:"images"`
}

// Doctor looks at the host without changing it.
func (s Site) Doctor(ctx context.Context, now time.Time) (Diagnosis, error) {
	d := Diagnosis{Ready: true, Stores: []FoundStore{}, Problems: []string{}}
	d.Features = container.Features(ctx, container.FeatureOptions{StateDir: s.Host.State, DataDir: s.Host.Data, TimeFloor: s.Built, Now: now})
	for _, f := range d.Features {
		if f.Need == container.Required && f.Have != container.Yes {
			d.Ready = false
		}
	}
	found, problems := salvage.Find(s.Root)
	for _, p := range problems {
		d.Problems = append(d.Problems, p.String())
	}
	for _, st := range found {
		l, err := st.List(ctx)
		if err != nil {
			d.Problems = append(d.Problems, fmt.Sprintf("%s in %s: %v", st.Kind(), st.Path(), err))
		}
		fs := FoundStore{Kind: st.Kind(), Path: st.Path(), Images: len(l.Images)}
		for _, c := range l.Containers {
			if !c.Sandbox {
				fs.Containers++
			}
		}
		d.Stores = append(d.Stores, fs)
		if err := st.Close(); err != nil {
			d.Problems = append(d.Problems, err.Error())
		}
	}
	return d, ctx.Err()
}
