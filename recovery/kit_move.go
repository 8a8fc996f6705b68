package recovery

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// Pushed is what a push did.
type Pushed struct {
	Name     string        `json:"name"`
	To       string        `json:"to"`
	Manifest digest.Digest `json:"manifest"` // what a source without names is asked for
	Blobs    int           `json:"blobs"`
	Sent     int           `json:"sent"` // of them, those that were not there
	Bytes    int64         `json:"bytes"`
}

// PushKit copies a kit to a registry or a bucket, under its name. What is there
// already is not sent again, and the name is given last.
func (s Site) PushKit(ctx context.Context, o KitOptions, to fetch.Place) (_ Pushed, err error) {
	o.Unverified = true // whose signatures count is for those who use it
	k, err := s.OpenKit(o)
	if err != nil {
		return Pushed{}, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	if len(k.Signed.Signatures) == 0 {
		s.Log.Warn("nobody has signed this kit: others will not use it")
	}
	gaps, err := k.Missing(ctx, k.Document.Artifacts)
	if err != nil {
		return Pushed{}, err
	}
	if len(gaps) > 0 {
		return Pushed{}, fmt.Errorf("%w: %d frames are absent or damaged on this host", ErrGaps, len(gaps))
	}
	raw, m, err := k.Manifest(o.Name)
	if err != nil {
		return Pushed{}, err
	}
	net := s.From.Net
	net.Now, net.Names = s.now, kitNames(k.Document, net.Names)
	target, err := fetch.DialTarget(to, net)
	if err != nil {
		return Pushed{}, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	p := Pushed{Name: k.Document.Name, To: target.String(), Manifest: digest.FromBytes(raw)}
	if err := s.push(ctx, target, fetch.ViewStore(k.Dir()), append([]ocispec.Descriptor{m.Config}, m.Layers...), &p); err != nil {
		return p, err
	}
	if err := target.PutManifest(ctx, p.Name, ocispec.MediaTypeImageManifest, raw); err != nil {
		return p, fmt.Errorf("naming the kit in %s: %w", target, err)
	}
	return p, nil
}

// push sends the blobs that a target does not have.
func (s Site) push(ctx context.Context, target fetch.Target, from *fetch.Store, blobs []ocispec.Descriptor, p *Pushed) error {
	var total, done int64
	for _, d := range blobs {
		total += d.Size
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, d := range blobs {
		g.Go(func() error {
			n, err := target.Stat(ctx, d.Digest)
			if err != nil && !errors.Is(err, fetch.ErrNotFound) {
				return fmt.Errorf("asking %s for %s: %w", target, d.Digest, err)
			}
			there := err == nil && (n < 0 || n == d.Size)
			if !there {
				f, err := from.Open(d.Digest)
				if err != nil {
					return err
				}
				err = target.Put(ctx, d.Digest, d.Size, f)
				if err = errors.Join(err, f.Close()); err != nil {
					return fmt.Errorf("sending %s to %s: %w", d.Digest, target, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			p.Blobs++
			if !there {
				p.Sent++
				p.Bytes += d.Size
			}
			done += d.Size
			s.tell("sending kit "+p.Name, done, total)
			return nil
		})
	}
	return g.Wait()
}

// PullOptions says which kit to get.
type PullOptions struct {
	Kit  KitOptions // where it goes, and what is asked of it
	From fetch.Place
	// Manifest is the digest of the kit's manifest, for sources that know no names.
	Manifest digest.Digest
}

// Pulled is what a pull brought.
type Pulled struct {
	Verified
	Repair
}

// PullKit gets a kit into a layout, in place of the one of its name. It is checked
// before anything but its document is got, and takes the other's place when all of
// it is there; frames that the other has are not got again. The sources that it
// names help.
func (s Site) PullKit(ctx context.Context, o PullOptions) (_ Pulled, err error) {
	net := s.From.Net
	net.Now = s.now
	src, err := fetch.Dial(o.From, net)
	if err != nil {
		return Pulled{}, err
	}
	u := &supply{open: make(chan struct{}, maxOpen), sources: []fetch.Source{src}}
	defer func() { err = errors.Join(err, u.Close()) }()
	signed, err := s.readSigned(ctx, src, o)
	if err != nil {
		return Pulled{}, fmt.Errorf("reading the kit from %s: %w", src, err)
	}
	checked, err := s.checkKit(signed, o.Kit)
	if err != nil {
		return Pulled{}, err
	}
	doc := checked.Document
	dir := s.kitDir(o.Kit.Dir)
	layout, err := kit.CreateLayout(dir)
	if err != nil {
		return Pulled{}, err
	}
	u.kit = &Kit{Layout: layout, Checked: checked, Signed: signed}
	if err := s.connect(u, "getting kit "+doc.Name, doc, dir); err != nil {
		return Pulled{}, err
	}
	order, err := doc.Order()
	if err != nil {
		return Pulled{}, err
	}
	gaps, err := layout.Missing(ctx, order)
	if err != nil {
		return Pulled{}, err
	}
	var p Pulled
	p.Artifacts, err = s.fill(ctx, u, order, gaps)
	p.Report = u.getter.Report()
	if err != nil {
		return p, err
	}
	if err := layout.Store(doc.Name, signed); err != nil {
		return p, err
	}
	s.remember(checked)
	p.Verified, err = u.kit.verified(doc.Name)
	return p, err
}

// readSigned gets a kit's document and signatures.
func (s Site) readSigned(ctx context.Context, src fetch.Source, o PullOptions) (kit.Signed, error) {
	var raw []byte
	var err error
	target, named := src.(fetch.Target)
	switch {
	case o.Manifest != "":
		raw, err = fetch.ReadBlob(ctx, src, o.Manifest, maxManifest)
	case named && o.Kit.Name != "":
		raw, _, err = target.Manifest(ctx, o.Kit.Name)
	case named:
		return kit.Signed{}, fmt.Errorf("%w: which kit? Give --kit-name NAME", ErrUsage)
	default:
		return kit.Signed{}, fmt.Errorf("%w: this source knows no names: give --manifest sha256:HEX, as kit verify prints it where the kit is", ErrUsage)
	}
	if err != nil {
		return kit.Signed{}, err
	}
	m, err := kit.ParseManifest(raw)
	if err != nil {
		return kit.Signed{}, err
	}
	var signed kit.Signed
	if signed.Document, err = fetch.ReadBlob(ctx, src, m.Layers[0].Digest, kit.MaxDocument); err != nil {
		return kit.Signed{}, err
	}
	for _, d := range m.Layers[1:] {
		if d.MediaType != kit.MediaTypeSignature {
			continue
		}
		sig, err := fetch.ReadBlob(ctx, src, d.Digest, d.Size)
		if err != nil {
			return kit.Signed{}, err
		}
		signed.Signatures = append(signed.Signatures, sig)
	}
	return signed, nil
}
