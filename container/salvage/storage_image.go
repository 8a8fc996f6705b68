package salvage

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image adds an image to the listing, once for each of its names. One whose
// layers are not all there is listed by the manifest it once had, so that it is
// found and can be said to be incomplete.
func (l *storageLoader) image(r storageImage) {
	l.store.images = append(l.store.images, r)
	names := r.Names
	if len(names) == 0 {
		names = []string{r.ID}
	}
	l.names[r.ID] = names[0]
	image, err := l.store.image(r)
	if err != nil {
		l.problem("image "+names[0], err)
		if r.Digest.Validate() != nil {
			return
		}
		image = Image{Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: r.Digest}, Provider: blobs{root: l.store.path}}
	}
	for _, name := range names {
		image.Store, image.Name = Podman, name
		l.listing.Images = append(l.listing.Images, image)
	}
}

// image puts an image together: its configuration as stored, its layers from
// their files. The manifest is a new one, since the layers come uncompressed.
func (s *storageStore) image(r storageImage) (Image, error) {
	key := digest.NewDigestFromEncoded(digest.SHA256, r.ID)
	config, err := readBounded(s.path, filepath.Join(s.driver+"-images", r.ID, bigDataName(key.String())), maxManifest)
	if err != nil {
		return Image{}, fmt.Errorf("reading config of image %s: %w: %w", r.ID, ErrIncomplete, err)
	}
	if got := digest.FromBytes(config); got != key {
		return Image{}, fmt.Errorf("reading config of image %s: content is %s: %w", r.ID, got, ErrIncomplete)
	}
	ids, err := s.chain(r.Layer)
	if err != nil {
		return Image{}, err
	}
	layers, err := s.splitLayers(ids)
	if err != nil {
		return Image{}, err
	}
	provider, target, err := splitImage(config, layers)
	return Image{Store: Podman, Target: target, Provider: provider}, err
}

// bigDataName is the file name of an image's item (makeBigDataBaseName of
// containers/storage) whose key has other characters than a-z, 0-9 and dots.
func bigDataName(key string) string {
	return "=" + base64.StdEncoding.EncodeToString([]byte(key))
}

// Image finds an image by its id or a name: as recorded, else as Podman
// completes a short one, with localhost before docker.io. The kind has no
// namespaces. The layers' files must be there; their content is verified as it
// is read.
func (s *storageStore) Image(ctx context.Context, _, name string) (Image, error) {
	if err := s.load(ctx); err != nil {
		return Image{}, err
	}
	for _, want := range []string{name, normalise("localhost/" + name), normalise(name)} {
		for _, record := range s.images {
			if i := slices.IndexFunc(record.Names, func(n string) bool { return n == want || normalise(n) == want }); i >= 0 || record.ID == want || "sha256:"+record.ID == want {
				image, err := s.image(record)
				if err != nil {
					return Image{}, fmt.Errorf("image %s: %w", name, err)
				}
				image.Name = record.ID
				if i >= 0 {
					image.Name = record.Names[i]
				}
				return image, nil
			}
		}
	}
	return Image{}, fmt.Errorf("image %s: %w", name, ErrNotFound)
}
