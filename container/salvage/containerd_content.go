package salvage

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds indexes, manifests and image configs, in bytes, as
// registries do.
const maxManifest = 4 << 20

// Image finds an image by the exact name of its record; "" as namespace means
// any. The blobs for this machine's platform must all be there with their right
// sizes; their digests are verified as they are read.
func (s *containerdStore) Image(ctx context.Context, namespace, name string) (Image, error) {
	if err := s.load(ctx); err != nil {
		return Image{}, err
	}
	failed := fmt.Errorf("image %s: %w", name, ErrNotFound)
	for _, image := range s.listing.Images {
		if image.Name != name || namespace != "" && image.Namespace != namespace {
			continue
		}
		err := checkImage(ctx, image)
		if err == nil {
			return image, nil
		}
		failed = fmt.Errorf("image %s: %w", name, err)
	}
	return Image{}, failed
}

// checkImage looks for every blob of an image for this platform.
func checkImage(ctx context.Context, image Image) error {
	manifest, err := images.Manifest(ctx, smallBlobs{image.Provider}, image.Target, platforms.Default())
	if err != nil {
		return fmt.Errorf("resolving %s for %s: %w: %w", image.Target.Digest, platforms.DefaultString(), ErrIncomplete, err)
	}
	for _, desc := range append([]ocispec.Descriptor{manifest.Config}, manifest.Layers...) {
		reader, err := image.Provider.ReaderAt(ctx, desc)
		if err != nil {
			return err
		}
		if err := reader.Close(); err != nil {
			return err
		}
	}
	return nil
}

// blobs is a content store's directory: root/blobs/ALGORITHM/HEX. It is a
// content.Provider whose readers verify what they read.
type blobs struct{ root string }

// ReaderAt opens a blob. A blob that is missing or has another size than the
// descriptor says is [ErrIncomplete].
func (b blobs) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", desc.Digest, err)
	}
	file, info, err := openBeneath(b.root, filepath.Join("blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w: %w", desc.Digest, ErrIncomplete, err)
	}
	if desc.Size > 0 && info.Size() != desc.Size {
		_ = file.Close()
		return nil, fmt.Errorf("opening blob %s: %d bytes, want %d: %w", desc.Digest, info.Size(), desc.Size, ErrIncomplete)
	}
	return &blobReader{file: file, size: info.Size(), digest: desc.Digest, hash: desc.Digest.Algorithm().Hash()}, nil
}

// smallBlobs refuses to open what is too large for a manifest.
type smallBlobs struct{ content.Provider }

func (s smallBlobs) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	reader, err := s.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	if reader.Size() > maxManifest {
		_ = reader.Close()
		return nil, fmt.Errorf("opening blob %s: %d bytes is too large for a manifest", desc.Digest, reader.Size())
	}
	return reader, nil
}
