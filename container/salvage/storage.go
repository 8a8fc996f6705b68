package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// storageStore is a containers/storage graph root, which Podman and CRI-O may
// share. Its records are JSON files (containers.go, images.go and layers.go of
// containers/storage), DRIVER-KIND/KIND.json, some in volatile-KIND.json.
type storageStore struct {
	path       string
	driver     string // overlay or vfs
	listing    *Listing
	containers map[string]storageContainer
	images     []storageImage
	layers     map[string]storageLayer
	libpod     map[string]libpodConfig // by container
}

// openStorage opens a graph root such as /var/lib/containers/storage. Its
// records are read on first use.
func openStorage(path string) (Store, error) {
	for _, driver := range []string{"overlay", "vfs"} {
		if isDirBeneath(path, driver+"-containers") || isDirBeneath(path, driver+"-images") {
			return &storageStore{path: path, driver: driver}, nil
		}
	}
	return nil, fmt.Errorf("opening containers/storage %s: no records of the drivers overlay or vfs", path)
}

// Kind is CRIO for a store that only CRI-O has used, else Podman.
func (s *storageStore) Kind() Kind {
	if s.load(context.Background()) != nil || len(s.containers) == 0 {
		return Podman
	}
	for _, c := range s.listing.Containers {
		if c.Store != CRIO {
			return Podman
		}
	}
	return CRIO
}

func (s *storageStore) Path() string { return s.path }

// Close has nothing to do: nothing is copied or kept open.
func (s *storageStore) Close() error { return nil }

// List reads the records once; a Store shows the moment they were first read.
func (s *storageStore) List(ctx context.Context) (Listing, error) {
	if err := s.load(ctx); err != nil {
		return Listing{}, err
	}
	return *s.listing, nil
}

// Spec returns the container's userdata/config.json, which is what the runtime
// was last started with.
func (s *storageStore) Spec(ctx context.Context, c Container) (*specs.Spec, error) {
	if _, err := s.container(ctx, c); err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := s.config(c.ID, &spec); err != nil {
		return nil, fmt.Errorf("reading spec of container %s: %w: %w", c.ID, ErrIncomplete, err)
	}
	if own, ok := s.libpod[c.ID]; ok {
		own.annotate(&spec)
	}
	return &spec, nil
}

func (s *storageStore) container(ctx context.Context, c Container) (storageContainer, error) {
	if err := s.load(ctx); err != nil {
		return storageContainer{}, err
	}
	record, ok := s.containers[c.ID]
	if !ok {
		return storageContainer{}, fmt.Errorf("container %s: %w", c.ID, ErrNotFound)
	}
	return record, nil
}

// config decodes a container's config.json. The id must have been checked.
func (s *storageStore) config(id string, into any) error {
	data, err := readBounded(s.path, filepath.Join(s.driver+"-containers", id, "userdata/config.json"), maxManifest)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// load reads all records into memory.
func (s *storageStore) load(ctx context.Context) error {
	if s.listing != nil {
		return nil
	}
	l := storageLoader{
		store: &storageStore{path: s.path, driver: s.driver, containers: map[string]storageContainer{}, layers: map[string]storageLayer{}},
		names: map[string]string{},
	}
	if err := l.load(ctx); err != nil {
		return fmt.Errorf("reading containers/storage %s: %w", s.path, err)
	}
	l.store.listing = &l.listing
	*s = *l.store
	return nil
}

// storageLoader gathers a listing.
type storageLoader struct {
	store   *storageStore
	names   map[string]string // of images, by id
	listing Listing
}

func (l *storageLoader) load(ctx context.Context) error {
	s := l.store
	readStorage(l, "layers", func(r storageLayer) string { return r.ID }, func(r storageLayer) {
		if _, again := s.layers[r.ID]; !again {
			s.layers[r.ID] = r
		}
	})
	digests := map[string]storageImage{}
	readStorage(l, "images", func(r storageImage) string { return r.ID }, func(r storageImage) {
		if _, again := digests[r.ID]; !again {
			digests[r.ID] = r
			l.image(r)
		}
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	whole := readStorage(l, "containers", func(r storageContainer) string { return r.ID }, func(r storageContainer) {
		if _, again := s.containers[r.ID]; !again {
			s.containers[r.ID] = r
		}
	})
	if !whole {
		l.scan()
	}
	l.libpod(ctx)
	for _, id := range sortedKeys(s.containers) {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.container(s.containers[id], digests)
	}
	if len(l.listing.Problems) > 0 && len(s.containers)+len(s.images)+len(s.layers) == 0 {
		var errs []error
		for _, p := range l.listing.Problems {
			errs = append(errs, fmt.Errorf("%s: %w", p.What, p.Err))
		}
		return fmt.Errorf("no record is readable: %w", errors.Join(errs...))
	}
	return nil
}

func (l *storageLoader) problem(what string, err error) {
	l.listing.Problems = append(l.listing.Problems, Problem{Store: Podman, What: what, Err: err})
}

// storageTime is a record's time. One that cannot be read is zero: the record
// is worth more than its age.
type storageTime struct{ time.Time }

func (t *storageTime) UnmarshalJSON(data []byte) error {
	if t.Time.UnmarshalJSON(data) != nil {
		t.Time = time.Time{}
	}
	return nil
}
