package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// BuildOptions is what Build needs besides the tree.
type BuildOptions struct {
	// Epoch of the new kit; 0 stands for one more than that of the kit in the directory.
	Epoch uint64
	// SignedAt goes into the kit, in whole seconds. It has to be given.
	SignedAt time.Time
	// OpenImage opens an image by its reference in kit.yaml. Relative paths in it are relative to Tree.Dir.
	OpenImage func(ctx context.Context, ref string) (*ImageSource, error)
	// Split cuts content into chunks, hands each frame to put before it goes on, and returns the blob, without a
	// media type. The same content always gives the same frames.
	Split func(ctx context.Context, content io.Reader, put func(frame digest.Digest, b []byte) error) (Blob, error)
	// Progress hears of each artifact how many bytes of its content were read so far; it may be nil.
	Progress func(artifact string, done int64)
}

// ImageSource is an image as it is at rest.
type ImageSource struct {
	Config     []byte // the configuration's exact bytes
	Layers     []LayerSource
	Platform   string    // os/architecture[/variant]
	CapturedAt time.Time // zero if not known
	Close      func() error
}

// LayerSource is a layer of an image, the lowest first.
type LayerSource struct {
	DiffID digest.Digest // of the uncompressed tar
	Open   func(context.Context) (io.ReadCloser, error)
}

// Built says what Build did.
type Built struct {
	Document *Document
	Digest   digest.Digest
	Frames   int // in the kit
	Written  int // of them, those that were not there before
	Signed   int // signatures that an unchanged document keeps
}

// Build makes the kit of a tree in the layout directory dir, in place of the one that is there. The same tree, epoch
// and time give the same bytes. What the kit in dir has already is not written again, nor even read where its
// digest is known beforehand. Until all of the new kit is on disk the old one stays as it is, and an error leaves it
// so. The new kit is not signed, unless it is the old one to the byte.
//
// Errors: ErrInvalid; ErrVerification where a layer is not what its image says; ErrRollback where the kit in dir has
// a higher epoch, or this epoch with other content and a signature.
func Build(ctx context.Context, t Tree, dir string, o BuildOptions) (_ Built, err error) {
	l, err := CreateLayout(dir)
	if err != nil {
		return Built{}, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	unlock, err := l.lock()
	if err != nil {
		return Built{}, err
	}
	defer unlock()
	b := &builder{layout: l, tree: t, options: o, known: map[digest.Digest]Blob{}}
	built, err := b.build(ctx)
	if err != nil {
		return Built{}, fmt.Errorf("building kit %s: %w", t.Name, err)
	}
	return built, nil
}

type builder struct {
	layout  *Layout
	tree    Tree
	options BuildOptions
	known   map[digest.Digest]Blob // blobs that the layout holds, by their content
	written int
	read    int64 // of the content of the artifact at hand, in bytes
}

func (b *builder) build(ctx context.Context) (Built, error) {
	if b.options.SignedAt.IsZero() {
		return Built{}, fmt.Errorf("%w: no time to sign at", ErrInvalid)
	}
	old, oldDoc, err := b.old(ctx)
	if err != nil {
		return Built{}, err
	}
	doc, err := b.document(ctx)
	if err != nil {
		return Built{}, err
	}
	if err := number(doc, b.options.Epoch, oldDoc, old.Digest()); err != nil {
		return Built{}, err
	}
	raw, err := doc.Marshal()
	if err != nil {
		return Built{}, err
	}
	// What nobody could read must not replace what somebody can.
	if doc, err = Parse(raw, ""); err != nil {
		return Built{}, err
	}
	next := Signed{Document: raw}
	if oldDoc != nil && oldDoc.Epoch == doc.Epoch {
		if next.Digest() == old.Digest() {
			next.Signatures = old.Signatures
		} else if len(old.Signatures) > 0 {
			return Built{}, fmt.Errorf("%w: a kit with the epoch %d is signed already; take a higher one", ErrRollback, doc.Epoch)
		}
	}
	if err := b.layout.store(doc, next, doc.Name); err != nil {
		return Built{}, err
	}
	if err := b.layout.prune(); err != nil {
		return Built{}, fmt.Errorf("removing what the kit no longer needs: %w", err)
	}
	return Built{Document: doc, Digest: next.Digest(), Frames: len(Frames(doc.Artifacts...)), Written: b.written, Signed: len(next.Signatures)}, nil
}

// old reads the kit that is there, if there is one, and takes stock of the blobs that are whole.
func (b *builder) old(ctx context.Context) (Signed, *Document, error) {
	s, err := b.layout.Load(b.tree.Name)
	if errors.Is(err, ErrNotFound) {
		return Signed{}, nil, nil
	} else if err != nil {
		return Signed{}, nil, err
	}
	doc, err := Parse(s.Document, "")
	if err != nil {
		return Signed{}, nil, err
	}
	gaps, err := b.layout.Missing(ctx, doc.Artifacts)
	if err != nil {
		return Signed{}, nil, err
	}
	bad := map[digest.Digest]bool{}
	for _, g := range gaps {
		bad[g.Digest] = true
	}
	for _, a := range doc.Artifacts {
		for _, blob := range a.Blobs {
			if !slices.ContainsFunc(blob.Chunks, func(c Chunk) bool { return bad[c.Digest] }) {
				b.known[blob.Digest] = blob
			}
		}
	}
	return s, doc, nil
}

// number gives a document its epoch and what it follows.
func number(doc *Document, epoch uint64, old *Document, oldDigest digest.Digest) error {
	doc.Epoch = max(epoch, 1)
	switch {
	case old == nil:
	case epoch == 0 || epoch > old.Epoch:
		doc.Epoch = max(epoch, old.Epoch+1)
		doc.Previous = oldDigest
	case epoch == old.Epoch:
		doc.Previous = old.Previous
	default:
		return fmt.Errorf("%w: the kit that is there has the epoch %d", ErrRollback, old.Epoch)
	}
	return nil
}

// document makes the whole document but its epoch, and keeps the frames.
func (b *builder) document(ctx context.Context) (*Document, error) {
	t, at := b.tree, b.options.SignedAt.UTC().Truncate(time.Second)
	doc := &Document{
		MediaType: MediaType, Name: t.Name, SignedAt: at, MinTool: t.MinTool,
		Sources: t.Sources, Contacts: t.Contacts, Revoked: t.Revoked,
	}
	if t.FreshFor > 0 {
		doc.FreshUntil = at.Add(time.Duration(t.FreshFor))
	}
	// The small files first: a wrong path in them shows before gigabytes have been read.
	if err := b.texts(doc); err != nil {
		return nil, err
	}
	for _, ta := range t.Artifacts {
		a, err := b.artifact(ctx, ta)
		if err != nil {
			return nil, fmt.Errorf("artifact %s: %w", ta.Name, err)
		}
		doc.Artifacts = append(doc.Artifacts, a)
	}
	return doc, nil
}

func (b *builder) texts(doc *Document) error {
	t := b.tree
	for _, s := range t.Services {
		spec, err := s.Spec.read(t.Dir)
		if err != nil {
			return fmt.Errorf("service %s: %w", s.Name, err)
		}
		doc.Services = append(doc.Services, Service{Name: s.Name, Owner: s.Owner, ManagedBy: s.ManagedBy, Image: s.Image, Spec: spec})
	}
	for _, c := range t.Capabilities {
		spec, err := c.Spec.read(t.Dir)
		if err != nil {
			return fmt.Errorf("capability %s: %w", c.Name, err)
		}
		doc.Capabilities = append(doc.Capabilities, Capability{Name: c.Name, Service: c.Service, Spec: spec})
	}
	for _, n := range t.Names {
		name := Name{Name: n.Name, Addresses: n.Addresses, ObservedAt: doc.SignedAt}
		if n.Zone != "" {
			text, written, err := readText(t.Dir, n.Zone)
			if err != nil {
				return fmt.Errorf("name %s: %w", n.Name, err)
			}
			name.Zone, name.ObservedAt = string(text), written
		}
		if !n.ObservedAt.IsZero() {
			name.ObservedAt = n.ObservedAt
		}
		name.ObservedAt = name.ObservedAt.UTC().Truncate(time.Second)
		doc.Names = append(doc.Names, name)
	}
	for _, a := range t.Trust {
		anchor := Anchor{Name: a.Name, SPKI: a.SPKI}
		if a.CA != "" {
			text, _, err := readText(t.Dir, a.CA)
			if err != nil {
				return fmt.Errorf("trust %s: %w", a.Name, err)
			}
			anchor.CA = string(text)
		}
		doc.Trust = append(doc.Trust, anchor)
	}
	var err error
	if doc.Policy, err = readTexts(t.Dir, t.Policy); err == nil {
		doc.Runbooks, err = readTexts(t.Dir, t.Runbooks)
	}
	return err
}

func readTexts(dir string, paths []string) ([]Text, error) {
	var all []Text
	for _, p := range paths {
		b, _, err := readText(dir, p)
		if err != nil {
			return nil, err
		}
		all = append(all, Text{Name: filepath.Base(p), Text: string(b)})
	}
	return all, nil
}
