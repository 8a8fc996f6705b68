package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// images lists what repositories.json names, by the image's id, which is its
// config's digest: only Image makes the manifest, for which it reads the layers'
// records. A missing layer is a problem, and the image still listed.
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
	for _, name := range sortedKeys(s.tags) {
		if err := ctx.Err(); err != nil {
			return err
		}
		id := s.tags[name]
		if err := id.Validate(); err != nil {
			s.problem("image "+name, fmt.Errorf("id %.80q: %w", id, err))
			delete(s.tags, name)
			continue
		}
		image, again := known[id]
		if !again {
			config, _, err := s.pieces(id)
			if err != nil {
				s.problem("image "+name, err)
			}
			image = listedImage(id, config)
			known[id] = image
		}
		image.Store, image.Name = Docker, name
		s.listing.Images = append(s.listing.Images, image)
	}
	return nil
}

// listedImage is an image known by its config's digest alone.
func listedImage(id digest.Digest, config []byte) Image {
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: id, Size: int64(len(config))}
	provider := splitBlobs{}
	if config != nil {
		provider.small = map[digest.Digest][]byte{id: config}
	}
	return Image{Target: desc, Provider: provider}
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
	for _, tag := range sortedKeys(s.tags) {
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
	config, layers, err := s.pieces(id)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	provider, target, err := splitImage(ctx, config, layers)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	return Image{Store: Docker, Name: name, Target: target, Provider: provider}, nil
}

func imageRecord(id digest.Digest) string {
	return filepath.Join(dockerImages, "imagedb/content", id.Algorithm().String(), id.Encoded())
}

// pieces finds what an image can be put together from: its configuration as
// stored, and its layers. Where a layer is missing, the configuration is returned
// with the error.
func (s *dockerStore) pieces(id digest.Digest) ([]byte, []splitLayer, error) {
	config, err := readBounded(s.path, imageRecord(id), maxManifest)
	if err != nil {
		return nil, nil, fmt.Errorf("reading image config: %w: %w", ErrIncomplete, err)
	}
	if got := id.Algorithm().FromBytes(config); got != id {
		return nil, nil, fmt.Errorf("reading image config %s: content is %s: %w", id, got, ErrIncomplete)
	}
	var parsed ocispec.Image
	if err := json.Unmarshal(config, &parsed); err != nil {
		return nil, nil, fmt.Errorf("reading image config %s: %w", id, err)
	}
	layers, err := s.splitLayers(identity.ChainIDs(slices.Clone(parsed.RootFS.DiffIDs)))
	if err != nil {
		return config, nil, err
	}
	_, err = matchLayers(config, layers)
	return config, layers, err
}

// splitLayers says how to put each layer's archive together again.
func (s *dockerStore) splitLayers(chain []digest.Digest) ([]splitLayer, error) {
	layers := make([]splitLayer, 0, len(chain))
	for _, id := range chain {
		if err := id.Validate(); err != nil { // the lowest one's is the image's word
			return nil, fmt.Errorf("layer %.80q: %w: %w", id, ErrIncomplete, err)
		}
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
		split, err := splitRecord(s.path, layerRecord(id, "tar-split.json.gz"))
		if err != nil {
			return nil, err
		}
		layers = append(layers, splitLayer{dir: dir, diffID: diffID, open: split})
	}
	return layers, nil
}
