package salvage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where dockerd keeps its records below its data root. The graph driver's own
// records are below dockerImages.
const (
	dockerContainers = "containers" // /ID/{config.v2.json,hostconfig.json}
	dockerImages     = "image/overlay2"
	dockerDriver     = "overlay2"
)

// maxDockerRecord bounds each of a container's two files, in bytes.
const maxDockerRecord = 8 << 20

// dockerStore is Docker's data root with the overlay2 driver.
type dockerStore struct {
	path    string
	listing *Listing
	records map[string]dockerRecord // by container id
	tags    map[string]digest.Digest
}

// openDocker opens a data root, such as /var/lib/docker.
func openDocker(path string) (Store, error) {
	if !isDirBeneath(path, dockerContainers) && !isDirBeneath(path, dockerImages) {
		return nil, fmt.Errorf("opening docker store %s: neither %s nor %s", path, dockerContainers, dockerImages)
	}
	return &dockerStore{path: path}, nil
}

func (s *dockerStore) Kind() Kind   { return Docker }
func (s *dockerStore) Path() string { return s.path }

// Close has nothing to do: the records are read as files.
func (s *dockerStore) Close() error { return nil }

// List reads the records once; a Store shows the moment it was first read.
func (s *dockerStore) List(ctx context.Context) (Listing, error) {
	if err := s.load(ctx); err != nil {
		return Listing{}, err
	}
	return *s.listing, nil
}

// Spec converts the container's record as dockerd would. It tells nothing of
// GPUs (DeviceRequests) and of id mappings, which are the daemon's
// configuration. Devices and a seccomp profile's conditions are this host's.
func (s *dockerStore) Spec(ctx context.Context, c Container) (*specs.Spec, error) {
	record, err := s.record(ctx, c)
	if err != nil {
		return nil, err
	}
	spec, err := record.spec(c.ID)
	if err != nil {
		return nil, fmt.Errorf("converting container %s: %w", c.ID, err)
	}
	return spec, nil
}

func (s *dockerStore) record(ctx context.Context, c Container) (dockerRecord, error) {
	if err := s.load(ctx); err != nil {
		return dockerRecord{}, err
	}
	record, ok := s.records[c.ID]
	if !ok {
		return dockerRecord{}, fmt.Errorf("container %s: %w", c.ID, ErrNotFound)
	}
	return record, nil
}

func (s *dockerStore) problem(what string, err error) {
	s.listing.Problems = append(s.listing.Problems, Problem{Store: Docker, What: what, Err: err})
}

func (s *dockerStore) load(ctx context.Context) error {
	if s.listing != nil {
		return nil
	}
	loaded := &dockerStore{path: s.path, listing: &Listing{}, records: map[string]dockerRecord{}, tags: map[string]digest.Digest{}}
	if err := loaded.containers(ctx); err != nil {
		return err
	}
	if err := loaded.images(ctx); err != nil {
		return err
	}
	if l := loaded.listing; len(l.Problems) > 0 && len(l.Containers)+len(l.Images) == 0 {
		errs := make([]error, len(l.Problems))
		for i, p := range l.Problems {
			errs[i] = fmt.Errorf("%s: %w", p.What, p.Err)
		}
		return fmt.Errorf("reading docker store %s: no record is readable: %w", s.path, errors.Join(errs...))
	}
	*s = *loaded
	return nil
}

func (s *dockerStore) containers(ctx context.Context) error {
	ids, err := listBeneath(s.path, dockerContainers)
	if err != nil {
		s.problem(dockerContainers, err)
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !dockerID(id) {
			continue
		}
		record, err := readDockerRecord(s.path, id)
		if err != nil {
			s.problem("container "+id, err)
		}
		if !record.readable {
			continue
		}
		s.records[id] = record
		s.listing.Containers = append(s.listing.Containers, record.container(s.path, id))
	}
	return nil
}

// listBeneath names what is in a directory below root. One that is not there is
// empty.
func listBeneath(root, name string) ([]string, error) {
	dir, err := beneath(root, name)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, err
}

// dockerID reports whether a name is an id as Docker makes them: lowercase hex.
func dockerID(name string) bool {
	return len(name) >= 12 && len(name) <= 128 && strings.Trim(name, "0123456789abcdef") == ""
}

// initSuffix ends the name of the layer with the empty resolv.conf and hosts.
const initSuffix = "-init"

// dockerLayer reports whether a name is a layer's in the driver: ID or ID-init.
func dockerLayer(name string) bool { return dockerID(strings.TrimSuffix(name, initSuffix)) }

// layerDir finds the directory of a layer by its name in the driver.
func (s *dockerStore) layerDir(id string) (string, error) {
	if !dockerLayer(id) {
		return "", fmt.Errorf("layer %.80q: not an id: %w", id, ErrIncomplete)
	}
	name := filepath.Join(dockerDriver, id, "diff")
	if !isDirBeneath(s.path, name) {
		return "", fmt.Errorf("directory %s: %w", name, ErrIncomplete)
	}
	return beneath(s.path, name)
}

// chain follows layer records from the topmost chain id to the lowest layer. It
// returns the chain ids, the lowest first.
func (s *dockerStore) chain(top string) ([]digest.Digest, error) {
	var chain []digest.Digest
	for top != "" {
		id := digest.Digest(top)
		if err := id.Validate(); err != nil {
			return nil, fmt.Errorf("layer %.80q: %w: %w", top, ErrIncomplete, err)
		}
		if len(chain) == maxLayers {
			return nil, fmt.Errorf("more than %d layers, or a loop: %w", maxLayers, ErrIncomplete)
		}
		chain = append(chain, id)
		var err error
		if top, err = s.word(layerRecord(id, "parent")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	slices.Reverse(chain)
	return chain, nil
}

// layerRecord is the path of a file of a layer's record.
func layerRecord(chain digest.Digest, file string) string {
	return filepath.Join(dockerImages, "layerdb", chain.Algorithm().String(), chain.Encoded(), file)
}

// word reads a file that holds an id. An empty one is a casualty of power loss.
func (s *dockerStore) word(name string) (string, error) {
	data, err := readBounded(s.path, name, 256)
	if err != nil {
		return "", fmt.Errorf("reading layer record: %w: %w", ErrIncomplete, err)
	}
	word := strings.TrimSpace(string(data))
	if word == "" {
		return "", fmt.Errorf("reading layer record: %s is empty: %w", name, ErrIncomplete)
	}
	return word, nil
}
