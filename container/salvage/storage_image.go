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

// image adds an image to the listing, once for each of its names, by the manifest
// as it was pulled, else by the image's id, which is its config's digest: only
// Image makes the manifest that fits what is here, for which it reads the layers'
// records. A missing layer is a problem, and the image still listed.
func (l *storageLoader) image(r storageImage) {
	l.store.images = append(l.store.images, r)
	names := r.Names
	if len(names) == 0 {
		names = []string{r.ID}
	}
	l.names[r.ID] = names[0]
	config, _, err := l.store.pieces(r)
	if err != nil {
		l.problem("image "+names[0], err)
	}
	image := listedImage(imageID(r), config)
	if r.Digest.Validate() == nil {
		image.Target = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: r.Digest}
	}
	for _, name := range names {
		image.Store, image.Name = Podman, name
		l.listing.Images = append(l.listing.Images, image)
	}
}

// imageID is the config's digest.
func imageID(r storageImage) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, r.ID)
}

// pieces finds what an image can be put together from: its configuration as
// stored, and its layers. Where a layer is missing, the configuration is returned
// with the error.
func (s *storageStore) pieces(r storageImage) ([]byte, []splitLayer, error) {
	key := imageID(r)
	config, err := readBounded(s.path, filepath.Join(s.driver+"-images", r.ID, bigDataName(key.String())), maxManifest)
	if err != nil {
		return nil, nil, fmt.Errorf("reading config of image %s: %w: %w", r.ID, ErrIncomplete, err)
	}
	if got := digest.FromBytes(config); got != key {
		return nil, nil, fmt.Errorf("reading config of image %s: content is %s: %w", r.ID, got, ErrIncomplete)
	}
	ids, err := s.chain(r.Layer)
	if err != nil {
		return config, nil, err
	}
	layers, err := s.splitLayers(ids)
	if err != nil {
		return config, nil, err
	}
	_, err = matchLayers(config, layers)
	return config, layers, err
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
				config, layers, err := s.pieces(record)
				if err != nil {
					return Image{}, fmt.Errorf("image %s: %w", name, err)
				}
				image := Image{Store: Podman, Name: record.ID}
				if i >= 0 {
					image.Name = record.Names[i]
				}
				if image.Provider, image.Target, err = splitImage(ctx, config, layers); err != nil {
					return Image{}, fmt.Errorf("image %s: %w", name, err)
				}
				return image, nil
			}
		}
	}
	return Image{}, fmt.Errorf("image %s: %w", name, ErrNotFound)
}
