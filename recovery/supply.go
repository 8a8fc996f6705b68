package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/fetch"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// From says where the bytes that this host lacks come from.
type From struct {
	Kit    KitOptions
	Places []fetch.Place // asked before those that the kit names
	Net    fetch.Net     // its names go before the kit's
	Wait   time.Duration // how long to go on while nothing arrives
}

// supply gets blobs: those of the kit, or any whose digest is known.
type supply struct {
	kit     *Kit // nil: none
	store   *fetch.Store
	sources []fetch.Source
	getter  *fetch.Getter
	open    chan struct{} // an element for each blob that is being read
}

// maxOpen is how many blobs are got at once: each holds some frames in memory.
const maxOpen = 2

// supply opens the kit and the sources. Without a kit, or when there is none in
// the ordinary place and anyKit allows it, the sources are those that were named.
// what is told of as progress.
func (s Site) supply(what string, anyKit bool) (_ *supply, err error) {
	u := &supply{open: make(chan struct{}, maxOpen)}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Close())
		}
	}()
	u.kit, err = s.OpenKit(s.From.Kit)
	switch {
	case err == nil:
	case anyKit && s.From.Kit.Dir == "" && errors.Is(err, fs.ErrNotExist):
	case anyKit && s.From.Kit.Dir == "":
		s.Log.Warn("doing without the kit of this host: " + err.Error())
	default:
		return nil, err
	}
	dir := filepath.Join(s.Host.Data, "fetch")
	if u.kit != nil && writableDir(u.kit.Dir()) {
		dir = u.kit.Dir()
	}
	if u.kit == nil {
		return u, s.connect(u, what, nil, dir)
	}
	if dir != u.kit.Dir() {
		abs, err := filepath.Abs(u.kit.Dir())
		if err != nil {
			return nil, err
		}
		s.From.Places = append([]fetch.Place{{URL: "file:" + abs}}, s.From.Places...)
	}
	return u, s.connect(u, what, u.kit.Document, dir)
}

// connect makes the store in dir and the sources: those that were named, and those
// of a kit's document, if there is one.
func (s Site) connect(u *supply, what string, doc *kit.Document, dir string) error {
	store, err := fetch.OpenStore(dir)
	if err != nil {
		return err
	}
	if err := store.Sweep(s.now()); err != nil {
		s.Log.Warn("what an earlier fetch left is still there", "error", err)
	}
	places, net := s.From.Places, s.From.Net
	net.Now = s.now
	if doc != nil {
		places = slices.Concat(places, kitPlaces(doc))
		net.Names = kitNames(doc, net.Names)
	}
	for _, p := range places {
		src, err := fetch.Dial(p, net)
		if err != nil {
			return err
		}
		u.sources = append(u.sources, src)
	}
	u.store = store
	u.getter = fetch.NewGetter(store, u.sources, fetch.Options{Wait: s.From.Wait, Progress: s.fetching(what)})
	return nil
}

// fetching turns a fetch's progress into events.
func (s Site) fetching(what string) func(fetch.Progress) {
	return func(p fetch.Progress) {
		if p.WaitingFor != "" {
			s.Log.Info("process " + p.WaitingFor + " fetches the same: waiting for it")
			return
		}
		if s.Tell != nil {
			s.Tell(Event{What: what, Done: p.Done, Total: p.Total, From: p.Source, Rate: p.Rate})
		}
	}
}

func writableDir(dir string) bool {
	for _, d := range []string{"blobs", "blobs/sha256"} {
		if unix.Access(filepath.Join(dir, d), unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// kitPlaces is the sources of a kit, with what their servers are known by.
func kitPlaces(d *kit.Document) []fetch.Place {
	anchors := map[string]kit.Anchor{}
	for _, a := range d.Trust {
		anchors[a.Name] = a
	}
	var places []fetch.Place
	for _, src := range d.Sources {
		p := fetch.Place{URL: src.URL}
		if a := anchors[src.Trust]; a.CA != "" {
			p.CA = []byte(a.CA)
		} else if a.SPKI != "" {
			p.Pins = []digest.Digest{a.SPKI}
		}
		places = append(places, p)
	}
	return places
}

// kitNames adds the addresses of a kit's names to those that were given.
func kitNames(d *kit.Document, given map[string][]netip.Addr) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for _, n := range d.Names {
		for _, a := range n.Addresses {
			if addr, err := netip.ParseAddr(a); err == nil { // the kit was checked
				names[n.Name] = append(names[n.Name], addr)
			}
		}
	}
	maps.Copy(names, given)
	return names
}

// Close lets go of the kit and the sources.
func (u *supply) Close() error {
	var errs []error
	for _, src := range u.sources {
		errs = append(errs, src.Close())
	}
	if u.kit != nil {
		errs = append(errs, u.kit.Close())
	}
	return errors.Join(errs...)
}

// blob reads the content of a blob from its beginning to its end, by
// [fetch.Getter.Open] or [fetch.Getter.OpenFrames].
func (u *supply) blob(ctx context.Context, r fetch.Ref, open func(context.Context, fetch.Ref) (io.ReadCloser, error)) (io.ReadCloser, error) {
	select {
	case u.open <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	body, err := open(ctx, r)
	if err != nil {
		<-u.open
		return nil, err
	}
	return &supplied{ReadCloser: body, done: func() { <-u.open }}, nil
}

type supplied struct {
	io.ReadCloser
	done func()
}

// WriteTo implements io.WriterTo.
func (b *supplied) WriteTo(w io.Writer) (int64, error) { return io.Copy(w, b.ReadCloser) }

func (b *supplied) Close() error {
	err := b.ReadCloser.Close()
	if b.done != nil {
		b.done()
		b.done = nil
	}
	return err
}

// image is an image artifact of the kit, whose blobs are got when they are read.
func (u *supply) kitImage(a kit.Artifact) *image.Image {
	first := a.Blobs[0]
	blobs := map[digest.Digest]kit.Blob{}
	var total int64
	for _, b := range a.Blobs {
		blobs[b.Digest] = b
		total += weight(fetchRef(b).Chunks)
	}
	u.getter.Expect(total)
	return &image.Image{
		Name: a.Name, Target: ocispec.Descriptor{MediaType: first.MediaType, Digest: first.Digest, Size: first.Size},
		Provider: kitBlobs{u, blobs},
	}
}

// looseImage is an image that no kit has: its manifest is got now, the rest when it
// is read. A tag that moved, or a registry that lies, does not matter.
func (u *supply) looseImage(ctx context.Context, d digest.Digest) (*image.Image, error) {
	body, err := u.blob(ctx, fetch.Ref{Digest: d, Size: -1}, u.getter.Open)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("reading manifest: %w", err)
	}
	var m struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &m); err != nil || len(raw) > maxManifest {
		return nil, fmt.Errorf("reading %s: %w: this is not an image's manifest", d, image.ErrInvalid)
	}
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
		if m.Manifests != nil {
			m.MediaType = ocispec.MediaTypeImageIndex
		}
	}
	return &image.Image{
		Name: d.String(), Target: ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(raw))},
		Provider: kitBlobs{supply: u},
	}, nil
}

const maxManifest = 4 << 20 // of an image, in bytes

// kitBlobs is a content.Provider. Its readers read forward only.
type kitBlobs struct {
	supply *supply
	blobs  map[digest.Digest]kit.Blob // nil: those that the image names, whole
}

func (k kitBlobs) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	r := fetch.Ref{Digest: desc.Digest, Size: desc.Size}
	if k.blobs != nil {
		b, ok := k.blobs[desc.Digest]
		if !ok {
			return nil, fmt.Errorf("opening %s: %w in the kit's image", desc.Digest, kit.ErrNotFound)
		}
		r = fetchRef(b)
	}
	body, err := k.supply.blob(ctx, r, k.supply.getter.OpenFrames)
	if err != nil {
		return nil, err
	}
	return &forward{ReadCloser: body, size: r.Size}, nil
}

// forward makes a content.ReaderAt of a stream, for those who read from the
// beginning to the end.
type forward struct {
	io.ReadCloser
	at, size int64
}

func (f *forward) Size() int64 { return f.size }

func (f *forward) ReadAt(p []byte, off int64) (int, error) {
	if off != f.at {
		return 0, fmt.Errorf("reading at %d: only what follows %d can be read", off, f.at)
	}
	n, err := io.ReadFull(f.ReadCloser, p)
	f.at += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// image opens an image artifact by its name, or an image by its digest.
func (u *supply) image(ctx context.Context, name string) (*image.Image, error) {
	if d, err := digest.Parse(name); err == nil {
		return u.looseImage(ctx, d)
	}
	a, err := u.artifact(name)
	if err != nil {
		return nil, err
	}
	if a.Kind != kit.Image {
		return nil, fmt.Errorf("%w: %s of the kit is a file, not an image", ErrUsage, name)
	}
	return u.kitImage(a), nil
}

// openSupplied opens kit:NAME, or an image by its digest.
func (s Site) openSupplied(ctx context.Context, name string) (*image.Image, func() error, error) {
	u, err := s.supply("unpacking "+name, strings.HasPrefix(name, "sha256:"))
	if err != nil {
		return nil, nil, err
	}
	im, err := u.image(ctx, name)
	if err != nil {
		return nil, nil, errors.Join(err, u.Close())
	}
	return im, u.Close, nil
}

func (u *supply) artifact(name string) (kit.Artifact, error) {
	if u.kit == nil {
		return kit.Artifact{}, fmt.Errorf("artifact %.100q: %w: there is no kit", name, kit.ErrNotFound)
	}
	a, ok := u.kit.Document.Artifact(name)
	if !ok {
		return a, fmt.Errorf("artifact %.100q: %w in the kit", name, kit.ErrNotFound)
	}
	return a, nil
}
