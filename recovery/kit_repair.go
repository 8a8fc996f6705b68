package recovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// Repair is what became of a kit's gaps.
type Repair struct {
	Artifacts []RepairedArtifact `json:"artifacts"` // in the order in which they were mended
	fetch.Report
}

// RepairedArtifact is an artifact that had gaps.
type RepairedArtifact struct {
	Name    string `json:"name"`
	Missing int    `json:"missing"` // frames, before
	Left    int    `json:"left"`    // frames, after
	Error   string `json:"error,omitempty"`
}

// RepairKit gets the frames that artifacts lack, and no others, each artifact after
// what it needs. Without names it is all artifacts. One that cannot be mended does
// not keep the others from it: then the error is ErrGaps.
func (s Site) RepairKit(ctx context.Context, names ...string) (_ Repair, err error) {
	u, err := s.supply("repairing", false)
	if err != nil {
		return Repair{}, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	if u.store.Dir() != u.kit.Dir() {
		return Repair{}, fmt.Errorf("repairing kit %s: this user cannot write there", u.kit.Dir())
	}
	order, err := u.kit.Document.Order(names...)
	if err != nil {
		return Repair{}, err
	}
	gaps, err := u.kit.Missing(ctx, order)
	if err != nil {
		return Repair{}, err
	}
	r := Repair{Artifacts: []RepairedArtifact{}}
	r.Artifacts, err = s.fill(ctx, u, order, gaps)
	r.Report = u.getter.Report()
	return r, err
}

// fill gets gaps, artifact by artifact.
func (s Site) fill(ctx context.Context, u *supply, order []kit.Artifact, gaps []kit.Gap) ([]RepairedArtifact, error) {
	left := map[kit.Chunk]bool{}
	var total int64
	for _, g := range gaps {
		left[g.Chunk] = true
		total += g.Size
	}
	u.getter.Expect(total)
	all := []RepairedArtifact{}
	var errs []error
	for _, a := range order {
		var want []fetch.Chunk
		for _, c := range kit.Frames(a) {
			if left[c] {
				want = append(want, fetch.Chunk(c))
			}
		}
		if len(want) == 0 {
			continue
		}
		ra := RepairedArtifact{Name: a.Name, Missing: len(want)}
		err := u.getter.Fill(ctx, want)
		for _, c := range want {
			if u.store.Has(c.Digest, c.Size) {
				delete(left, kit.Chunk(c))
			} else {
				ra.Left++
			}
		}
		if err != nil {
			ra.Error = err.Error()
			errs = append(errs, fmt.Errorf("%w: artifact %s lacks %d frames: %w", ErrGaps, a.Name, ra.Left, firstError(err)))
		}
		all = append(all, ra)
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
	}
	if len(all) > 0 {
		errs = append(errs, u.store.Sync())
	}
	return all, errors.Join(errs...)
}

// firstError is the first of errors that were joined: the others say the same of
// other frames.
func firstError(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) > 0 {
		return many.Unwrap()[0]
	}
	return err
}
