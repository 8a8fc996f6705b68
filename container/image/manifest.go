package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxDocument bounds every JSON document, in bytes; registries use the same bound.
	maxDocument = 4 << 20
	// maxNesting bounds how deep an index may point to another index.
	maxNesting = 4
	// maxLayers is the kernel's bound on the layers of one overlay (OVL_MAX_STACK).
	maxLayers = 500
)

// Manifest reads and verifies the manifest and the configuration that Target leads to on this machine. The number
// of layers equals the number of diffIDs, and every digest is a well-formed sha256 or sha512.
//
// Errors: ErrInvalid, ErrVerification, ErrUnsupported, ErrLimit, and ErrNotFound if no manifest suits this platform.
func (im *Image) Manifest(ctx context.Context) (ocispec.Manifest, ocispec.Image, error) {
	_, m, c, err := im.resolve(ctx)
	return m, c, err
}

// document is the manifest as it was found: exported images keep its exact bytes.
type document struct {
	desc ocispec.Descriptor
	raw  []byte
}

func (im *Image) resolve(ctx context.Context) (document, ocispec.Manifest, ocispec.Image, error) {
	var m ocispec.Manifest
	var c ocispec.Image
	desc, err := im.pickManifest(ctx)
	if err != nil {
		return document{}, m, c, err
	}
	raw, err := readDocument(ctx, im.Provider, desc)
	if err != nil {
		return document{}, m, c, fmt.Errorf("reading manifest: %w", err)
	}
	if m, err = parseManifest(raw, desc.MediaType); err != nil {
		return document{}, m, c, fmt.Errorf("reading manifest %s: %w", desc.Digest, err)
	}
	config, err := readDocument(ctx, im.Provider, m.Config)
	if err != nil {
		return document{}, m, c, fmt.Errorf("reading image configuration: %w", err)
	}
	if c, err = parseConfig(config, len(m.Layers)); err != nil {
		return document{}, m, c, fmt.Errorf("reading image configuration %s: %w", m.Config.Digest, err)
	}
	return document{desc: desc, raw: raw}, m, c, nil
}

// pickManifest follows indexes to the best manifest for this machine.
func (im *Image) pickManifest(ctx context.Context) (ocispec.Descriptor, error) {
	desc := im.Target
	for range maxNesting {
		switch {
		case isManifest(desc.MediaType):
			return desc, nil
		case !isIndex(desc.MediaType):
			return desc, fmt.Errorf("resolving %s: %w: media type %q, want an image manifest or index", desc.Digest, ErrUnsupported, desc.MediaType)
		}
		raw, err := readDocument(ctx, im.Provider, desc)
		if err != nil {
			return desc, fmt.Errorf("reading index: %w", err)
		}
		index, err := parseIndex(raw)
		if err != nil {
			return desc, fmt.Errorf("reading index %s: %w", desc.Digest, err)
		}
		fit := forThisPlatform(index.Manifests)
		if len(fit) == 0 {
			return desc, fmt.Errorf("resolving index %s: image for linux/%s: %w", desc.Digest, runtime.GOARCH, ErrNotFound)
		}
		desc = fit[0]
	}
	return desc, fmt.Errorf("resolving %s: %w: indexes nested deeper than %d", im.Target.Digest, ErrLimit, maxNesting)
}

// forThisPlatform keeps what can run here, the best match first. A descriptor without a platform may run here.
func forThisPlatform(all []ocispec.Descriptor) []ocispec.Descriptor {
	host := platforms.DefaultSpec()
	host.OS = "linux"
	match := platforms.Only(host)
	platform := func(d ocispec.Descriptor) ocispec.Platform {
		if d.Platform == nil {
			return host
		}
		return *d.Platform
	}
	var fit []ocispec.Descriptor
	for _, d := range all {
		if (isManifest(d.MediaType) || isIndex(d.MediaType)) && match.Match(platform(d)) {
			fit = append(fit, d)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case match.Less(platform(a), platform(b)):
			return -1
		case match.Less(platform(b), platform(a)):
			return 1
		}
		return 0
	})
	return fit
}

func parseIndex(raw []byte) (ocispec.Index, error) {
	var index ocispec.Index
	var other struct {
		Layers json.RawMessage `json:"layers"`
		Config json.RawMessage `json:"config"`
	}
	if err := unmarshal(raw, &index, &other); err != nil {
		return index, err
	}
	// A document that reads as both has two meanings, and the one that was checked may not be the one that is run.
	if other.Layers != nil || other.Config != nil || (index.MediaType != "" && !isIndex(index.MediaType)) {
		return index, fmt.Errorf("%w: index that is also something else", ErrInvalid)
	}
	return index, nil
}

func parseManifest(raw []byte, mediaType string) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	var other struct {
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := unmarshal(raw, &m, &other); err != nil {
		return m, err
	}
	if other.Manifests != nil || other.FSLayers != nil || (m.MediaType != "" && m.MediaType != mediaType) {
		return m, fmt.Errorf("%w: manifest that is also something else", ErrInvalid)
	}
	if !isConfig(m.Config.MediaType) {
		return m, fmt.Errorf("%w: configuration of type %q, so this is not a container image", ErrUnsupported, m.Config.MediaType)
	}
	if len(m.Layers) > maxLayers {
		return m, fmt.Errorf("%w: %d layers, the kernel stacks at most %d", ErrLimit, len(m.Layers), maxLayers)
	}
	for _, l := range m.Layers {
		if err := checkDigest(l.Digest); err != nil {
			return m, err
		}
		if _, ok := ociLayer(l.MediaType); !ok {
			return m, fmt.Errorf("%w: layer %s of type %q", ErrUnsupported, l.Digest, l.MediaType)
		}
		if l.Size < 0 {
			return m, fmt.Errorf("%w: layer %s of %d bytes", ErrInvalid, l.Digest, l.Size)
		}
	}
	return m, nil
}

func parseConfig(raw []byte, layers int) (ocispec.Image, error) {
	var c ocispec.Image
	if err := unmarshal(raw, &c); err != nil {
		return c, err
	}
	if len(c.RootFS.DiffIDs) != layers {
		return c, fmt.Errorf("%w: %d diffIDs for %d layers", ErrInvalid, len(c.RootFS.DiffIDs), layers)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := checkDigest(d); err != nil {
			return c, err
		}
	}
	return c, nil
}

func unmarshal(raw []byte, into ...any) error {
	for _, v := range into {
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
	}
	return nil
}

// readDocument reads a small blob and verifies its size and digest.
func readDocument(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxDocument {
		return nil, fmt.Errorf("reading %s: %w: %d bytes, at most %d", desc.Digest, ErrLimit, desc.Size, maxDocument)
	}
	ra, err := openBlob(ctx, p, desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	raw := make([]byte, desc.Size)
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, desc.Size), raw); err != nil {
		return nil, fmt.Errorf("reading %s: %w: %w", desc.Digest, ErrVerification, err)
	}
	if got := desc.Digest.Algorithm().FromBytes(raw); got != desc.Digest {
		return nil, fmt.Errorf("reading %s: %w: its bytes have the digest %s", desc.Digest, ErrVerification, got)
	}
	return raw, nil
}

// openBlob opens a blob whose size is the one promised; its bytes are still to be verified.
func openBlob(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := checkDigest(desc.Digest); err != nil {
		return nil, err
	}
	if desc.Size < 0 {
		return nil, fmt.Errorf("opening %s: %w: size %d", desc.Digest, ErrInvalid, desc.Size)
	}
	ra, err := p.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w", desc.Digest, err)
	}
	if ra.Size() != desc.Size {
		err := fmt.Errorf("opening blob %s: %w: it has %d bytes, want %d", desc.Digest, ErrVerification, ra.Size(), desc.Size)
		ra.Close()
		return nil, err
	}
	return ra, nil
}
