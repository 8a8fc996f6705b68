package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images lists what repositories.json names. One whose layers are not all there
// is listed by its id, so that it is found and can be said to be incomplete.
func (s *dockerStore) images(ctx context.Context) error {
	data, err := readBounded(s.path, dockerImages+"/repositories.json", maxDatabase)
	var file struct {
		Repositories map[string]map[string]digest.Digest
	}
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.problem(dockerImages+"/repositories.json", err)
	}
	for _, repository := range file.Repositories {
		maps.Copy(s.tags, repository)
	}
	known := map[digest.Digest]Image{}
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		id := s.tags[name]
		image, again := known[id]
		if !again {
			if image, err = s.image(id); err != nil {
				s.problem("image "+name, err)
				image = Image{Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id}, Provider: splitBlobs{}}
			}
			known[id] = image
		}
		image.Store, image.Name = Docker, name
		s.listing.Images = append(s.listing.Images, image)
	}
	return nil
}

// Image finds an image by its id, with or without "sha256:", or by a name:
// REPOSITORY:TAG or REPOSITORY@DIGEST as recorded, or any way to write it. The
// kind has no namespaces. The manifest is a new one, since the layers come
// uncompressed; their content is verified as it is read.
func (s *dockerStore) Image(ctx context.Context, _, name string) (Image, error) {
	if err := s.load(ctx); err != nil {
		return Image{}, err
	}
	id, ok := s.tags[name]
	for _, tag := range slices.Sorted(maps.Keys(s.tags)) {
		if !ok && normalise(tag) == normalise(name) {
			id, ok = s.tags[tag], true
		}
	}
	if !ok {
		id = digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(name, "sha256:"))
		if id.Validate() != nil || !isFileBeneath(s.path, imageRecord(id)) {
			return Image{}, fmt.Errorf("image %s: %w", name, ErrNotFound)
		}
	}
	image, err := s.image(id)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	image.Store, image.Name = Docker, name
	return image, nil
}

func imageRecord(id digest.Digest) string {
	return filepath.Join(dockerImages, "imagedb/content", id.Algorithm().String(), id.Encoded())
}

// image puts an image together: its configuration as stored, its layers from
// their files.
func (s *dockerStore) image(id digest.Digest) (Image, error) {
	if err := id.Validate(); err != nil {
		return Image{}, fmt.Errorf("reading image config %.80q: %w", id, err)
	}
	config, err := readBounded(s.path, imageRecord(id), maxManifest)
	if err != nil {
		return Image{}, fmt.Errorf("reading image config: %w: %w", ErrIncomplete, err)
	}
	if got := id.Algorithm().FromBytes(config); got != id {
		return Image{}, fmt.Errorf("reading image config %s: content is %s: %w", id, got, ErrIncomplete)
	}
	var parsed ocispec.Image
	if err := json.Unmarshal(config, &parsed); err != nil {
		return Image{}, fmt.Errorf("reading image config %s: %w", id, err)
	}
	layers, err := s.splitLayers(identity.ChainIDs(slices.Clone(parsed.RootFS.DiffIDs)))
	if err != nil {
		return Image{}, err
	}
	provider, target, err := splitImage(config, layers)
	return Image{Target: target, Provider: provider}, err
}

// splitLayers says how to put each layer's archive together again.
func (s *dockerStore) splitLayers(chain []digest.Digest) ([]splitLayer, error) {
	layers := make([]splitLayer, 0, len(chain))
	for _, id := range chain {
		diff, err := s.word(layerRecord(id, "diff"))
		if err != nil {
			return nil, err
		}
		diffID := digest.Digest(diff)
		if err := diffID.Validate(); err != nil {
			return nil, fmt.Errorf("layer %s: %w: %w", id, ErrIncomplete, err)
		}
		cache, err := s.word(layerRecord(id, "cache-id"))
		if err != nil {
			return nil, err
		}
		dir, err := s.layerDir(cache)
		if err != nil {
			return nil, err
		}
		layers = append(layers, splitLayer{dir: dir, diffID: diffID, open: func() (io.ReadCloser, error) {
			file, _, err := openBeneath(s.path, layerRecord(id, "tar-split.json.gz"))
			if err != nil {
				return nil, err
			}
			return file, nil
		}})
	}
	return layers, nil
}
