package salvage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// Rootfs follows the layers' records. Where Docker keeps its images in
// containerd, they are that store's snapshots.
func (s *dockerStore) Rootfs(ctx context.Context, c Container) (Rootfs, error) {
	record, err := s.record(ctx, c)
	if err != nil {
		return Rootfs{}, err
	}
	var rootfs Rootfs
	if record.Driver == "" || record.Driver == dockerDriver {
		rootfs, err = s.rootfs(c.ID)
	} else {
		rootfs, err = s.snapshotRootfs(ctx, record.Driver, c.ID)
	}
	if err != nil {
		return Rootfs{}, fmt.Errorf("finding layers of container %s: %w", c.ID, err)
	}
	return rootfs, nil
}

// mountRecord is the path of a file of a container's record in the layer store.
func mountRecord(id, file string) string {
	return filepath.Join(dockerImages, "layerdb/mounts", id, file)
}

func (s *dockerStore) rootfs(id string) (Rootfs, error) {
	// Without the container's own two layers the image's still stand.
	own, _ := s.word(mountRecord(id, "mount-id"))
	initial, _ := s.word(mountRecord(id, "init-id"))
	layers, err := s.imageLayers(id)
	lowers, lowersErr := overlayLowers(s.path, dockerDriver, own, dockerLayer)
	if n := len(lowers); n > 0 && strings.HasSuffix(lowers[n-1], initSuffix) {
		initial, lowers = lowers[n-1], lowers[:n-1]
	}
	switch {
	case err != nil && lowersErr != nil:
		return Rootfs{}, errors.Join(err, lowersErr)
	case err != nil:
		layers = lowers
	case lowersErr == nil && !slices.Equal(layers, lowers):
		return Rootfs{}, fmt.Errorf("%d layers in %s, and in another order or number (%d) in %s: %w",
			len(layers), dockerImages, len(lowers), filepath.Join(dockerDriver, own, "lower"), ErrIncomplete)
	}
	var rootfs Rootfs
	for _, layer := range layers {
		dir, err := s.layerDir(layer)
		if err != nil {
			return Rootfs{}, err
		}
		rootfs.Layers = append(rootfs.Layers, dir)
	}
	if dir, err := s.layerDir(initial); err == nil {
		rootfs.Layers = append(rootfs.Layers, dir)
	}
	rootfs.Upper, _ = s.layerDir(own)
	return rootfs, nil
}

// imageLayers lists the names of the image's layers in the driver, the lowest
// first, by the layer store's records.
func (s *dockerStore) imageLayers(id string) ([]string, error) {
	chain, err := s.imageChain(id)
	if err != nil {
		return nil, err
	}
	layers := make([]string, len(chain))
	for i, layer := range chain {
		if layers[i], err = s.word(layerRecord(layer, "cache-id")); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// imageChain lists the chain ids of the container's image, the lowest first.
func (s *dockerStore) imageChain(id string) ([]digest.Digest, error) {
	top, err := s.word(mountRecord(id, "parent"))
	if err != nil {
		return nil, err
	}
	return s.chain(top)
}

// dockerNamespace is where dockerd keeps what is its own in containerd.
const dockerNamespace = "moby"

// dockerContainerd is the root, below its own directory, of the containerd that a
// dockerd starts itself.
const dockerContainerd = "containerd/daemon"

// dockerContainerds are the roots of the containerds that a dockerd may keep its
// images in, of those that are there: the one that it started itself, and the
// system's beside it.
func dockerContainerds(path string) []string {
	return slices.DeleteFunc([]string{filepath.Join(path, dockerContainerd), filepath.Join(filepath.Dir(path), "containerd")},
		func(root string) bool { return !isFileBeneath(root, containerdMetadata) })
}

// snapshotRootfs looks for the snapshot whose key is the container's id.
func (s *dockerStore) snapshotRootfs(ctx context.Context, snapshotter, id string) (Rootfs, error) {
	errs := []error{fmt.Errorf("driver %q: no snapshot: %w", snapshotter, ErrIncomplete)}
	for _, path := range dockerContainerds(s.path) {
		rootfs, err := newContainerdStore(path, dockerNamespace).rootfs(ctx, dockerNamespace, containerdRecord{snapshotter: snapshotter, snapshotKey: id})
		if err == nil {
			return rootfs, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", path, err))
	}
	return Rootfs{}, errors.Join(errs...)
}

// VerifyRootfs compares the container's image layers with the digests recorded
// when they were unpacked. An error names the file that differs. Snapshots of
// containerd cannot be verified in place: their image is to be unpacked anew.
func (s *dockerStore) VerifyRootfs(ctx context.Context, c Container, progress func(done, total int64)) error {
	record, err := s.record(ctx, c)
	if err != nil {
		return err
	}
	if record.Driver != "" && record.Driver != dockerDriver {
		return fmt.Errorf("verifying container %s: driver %q keeps no record of its layers' archives: %w", c.ID, record.Driver, ErrIncomplete)
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
