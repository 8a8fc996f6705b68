package recovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// ErrGaps is returned where a kit's frames are missing, or kept in too few places.
var ErrGaps = errors.New("the kit has gaps")

// AuditOptions says what an audit asks for.
type AuditOptions struct {
	Deep   bool          // read every byte of every source, rather than what it says of its sizes
	Copies int           // places that must have each artifact as a whole, this host included
	MaxAge time.Duration // since each artifact was captured; 0: any
}

// Audit is what is where of a kit.
type Audit struct {
	Name      string          `json:"name"`
	Epoch     uint64          `json:"epoch"`
	Digest    digest.Digest   `json:"digest"`
	Deep      bool            `json:"deep"`
	Places    []string        `json:"places"` // this host first, then the sources' URLs
	Artifacts []AuditArtifact `json:"artifacts"`
	Gaps      []AuditGap      `json:"gaps"`            // every frame that some place lacks
	Down      []AuditDown     `json:"down"`            // sources that cannot be asked
	Orphans   []digest.Digest `json:"nowhere"`         // frames that no place has
	Stale     []string        `json:"stale,omitempty"` // artifacts captured too long ago
}

// AuditArtifact is an artifact and how many places have all of it.
type AuditArtifact struct {
	Name       string           `json:"name"`
	Kind       kit.ArtifactKind `json:"kind"`
	Digest     digest.Digest    `json:"digest"`
	Size       int64            `json:"size"`
	CapturedAt time.Time        `json:"captured_at"`
	Frames     int              `json:"frames"`
	Lacking    []int            `json:"lacking"` // frames absent or wrong, for each place; -1: not known
	Copies     int              `json:"copies"`
}

// AuditGap is a frame that a place does not have as it should.
type AuditGap struct {
	kit.Chunk
	Place     string   `json:"place"`
	Artifacts []string `json:"artifacts"`
	Wrong     bool     `json:"wrong"` // it is there, with other bytes or another size
}

// AuditDown is a source that cannot be asked.
type AuditDown struct {
	Place string `json:"place"`
	Error string `json:"error"`
}

// thisHost is the first place of an audit.
const thisHost = "this host"

// AuditKit looks for every frame of a kit on this host, where every byte is read,
// and in every source. Errors, with what was found: ErrGaps, kit.ErrStale.
func (s Site) AuditKit(ctx context.Context, o AuditOptions) (_ Audit, err error) {
	u, err := s.supply("auditing", false)
	if err != nil {
		return Audit{}, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	doc := u.kit.Document
	a := Audit{
		Name: doc.Name, Epoch: doc.Epoch, Digest: u.kit.Digest, Deep: o.Deep, Places: []string{thisHost},
		Gaps: []AuditGap{}, Down: []AuditDown{}, Orphans: []digest.Digest{},
	}
	frames := kit.Frames(doc.Artifacts...)
	users := map[digest.Digest][]string{}
	for _, art := range doc.Artifacts {
		for _, c := range kit.Frames(art) {
			users[c.Digest] = append(users[c.Digest], art.Name)
		}
	}
	gaps, err := u.kit.Missing(ctx, doc.Artifacts)
	if err != nil {
		return a, err
	}
	lacks := []map[digest.Digest]bool{{}} // for each place; nil: not known
	for _, g := range gaps {
		lacks[0][g.Digest] = true
		a.Gaps = append(a.Gaps, AuditGap{g.Chunk, thisHost, g.Artifacts, g.Damaged})
	}
	for _, src := range u.sources {
		a.Places = append(a.Places, src.String())
		wrong, err := s.auditSource(ctx, src, frames, o.Deep)
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if err != nil {
			a.Down = append(a.Down, AuditDown{src.String(), err.Error()})
			lacks = append(lacks, nil)
			continue
		}
		lack := map[digest.Digest]bool{}
		for _, c := range frames {
			if w, ok := wrong[c.Digest]; ok {
				lack[c.Digest] = true
				a.Gaps = append(a.Gaps, AuditGap{c, src.String(), users[c.Digest], w})
			}
		}
		lacks = append(lacks, lack)
	}
	return a, s.judge(&a, o, doc.Artifacts, lacks)
}

// auditSource asks a source for every frame. It returns those that it lacks, true
// for what it has with other bytes; or why it cannot be asked.
func (s Site) auditSource(ctx context.Context, src fetch.Source, frames []kit.Chunk, deep bool) (map[digest.Digest]bool, error) {
	const atOnce, inARow = 4, 3
	var mu sync.Mutex
	lack := map[digest.Digest]bool{}
	failed := 0
	var done int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, c := range frames {
		g.Go(func() error {
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				err := fetch.Probe(ctx, src, c.Digest, c.Size, deep)
				mu.Lock()
				switch {
				case err == nil || errors.Is(err, fetch.ErrNotFound) || errors.Is(err, fetch.ErrVerification):
					failed = 0
					if err != nil {
						lack[c.Digest] = errors.Is(err, fetch.ErrVerification)
					}
					done++
					s.tell("asking "+src.String()+" for frames", done, int64(len(frames)))
					mu.Unlock()
					return nil
				case failed >= inARow || fatal(err):
					mu.Unlock()
					return err
				}
				failed++
				mu.Unlock()
			}
		})
	}
	return lack, g.Wait()
}

// fatal tells an error that another try would not mend.
func fatal(err error) bool {
	return errors.Is(err, fetch.ErrPeer) || errors.Is(err, fetch.ErrName)
}

// judge counts copies, and says what is wrong.
func (s Site) judge(a *Audit, o AuditOptions, artifacts []kit.Artifact, lacks []map[digest.Digest]bool) error {
	var errs []error
	few := 0
	for _, art := range artifacts {
		aa := AuditArtifact{Name: art.Name, Kind: art.Kind, Digest: art.Digest, Size: art.Size, CapturedAt: art.CapturedAt}
		frames := kit.Frames(art)
		aa.Frames = len(frames)
		for _, lack := range lacks {
			n := -1
			if lack != nil {
				n = 0
				for _, c := range frames {
					if lack[c.Digest] {
						n++
					}
				}
			}
			aa.Lacking = append(aa.Lacking, n)
			if n == 0 {
				aa.Copies++
			}
		}
		if aa.Copies < o.Copies {
			few++
		}
		if age := s.now().Sub(art.CapturedAt); o.MaxAge > 0 && age > o.MaxAge {
			a.Stale = append(a.Stale, art.Name)
		}
		a.Artifacts = append(a.Artifacts, aa)
	}
	for _, c := range kit.Frames(artifacts...) {
		if !slices.ContainsFunc(lacks, func(lack map[digest.Digest]bool) bool { return lack != nil && !lack[c.Digest] }) {
			a.Orphans = append(a.Orphans, c.Digest)
		}
	}
	if n := len(lacks[0]); n > 0 {
		errs = append(errs, fmt.Errorf("%w: %d frames are absent or damaged on this host", ErrGaps, n))
	}
	if few > 0 {
		errs = append(errs, fmt.Errorf("%w: %d artifacts have fewer than %d whole copies", ErrGaps, few, o.Copies))
	}
	if len(a.Stale) > 0 {
		errs = append(errs, fmt.Errorf("%w: captured more than %s ago: %v", kit.ErrStale, o.MaxAge, a.Stale))
	}
	return errors.Join(errs...)
}
