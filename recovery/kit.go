package recovery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// KitOptions says which kit, and what is asked of it before it is used.
type KitOptions struct {
	Dir       string // of the layout; "" stands for DATA/kit
	Name      string // where a layout holds several
	Trust     string // file of trusted keys; "" stands for DATA/trust
	Threshold int    // how many of them must have signed

	AcceptStale, AcceptRollback bool
	// Unverified skips all of that: for looking at a kit, never for using it.
	Unverified bool

	// quiet leaves it to the caller to say what was accepted.
	quiet bool
}

// Kit is an open kit.
type Kit struct {
	*kit.Layout
	kit.Checked
	Signed kit.Signed
}

func (s Site) kitDir(dir string) string {
	if dir == "" {
		return filepath.Join(s.Host.Data, "kit")
	}
	return dir
}

// OpenKit opens a kit and decides whether it may be used. What was accepted in
// spite of its age is in the journal by then.
func (s Site) OpenKit(o KitOptions) (_ *Kit, err error) {
	layout, err := kit.OpenLayout(s.kitDir(o.Dir))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, layout.Close())
		}
	}()
	signed, err := layout.Load(o.Name)
	if err != nil {
		return nil, err
	}
	k := &Kit{Layout: layout, Signed: signed}
	if o.Unverified {
		k.Digest = signed.Digest()
		k.Document, err = kit.Parse(signed.Document, s.Version)
		return k, err
	}
	if k.Checked, err = s.checkKit(signed, o); err != nil {
		return nil, err
	}
	s.remember(k.Checked)
	return k, nil
}

// checkKit decides whether a kit may be used.
func (s Site) checkKit(signed kit.Signed, o KitOptions) (kit.Checked, error) {
	trust, err := s.readTrust(o.Trust)
	if err != nil {
		return kit.Checked{}, err
	}
	c, err := kit.Check(signed, kit.CheckOptions{
		Trust: trust, Threshold: max(o.Threshold, 1), Seen: s.seenDir(), Now: s.now(), Tool: s.Version,
		AcceptStale: o.AcceptStale, AcceptRollback: o.AcceptRollback,
	})
	if err == nil && !o.quiet {
		s.accepted(c)
	}
	return c, err
}

func (s Site) seenDir() string { return filepath.Join(s.Host.Data, "seen") }

// remember keeps older kits of the name from being used later.
func (s Site) remember(c kit.Checked) {
	if err := kit.Remember(s.seenDir(), c); err != nil {
		s.Log.Warn("an older kit of this name would not be noticed later", "error", err)
	}
}

func (s Site) readTrust(file string) (kit.Trust, error) {
	if file == "" {
		file = filepath.Join(s.Host.Data, "trust")
	}
	trust, err := kit.ReadTrust(file)
	if errors.Is(err, fs.ErrNotExist) {
		return trust, fmt.Errorf("%w: %s does not exist", ErrNoTrust, file)
	}
	return trust, err
}

// accepted writes down which refusals were overridden. In an outage the disk may
// be full or read-only: that is said, and stops nobody.
func (s Site) accepted(c kit.Checked) {
	for kind, why := range map[string]error{"accept-stale": c.Stale, "accept-rollback": c.Rollback} {
		if why == nil {
			continue
		}
		s.Log.Warn(why.Error())
		note := struct {
			Kit    string        `json:"kit"`
			Digest digest.Digest `json:"digest"`
			Why    string        `json:"why"`
		}{c.Document.Name, c.Digest, why.Error()}
		if err := s.record(kind, note); err != nil {
			s.Log.Warn("this is not in the journal", "error", err)
		}
	}
}

// KitService is the recovery specification of a service of the kit. One that names
// no image runs from the kit's image of the service.
func (s Site) KitService(name string) (_ container.Spec, err error) {
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		return container.Spec{}, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	for _, svc := range k.Document.Services {
		if svc.Name != name {
			continue
		}
		spec, err := container.ParseSpec(svc.Spec)
		if err != nil {
			return spec, fmt.Errorf("reading service %s of the kit: %w", name, err)
		}
		if spec.Image == "" && spec.Rootfs == "" && svc.Image != "" {
			spec.Image = "kit:" + svc.Image
		}
		if spec.Name == "" {
			spec.Name = svc.Name
		}
		return spec, nil
	}
	return container.Spec{}, fmt.Errorf("service %.100q: %w in the kit", name, kit.ErrNotFound)
}

// BuildKit makes a kit of a kit.yaml. signedAt is when, or zero for now.
func (s Site) BuildKit(ctx context.Context, file, dir string, epoch uint64, signedAt time.Time) (kit.Built, error) {
	tree, err := kit.ReadTree(file)
	if err != nil {
		return kit.Built{}, err
	}
	if signedAt.IsZero() {
		signedAt = s.now()
	}
	return kit.Build(ctx, tree, dir, kit.BuildOptions{
		Epoch: epoch, SignedAt: signedAt.UTC().Truncate(time.Second), Split: splitBlob,
		OpenImage: func(ctx context.Context, ref string) (*kit.ImageSource, error) {
			return s.imageSource(ctx, tree.Dir, ref)
		},
		Progress: func(artifact string, done int64) { s.tell("capturing "+artifact, done, 0) },
	})
}

// imageSource opens an image for a kit. A relative path is relative to kit.yaml.
func (s Site) imageSource(ctx context.Context, dir, ref string) (*kit.ImageSource, error) {
	transport, rest, _ := strings.Cut(ref, ":")
	if (transport == "oci" || transport == "docker-archive") && !filepath.IsAbs(rest) {
		ref = transport + ":" + filepath.Join(dir, rest)
	}
	im, closeImage, err := s.openImage(ctx, ref)
	if err != nil {
		return nil, err
	}
	c, err := im.Contents(ctx)
	if err != nil {
		return nil, errors.Join(err, closeImage())
	}
	src := &kit.ImageSource{Config: c.Config, Platform: c.Platform, CapturedAt: c.Created, Close: closeImage}
	for _, l := range c.Layers {
		src.Layers = append(src.Layers, kit.LayerSource{DiffID: l.DiffID, Open: l.Open})
	}
	return src, nil
}

// SignKit adds a signature to a kit.
func (s Site) SignKit(ctx context.Context, o KitOptions, key kit.KeyFile) (kit.Signed, error) {
	layout, err := kit.OpenLayout(s.kitDir(o.Dir))
	if err != nil {
		return kit.Signed{}, err
	}
	defer func() { _ = layout.Close() }() // only a directory's descriptor
	signed, err := layout.Load(o.Name)
	if err != nil {
		return signed, err
	}
	// What cannot be read should not carry anybody's signature.
	if _, err := kit.Parse(signed.Document, s.Version); err != nil {
		return signed, err
	}
	sig, err := kit.Sign(ctx, signed.Document, key)
	if err != nil {
		return signed, err
	}
	if err := layout.Sign(o.Name, sig); err != nil {
		return signed, err
	}
	signed.Signatures = append(signed.Signatures, sig)
	return signed, nil
}

// DiffKits compares two kits, whoever signed them.
func (s Site) DiffKits(a, b string) ([]kit.Change, error) {
	var docs [2]*kit.Document
	for i, dir := range []string{a, b} {
		k, err := s.OpenKit(KitOptions{Dir: dir, Unverified: true})
		if err != nil {
			return nil, fmt.Errorf("opening kit %s: %w", dir, err)
		}
		docs[i] = k.Document
		if err := k.Layout.Close(); err != nil {
			return nil, err
		}
	}
	return kit.Diff(docs[0], docs[1])
}

// fetchRef is a kit's blob in fetch's words.
func fetchRef(b kit.Blob) fetch.Ref {
	r := fetch.Ref{Digest: b.Digest, Size: b.Size}
	for _, c := range b.Chunks {
		r.Chunks = append(r.Chunks, fetch.Chunk(c))
	}
	return r
}

// Verified is what VerifyKit found.
type Verified struct {
	Name     string        `json:"name"`
	Epoch    uint64        `json:"epoch"`
	Digest   digest.Digest `json:"digest"`   // of the document
	Manifest digest.Digest `json:"manifest"` // by which a source that knows no names is asked for the kit
	Signers  []kit.Signer  `json:"signers"`
	Frames   int           `json:"frames"`
}

// VerifyKit opens a kit and reads every frame of it.
func (s Site) VerifyKit(ctx context.Context, o KitOptions) (_ Verified, err error) {
	k, err := s.OpenKit(o)
	if err != nil {
		return Verified{}, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	gaps, err := k.Missing(ctx, k.Document.Artifacts)
	if err != nil {
		return Verified{}, err
	}
	if len(gaps) > 0 {
		return Verified{}, fmt.Errorf("%w: %d frames are missing or damaged, the first of artifact %s", kit.ErrVerification, len(gaps), strings.Join(gaps[0].Artifacts, ", "))
	}
	return k.verified(o.Name)
}

func (k *Kit) verified(name string) (Verified, error) {
	raw, _, err := k.Layout.Manifest(name)
	return Verified{k.Document.Name, k.Document.Epoch, k.Digest, digest.FromBytes(raw), k.Signers, len(kit.Frames(k.Document.Artifacts...))}, err
}

// splitBlob cuts content into frames for a kit.
func splitBlob(ctx context.Context, content io.Reader, put func(digest.Digest, []byte) error) (kit.Blob, error) {
	r, err := fetch.Split(ctx, content, func(frame []byte, c fetch.Chunk) error { return put(c.Digest, frame) })
	b := kit.Blob{Digest: r.Digest, Size: r.Size}
	for _, c := range r.Chunks {
		b.Chunks = append(b.Chunks, kit.Chunk(c))
	}
	return b, err
}
