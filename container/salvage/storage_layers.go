package salvage

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// Rootfs follows the layers of the container's image. For the vfs driver, which
// copies whole trees, the only layer is the container's own tree, its writes
// included.
func (s *storageStore) Rootfs(ctx context.Context, c Container) (Rootfs, error) {
	record, err := s.container(ctx, c)
	if err != nil {
		return Rootfs{}, err
	}
	rootfs, err := s.rootfs(record)
	if err != nil {
		return Rootfs{}, fmt.Errorf("finding layers of container %s: %w", c.ID, err)
	}
	return rootfs, nil
}

func (s *storageStore) rootfs(record storageContainer) (Rootfs, error) {
	own, err := s.layerDir(record.Layer)
	if s.driver == "vfs" {
		return Rootfs{Layers: []string{own}}, err
	}
	rootfs := Rootfs{Upper: own} // "" if it is gone: the layers still stand
	ids, err := s.imageLayers(record)
	if err != nil {
		return Rootfs{}, err
	}
	for _, id := range ids {
		dir, err := s.layerDir(id)
		if err != nil {
			return Rootfs{}, err
		}
		rootfs.Layers = append(rootfs.Layers, dir)
	}
	dirs := rootfs.Layers
	if own != "" {
		dirs = append(slices.Clone(dirs), own)
	}
	return rootfs, s.checkPlain(dirs)
}

// layerDir is where a driver keeps a layer's files, "" if that is gone.
func (s *storageStore) layerDir(id string) (string, error) {
	if !storageID(id) {
		return "", fmt.Errorf("layer id %.80q is none: %w", id, ErrIncomplete)
	}
	name := filepath.Join("overlay", id, "diff")
	if s.driver == "vfs" {
		name = filepath.Join("vfs/dir", id)
	} else if isFileBeneath(s.path, filepath.Join("overlay", id, composefsBlob)) {
		return "", fmt.Errorf("layer %s: its names are in a composefs image: %w", id, ErrIncomplete)
	}
	if !isDirBeneath(s.path, name) {
		return "", fmt.Errorf("directory %s: %w", name, ErrIncomplete)
	}
	return beneath(s.path, name)
}

// imageLayers lists the layers below a container's own, the lowest first: from
// the layers' records, or where those are lost from what the driver itself
// keeps beside the container's layer.
func (s *storageStore) imageLayers(record storageContainer) ([]string, error) {
	top := ""
	if own, ok := s.layers[record.Layer]; ok {
		top = own.Parent
	} else if i := slices.IndexFunc(s.images, func(image storageImage) bool { return image.ID == record.Image }); i >= 0 {
		top = s.images[i].Layer
	} else {
		return s.lowers(record.Layer)
	}
	ids, err := s.chain(top)
	if err == nil {
		return ids, nil
	}
	if ids, lowersErr := s.lowers(record.Layer); lowersErr == nil {
		return ids, nil
	}
	return nil, err
}

// chain follows the layers' records from the topmost; "" is no layer at all.
func (s *storageStore) chain(top string) ([]string, error) {
	var ids []string
	for id := top; id != ""; id = s.layers[id].Parent {
		if _, ok := s.layers[id]; !ok {
			return nil, fmt.Errorf("record of layer %.80q: %w", id, ErrIncomplete)
		}
		if len(ids) == maxLayers {
			return nil, fmt.Errorf("more than %d layers, or a loop: %w", maxLayers, ErrIncomplete)
		}
		ids = append(ids, id)
	}
	slices.Reverse(ids)
	return ids, nil
}

// lowers asks the driver for the layers below one, the lowest first.
func (s *storageStore) lowers(id string) ([]string, error) {
	if s.driver != "overlay" {
		return nil, fmt.Errorf("record of layer %.80q: %w", id, ErrIncomplete)
	}
	return overlayLowers(s.path, s.driver, id, storageID)
}

// VerifyRootfs compares the container's image layers with the digests recorded
// when they were unpacked. An error names the file that differs.
func (s *storageStore) VerifyRootfs(ctx context.Context, c Container, progress func(done, total int64)) error {
	record, err := s.container(ctx, c)
	if err != nil {
		return err
	}
	ids, err := s.imageLayers(record)
	if err != nil {
		return fmt.Errorf("finding layers of container %s: %w", c.ID, err)
	}
	if s.driver == "vfs" {
		return fmt.Errorf("verifying container %s: the vfs driver mixes its writes with its image: %w", c.ID, ErrIncomplete)
	}
	layers, err := s.splitLayers(ids)
	if err != nil {
		return fmt.Errorf("verifying container %s: %w", c.ID, err)
	}
	return verifySplit(ctx, layers, progress)
}

// splitLayers says how to put each layer's archive together again.
func (s *storageStore) splitLayers(ids []string) ([]splitLayer, error) {
	layers := make([]splitLayer, 0, len(ids))
	for _, id := range ids {
		record := s.layers[id]
		if err := record.DiffDigest.Validate(); err != nil {
			return nil, fmt.Errorf("digest %.80q of layer %.80q: %w", record.DiffDigest, id, ErrIncomplete)
		}
		dir, err := s.layerDir(id)
		if err != nil {
			return nil, err
		}
		split, err := splitRecord(s.path, filepath.Join(s.driver+"-layers", id+".tar-split.gz"))
		if err != nil {
			return nil, err
		}
		layers = append(layers, splitLayer{dir: dir, diffID: record.DiffDigest, size: max(0, record.DiffSize), open: split})
	}
	return layers, nil
}
