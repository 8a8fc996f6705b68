package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Contents is what an image consists of, so that it can be kept in another form.
type Contents struct {
	Config   []byte // the configuration's exact bytes, verified
	Platform string // os/architecture[/variant]
	Created  time.Time
	Layers   []Layer // the lowest first
}

// Layer is an image's layer. What Open gives is the uncompressed tar, of which DiffID is the digest: that is for the
// reader to check.
type Layer struct {
	DiffID digest.Digest
	Open   func(context.Context) (io.ReadCloser, error)
}

// Contents resolves the image to this machine's platform, like Manifest.
func (im *Image) Contents(ctx context.Context) (Contents, error) {
	_, m, c, err := im.resolve(ctx)
	if err != nil {
		return Contents{}, err
	}
	raw, err := readDocument(ctx, im.Provider, m.Config)
	if err != nil {
		return Contents{}, fmt.Errorf("reading image configuration: %w", err)
	}
	all := Contents{Config: raw, Platform: platforms.Format(c.Platform)}
	if c.Created != nil {
		all.Created = *c.Created
	}
	for i, desc := range m.Layers {
		all.Layers = append(all.Layers, Layer{DiffID: c.RootFS.DiffIDs[i], Open: func(ctx context.Context) (io.ReadCloser, error) {
			return im.openLayer(ctx, desc)
		}})
	}
	return all, nil
}

func (im *Image) openLayer(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := openBlob(ctx, im.Provider, desc)
	if err != nil {
		return nil, err
	}
	plain, _, err := decompress(io.NewSectionReader(ra, 0, desc.Size))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("decompressing layer %s: %w", desc.Digest, err), ra.Close())
	}
	return &layerReader{plain, ra}, nil
}

// layerReader closes what it reads from, too.
type layerReader struct {
	io.ReadCloser
	blob io.Closer
}

func (l *layerReader) Close() error { return errors.Join(l.ReadCloser.Close(), l.blob.Close()) }
