package salvage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// Rootfs follows the layers' records. Where Docker keeps its images in
// containerd, they are that store's snapshots.
func (s *dockerStore) Rootfs(ctx context.Context, c Container) (Rootfs, error) {
	if _, err := s.record(ctx, c); err != nil {
		return Rootfs{}, err
	}
	rootfs, err := s.rootfs(ctx, c.ID)
	if err != nil {
		return Rootfs{}, fmt.Errorf("finding layers of container %s: %w", c.ID, err)
	}
	return rootfs, nil
}

// mountRecord is the path of a file of a container's record in the layer store.
func mountRecord(id, file string) string {
	return filepath.Join(dockerImages, "layerdb/mounts", id, file)
}

func (s *dockerStore) rootfs(ctx context.Context, id string) (Rootfs, error) {
	if !isDirBeneath(s.path, mountRecord(id, "")) {
		return s.snapshotRootfs(ctx, id)
	}
	chain, err := s.imageChain(id)
	if err != nil {
		return Rootfs{}, err
	}
	var rootfs Rootfs
	for _, layer := range chain {
		cache, err := s.word(layerRecord(layer, "cache-id"))
		if err != nil {
			return Rootfs{}, err
		}
		dir, err := s.layerDir(cache)
		if err != nil {
			return Rootfs{}, err
		}
		rootfs.Layers = append(rootfs.Layers, dir)
	}
	// Without the container's own two the image's layers still stand.
	if name, err := s.word(mountRecord(id, "init-id")); err == nil {
		if dir, err := s.layerDir(name); err == nil {
			rootfs.Layers = append(rootfs.Layers, dir)
		}
	}
	if name, err := s.word(mountRecord(id, "mount-id")); err == nil {
		rootfs.Upper, _ = s.layerDir(name)
	}
	return rootfs, nil
}

// imageChain lists the chain ids of the container's image, the lowest first.
func (s *dockerStore) imageChain(id string) ([]digest.Digest, error) {
	top, err := s.word(mountRecord(id, "parent"))
	if err != nil {
		return nil, err
	}
	return s.chain(top)
}

// snapshotRootfs asks the containerd that dockerd started itself, or the
// system's beside it.
func (s *dockerStore) snapshotRootfs(ctx context.Context, id string) (Rootfs, error) {
	errs := []error{fmt.Errorf("directory %s: %w", mountRecord(id, ""), ErrIncomplete)}
	for _, path := range []string{filepath.Join(s.path, "containerd/daemon"), filepath.Join(filepath.Dir(s.path), "containerd")} {
		if !isFileBeneath(path, containerdMetadata) {
			continue
		}
		store := &containerdStore{path: path, chains: map[string]containerdSnapshots{}}
		rootfs, err := store.rootfs(ctx, "moby", containerdRecord{snapshotter: "overlayfs", snapshotKey: id})
		if err == nil {
			return rootfs, nil
		}
		errs = append(errs, err)
	}
	return Rootfs{}, errors.Join(errs...)
}

// VerifyRootfs compares the container's image layers with the digests recorded
// when they were unpacked. An error names the file that differs.
func (s *dockerStore) VerifyRootfs(ctx context.Context, c Container, progress func(done, total int64)) error {
	if _, err := s.record(ctx, c); err != nil {
		return err
	}
	chain, err := s.imageChain(c.ID)
	if err != nil {
		return fmt.Errorf("verifying container %s: %w", c.ID, err)
	}
	layers, err := s.splitLayers(chain)
	if err != nil {
		return fmt.Errorf("verifying container %s: %w", c.ID, err)
	}
	diffs := make([]digest.Digest, len(layers))
	for i, layer := range layers {
		diffs[i] = layer.diffID
	}
	if got, want := identity.ChainID(diffs), chain[len(chain)-1]; got != want {
		return fmt.Errorf("verifying container %s: layers' digests make %s, want %s: %w", c.ID, got, want, ErrIncomplete)
	}
	return verifySplit(ctx, layers, progress)
}
