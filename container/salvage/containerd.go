package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where containerd's plugins keep their files below its root.
const (
	containerdMetadata    = "io.containerd.metadata.v1.bolt/meta.db"
	containerdContent     = "io.containerd.content.v1.content"
	containerdSnapshotter = "io.containerd.snapshotter.v1." // + name
)

// containerdStore is a containerd root directory. Its database is described in
// core/metadata/buckets.go of containerd, "v1".
type containerdStore struct {
	path    string
	only    string // the one namespace that is read, if not all are
	listing *Listing
	records map[containerdKey]containerdRecord
	chains  map[string]containerdSnapshots // by snapshotter
}

type containerdKey struct{ namespace, id string }

// openContainerd opens a containerd root. Its database is read on first use.
func openContainerd(path string) (Store, error) {
	if !isFileBeneath(path, containerdMetadata) {
		return nil, fmt.Errorf("opening containerd store %s: no %s", path, containerdMetadata)
	}
	return newContainerdStore(path, ""), nil
}

// newContainerdStore reads one namespace or, with "", all.
func newContainerdStore(path, only string) *containerdStore {
	return &containerdStore{path: path, only: only, chains: map[string]containerdSnapshots{}}
}

func (s *containerdStore) Kind() Kind   { return Containerd }
func (s *containerdStore) Path() string { return s.path }

// Close has nothing to do: the copies have no name and are closed once read.
func (s *containerdStore) Close() error { return nil }

// List reads the database once; a Store shows the moment it was first read.
func (s *containerdStore) List(ctx context.Context) (Listing, error) {
	if err := s.load(ctx); err != nil {
		return Listing{}, err
	}
	return *s.listing, nil
}

// Spec returns the container's runtime spec as containerd recorded it.
func (s *containerdStore) Spec(ctx context.Context, c Container) (*specs.Spec, error) {
	record, err := s.record(ctx, c)
	if err != nil {
		return nil, err
	}
	spec, err := decodeSpec(record.spec)
	if err != nil {
		return nil, fmt.Errorf("reading spec of container %s/%s: %w", c.Namespace, c.ID, err)
	}
	return spec, nil
}

func (s *containerdStore) record(ctx context.Context, c Container) (containerdRecord, error) {
	if err := s.load(ctx); err != nil {
		return containerdRecord{}, err
	}
	record, ok := s.records[containerdKey{c.Namespace, c.ID}]
	if !ok {
		return containerdRecord{}, fmt.Errorf("container %s/%s: %w", c.Namespace, c.ID, ErrNotFound)
	}
	return record, nil
}

// load reads the metadata database into memory: containers with their specs,
// and images.
func (s *containerdStore) load(ctx context.Context) error {
	if s.listing != nil {
		return nil
	}
	db, err := openBolt(ctx, s.path, containerdMetadata)
	if err != nil {
		return fmt.Errorf("reading containerd store %s: %w", s.path, err)
	}
	defer db.Close()
	l := &containerdLoader{
		path:    s.path,
		content: blobs{root: filepath.Join(s.path, containerdContent)},
		records: map[containerdKey]containerdRecord{},
	}
	if v1 := db.root.bucket("v1"); v1 != nil {
		for _, namespace := range v1.entries() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if namespace.bucket != nil && s.reads(string(namespace.key)) {
				l.namespace(string(namespace.key), namespace.bucket)
			}
		}
	}
	if len(db.damage) > 0 {
		l.problem(containerdMetadata, errors.Join(db.damage...))
		l.scan(db, s.namespaces(ctx))
		l.listing.Containers = slices.DeleteFunc(l.listing.Containers, func(c Container) bool {
			return c.Namespace != "" && !s.reads(c.Namespace)
		})
	}
	if len(db.damage) > 0 && len(l.listing.Containers)+len(l.listing.Images) == 0 {
		return fmt.Errorf("reading containerd store %s: no record is readable: %w", s.path, errors.Join(db.damage...))
	}
	l.digests()
	s.listing, s.records = &l.listing, l.records
	return nil
}

func (s *containerdStore) reads(namespace string) bool { return s.only == "" || s.only == namespace }

// containerdLoader gathers a listing.
type containerdLoader struct {
	path    string
	content blobs
	listing Listing
	records map[containerdKey]containerdRecord
}

func (l *containerdLoader) problem(what string, err error) {
	l.listing.Problems = append(l.listing.Problems, Problem{Store: Containerd, What: what, Err: err})
}

func (l *containerdLoader) namespace(namespace string, b *boltBucket) {
	if err := b.err(); err != nil {
		l.problem("namespace "+namespace, err)
	}
	l.each(namespace, "containers", b, l.container)
	l.each(namespace, "images", b, l.image) // the schema's comment says "image"
}

func (l *containerdLoader) each(namespace, object string, b *boltBucket, add func(namespace, key string, b *boltBucket)) {
	list := b.bucket(object)
	if err := list.err(); err != nil {
		l.problem(namespace+"/"+object, err)
	}
	for _, entry := range list.entries() {
		if entry.bucket != nil {
			add(namespace, string(entry.key), entry.bucket)
		}
	}
}

func (l *containerdLoader) container(namespace, id string, b *boltBucket) {
	record, err := readContainerdRecord(b)
	if err != nil {
		l.problem("container "+namespace+"/"+id, err)
	}
	key := containerdKey{namespace, id}
	if _, again := l.records[key]; again {
		return
	}
	l.records[key] = record
	l.listing.Containers = append(l.listing.Containers, record.container(l.path, namespace, id))
}

func (l *containerdLoader) image(namespace, name string, b *boltBucket) {
	target, err := readContainerdTarget(b)
	if err != nil {
		l.problem("image "+namespace+"/"+name, err)
		return
	}
	l.listing.Images = append(l.listing.Images, Image{
		Store: Containerd, Namespace: namespace, Name: name, Target: target, Provider: l.content,
	})
}

// digests fills in what each container's image name stands for.
func (l *containerdLoader) digests() {
	targets := make(map[containerdKey]digest.Digest, len(l.listing.Images))
	for _, image := range l.listing.Images {
		targets[containerdKey{image.Namespace, image.Name}] = image.Target.Digest
	}
	for i, c := range l.listing.Containers {
		l.listing.Containers[i].ImageDigest = targets[containerdKey{c.Namespace, c.Image}]
	}
}

// decodeSpec reads a runtime spec wrapped in a protobuf Any.
func decodeSpec(wrapped []byte) (*specs.Spec, error) {
	if len(wrapped) == 0 {
		return nil, fmt.Errorf("no spec is recorded: %w", ErrIncomplete)
	}
	url, value, err := decodeAny(wrapped)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(url, "/runtime-spec/1/Spec") && !strings.HasSuffix(url, "opencontainers/runtime-spec/Spec") {
		return nil, fmt.Errorf("type %q is not a runtime spec", url)
	}
	var spec specs.Spec
	if err := json.Unmarshal(value, &spec); err != nil {
		return nil, err
	}
	return &spec, nil
}
