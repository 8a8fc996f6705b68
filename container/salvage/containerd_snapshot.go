package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// containerdSnapshots is a snapshotter's own database (core/snapshots/storage,
// "v1"/"snapshots"): the directory and the parent of each snapshot by its name
// there, NAMESPACE/SERIAL/KEY.
type containerdSnapshots map[string]containerdSnapshot

type containerdSnapshot struct {
	id     uint64 // its directory's name
	parent string
	active bool // a container's own, writable
}

const snapshotActive = 2 // snapshots.KindActive as stored

// maxLayers bounds a chain of snapshots. Overlayfs itself takes 500.
const maxLayers = 500

// Rootfs follows the container's snapshots in the snapshotter's database. For
// the native snapshotter, which copies whole trees, the only layer is the
// container's own tree, its writes included.
func (s *containerdStore) Rootfs(ctx context.Context, c Container) (Rootfs, error) {
	record, err := s.record(ctx, c)
	if err != nil {
		return Rootfs{}, err
	}
	rootfs, err := s.rootfs(ctx, c.Namespace, record)
	if err != nil {
		return Rootfs{}, fmt.Errorf("finding snapshots of container %s/%s: %w", c.Namespace, c.ID, err)
	}
	return rootfs, nil
}

func (s *containerdStore) rootfs(ctx context.Context, namespace string, record containerdRecord) (Rootfs, error) {
	if record.snapshotter != "overlayfs" && record.snapshotter != "native" {
		return Rootfs{}, fmt.Errorf("snapshotter %q does not keep plain directories: %w", record.snapshotter, ErrIncomplete)
	}
	snapshots, err := s.snapshots(ctx, record.snapshotter)
	if err != nil {
		return Rootfs{}, err
	}
	name, ok := snapshots.find(namespace, record.snapshotKey)
	if !ok {
		return Rootfs{}, fmt.Errorf("snapshot %s: %w", record.snapshotKey, ErrIncomplete)
	}
	if record.snapshotter == "native" {
		dir, err := s.snapshotDir(record.snapshotter, snapshots[name], "")
		return Rootfs{Layers: []string{dir}}, err
	}
	var rootfs Rootfs
	for range maxLayers {
		snapshot, ok := snapshots[name]
		if !ok {
			return Rootfs{}, fmt.Errorf("parent snapshot %s: %w", name, ErrIncomplete)
		}
		dir, err := s.snapshotDir(record.snapshotter, snapshot, "fs")
		switch {
		case snapshot.active:
			rootfs.Upper = dir // "" if it is gone: the layers still stand
		case err != nil:
			return Rootfs{}, err
		default:
			rootfs.Layers = append(rootfs.Layers, dir)
		}
		if name = snapshot.parent; name == "" {
			slices.Reverse(rootfs.Layers)
			return rootfs, nil
		}
	}
	return Rootfs{}, fmt.Errorf("more than %d snapshots, or a loop: %w", maxLayers, ErrIncomplete)
}

func (s *containerdStore) snapshotDir(snapshotter string, snapshot containerdSnapshot, sub string) (string, error) {
	name := filepath.Join(containerdSnapshotter+snapshotter, "snapshots", strconv.FormatUint(snapshot.id, 10), sub)
	if !isDirBeneath(s.path, name) {
		return "", fmt.Errorf("directory %s: %w", name, ErrIncomplete)
	}
	return beneath(s.path, name)
}

// snapshots reads a snapshotter's database once.
func (s *containerdStore) snapshots(ctx context.Context, snapshotter string) (containerdSnapshots, error) {
	if known, ok := s.chains[snapshotter]; ok {
		return known, nil
	}
	db, err := openBolt(ctx, s.path, containerdSnapshotter+snapshotter+"/metadata.db")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading snapshotter %s: %w: %w", snapshotter, ErrIncomplete, err)
	} else if err != nil {
		return nil, fmt.Errorf("reading snapshotter %s: %w", snapshotter, err)
	}
	defer db.Close()
	snapshots := containerdSnapshots{}
	for _, entry := range db.root.bucket("v1", "snapshots").entries() {
		id, n := binary.Uvarint(entry.bucket.get("id"))
		if entry.bucket == nil || n <= 0 {
			continue
		}
		kind := entry.bucket.get("kind")
		snapshots[string(entry.key)] = containerdSnapshot{
			id: id, parent: string(entry.bucket.get("parent")), active: len(kind) == 1 && kind[0] == snapshotActive,
		}
	}
	if len(snapshots) == 0 {
		return nil, fmt.Errorf("reading snapshotter %s: no record is readable: %w", snapshotter, errors.Join(append(db.damage, ErrIncomplete)...))
	}
	s.chains[snapshotter] = snapshots
	return snapshots, nil
}

// find returns the name of a namespace's snapshot. Of one deleted but not yet
// collected and one made again with the same key, the later has the higher
// serial.
func (s containerdSnapshots) find(namespace, key string) (string, bool) {
	name, best, found := "", uint64(0), false
	for candidate := range s {
		ns, serial, k, ok := splitSnapshotName(candidate)
		if ok && k == key && (namespace == "" || ns == namespace) && (!found || serial > best) {
			name, best, found = candidate, serial, true
		}
	}
	return name, found
}

func splitSnapshotName(name string) (namespace string, serial uint64, key string, ok bool) {
	namespace, rest, ok := strings.Cut(name, "/")
	if !ok {
		return "", 0, "", false
	}
	number, key, ok := strings.Cut(rest, "/")
	serial, err := strconv.ParseUint(number, 10, 64)
	return namespace, serial, key, ok && err == nil
}

// namespaces maps the keys of active snapshots to their namespace, for records
// that lost theirs. What cannot be read is left out.
func (s *containerdStore) namespaces(ctx context.Context) map[string]string {
	namespaces := map[string]string{}
	for _, snapshotter := range []string{"native", "overlayfs"} {
		snapshots, err := s.snapshots(ctx, snapshotter)
		if err != nil {
			continue // most hosts use one of the two
		}
		for name, snapshot := range snapshots {
			if namespace, _, key, ok := splitSnapshotName(name); ok && snapshot.active {
				namespaces[key] = namespace
			}
		}
	}
	return namespaces
}
