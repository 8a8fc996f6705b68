package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// Layers is where [Site.Fetch] puts an image to be run from here.
const Layers = "layers"

// Fetched is what a fetch brought.
type Fetched struct {
	Name    string        `json:"name,omitempty"`
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"` // of the content, in bytes
	To      string        `json:"to"`
	Seconds float64       `json:"seconds"`
	fetch.Report
}

// Fetch gets an artifact of the kit by its name, or any bytes by their digest, to
// a place:
//
//	FILE                  the content; it appears there whole, or not at all
//	-                     the content, to out
//	oci:DIR[:TAG]         an image, as an OCI layout
//	docker-archive:FILE   an image, for docker load
//	Layers                an image, unpacked for run --image
//
// What arrived is told as well where it was not all.
func (s Site) Fetch(ctx context.Context, what, to string, out io.Writer) (_ Fetched, err error) {
	began := time.Now()
	what = strings.TrimPrefix(what, "kit:")
	byDigest := strings.HasPrefix(what, "sha256:")
	u, err := s.supply("fetching "+what, byDigest)
	if err != nil {
		return Fetched{}, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	f := Fetched{To: to}
	if transport, _, _ := strings.Cut(to, ":"); transport == "oci" || transport == "docker-archive" || to == Layers {
		err = s.fetchImage(ctx, u, what, &f)
	} else {
		err = u.fetchFile(ctx, what, &f, out)
	}
	f.Report = u.getter.Report()
	f.Seconds = time.Since(began).Seconds()
	if !byDigest {
		f.Name = what
	}
	return f, err
}

// fetchFile gets a file to f.To.
func (u *supply) fetchFile(ctx context.Context, what string, f *Fetched, out io.Writer) error {
	ref, err := u.ref(what)
	if err != nil {
		return err
	}
	if len(ref.Chunks) > 0 {
		u.getter.Expect(weight(ref.Chunks))
	}
	body, err := u.blob(ctx, ref, u.getter.Open)
	if err != nil {
		return err
	}
	f.Digest = ref.Digest
	if f.To == "-" {
		f.Size, err = io.Copy(out, body)
		return errors.Join(err, body.Close())
	}
	f.Size, err = writeFile(f.To, body)
	return errors.Join(err, body.Close())
}

// weight is how many bytes chunks have, as they travel.
func weight(chunks []fetch.Chunk) int64 {
	var n int64
	for _, c := range chunks {
		n += c.Size
	}
	return n
}

// writeFile makes a file of a stream. It is not there before all of it is.
func writeFile(path string, from io.Reader) (n int64, err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, ".blackstart-*")
	if err != nil {
		return 0, fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	n, err = io.Copy(tmp, from)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return n, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return n, fmt.Errorf("writing %s: %w", path, err)
	}
	return n, nil
}

// ref is what a name or a digest stands for: an artifact that is a file, any blob
// of the kit, or a blob of which nothing else is known.
func (u *supply) ref(what string) (fetch.Ref, error) {
	d, err := digest.Parse(what)
	if err != nil {
		a, err := u.artifact(what)
		if err == nil && a.Kind != kit.File {
			err = fmt.Errorf("%w: %s is an image: get it with -o oci:DIR, -o docker-archive:FILE or --unpack", ErrUsage, what)
		}
		if err != nil {
			return fetch.Ref{}, err
		}
		return fetchRef(a.Blobs[0]), nil
	}
	if u.kit != nil {
		for _, a := range u.kit.Document.Artifacts {
			for _, b := range a.Blobs {
				if b.Digest == d {
					return fetchRef(b), nil
				}
			}
		}
	}
	return fetch.Ref{Digest: d, Size: -1}, nil
}

// fetchImage gets an image to f.To.
func (s Site) fetchImage(ctx context.Context, u *supply, what string, f *Fetched) error {
	im, err := u.image(ctx, what)
	if err != nil {
		return err
	}
	m, _, err := im.Manifest(ctx)
	if err != nil {
		return err
	}
	f.Digest, f.Size = im.Target.Digest, im.Target.Size+m.Config.Size
	for _, l := range m.Layers {
		f.Size += l.Size
	}
	if f.To != Layers {
		return writeImage(ctx, im, f.To)
	}
	l, err := s.unpack(ctx, im)
	if err != nil {
		return err
	}
	return l.Close()
}

// Held is an artifact of the kit, and how much of it is on this host.
type Held struct {
	Name       string           `json:"name"`
	Kind       kit.ArtifactKind `json:"kind"`
	Digest     digest.Digest    `json:"digest"`
	Size       int64            `json:"size"`
	Frames     int              `json:"frames"`
	Missing    int              `json:"missing"` // frames, absent or damaged
	CapturedAt time.Time        `json:"captured_at"`
}

// Holdings lists the kit's artifacts. Every frame of them is read.
func (s Site) Holdings(ctx context.Context) (_ []Held, err error) {
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	gaps, err := k.Missing(ctx, k.Document.Artifacts)
	if err != nil {
		return nil, err
	}
	missing := map[string]int{}
	for _, g := range gaps {
		for _, name := range g.Artifacts {
			missing[name]++
		}
	}
	held := []Held{}
	for _, a := range k.Document.Artifacts {
		held = append(held, Held{
			Name: a.Name, Kind: a.Kind, Digest: a.Digest, Size: a.Size,
			Frames: len(kit.Frames(a)), Missing: missing[a.Name], CapturedAt: a.CapturedAt,
		})
	}
	return held, nil
}
