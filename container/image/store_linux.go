package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Store is a directory of unpacked layers that all containers of a host share:
//
//	sha256-<hex>        a layer, as overlayfs wants it: whiteouts are 0:0 character devices, opaque directories have
//	                    trusted.overlay.opaque. Verified and on disk before it got this name, never changed after.
//	sha256-<hex>.tmp    one that is being unpacked or removed
//	sha256-<hex>.lock   flock'ed by whoever works on the layer
//	lock                flock'ed, shared while layers are about to be used, exclusively while layers are removed
//
// <hex> is the chainID of the layer (OCI image specification, config.md): the layer together with all below it. A
// layer may hold a file without its directory, and then the directory's mode and owner are those it has further below;
// so the same diffID can mean different trees. The directory has mode 0700: layers hold set-uid programs.
type Store struct{ dir string }

// ErrBusy says that layers cannot be removed now.
var ErrBusy = errors.New("another process is about to use layers of this store")

// layerName is made when it is first needed: a large program, for which every
// command would wait.
var layerName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^sha(256-[0-9a-f]{64}|512-[0-9a-f]{128})$`)
})

const (
	tmpSuffix  = ".tmp"
	lockSuffix = ".lock"
)

// OpenStore opens or creates a store. The sentences say what a dead process had left half-made there and was removed;
// what a living process works on stays.
func OpenStore(dir string) (*Store, []string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("opening layer store: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("opening layer store: %w", err)
	}
	s := &Store{dir: dir}
	removed, err := s.sweep()
	if err != nil {
		return nil, removed, fmt.Errorf("opening layer store %s: %w", dir, err)
	}
	return s, removed, nil
}

// Dir is the store's directory: absolute, and on the same filesystem as its layers. OpenArchive may spool there.
func (s *Store) Dir() string { return s.dir }

func (s *Store) sweep() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, e := range entries {
		name, isTmp := strings.CutSuffix(e.Name(), tmpSuffix)
		name, isLock := strings.CutSuffix(name, lockSuffix)
		if !(isTmp || isLock) || !layerName().MatchString(name) {
			continue
		}
		l, err := tryLock(filepath.Join(s.dir, name+lockSuffix), unix.LOCK_EX)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		} else if err != nil {
			return removed, err
		}
		tmp := filepath.Join(s.dir, name+tmpSuffix)
		_, statErr := os.Lstat(tmp)
		err = errors.Join(removeTree(tmp), l.remove())
		if err != nil {
			return removed, err
		}
		if statErr == nil {
			removed = append(removed, fmt.Sprintf("removed the half-made layer %s, which a process that died had left in %s", strings.Replace(name, "-", ":", 1), s.dir))
		}
	}
	return removed, nil
}

// Prune removes the layers that are not among inUse (directories as in Unpacked.Layers) and returns the directories
// it removed. While another process has an Unpacked open, it returns ErrBusy and removes nothing.
func (s *Store) Prune(inUse []string) ([]string, error) {
	all, err := tryLock(filepath.Join(s.dir, "lock"), unix.LOCK_EX)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("pruning %s: %w", s.dir, ErrBusy)
	} else if err != nil {
		return nil, fmt.Errorf("pruning %s: %w", s.dir, err)
	}
	defer all.release()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("pruning %s: %w", s.dir, err)
	}
	var removed []string
	for _, e := range entries {
		dir := filepath.Join(s.dir, e.Name())
		if !layerName().MatchString(e.Name()) || slices.Contains(inUse, dir) {
			continue
		}
		if err := s.removeLayer(dir); err != nil {
			return removed, fmt.Errorf("removing layer %s: %w", dir, err)
		}
		removed = append(removed, dir)
	}
	return removed, nil
}

func (s *Store) removeLayer(dir string) error {
	l, err := tryLock(dir+lockSuffix, unix.LOCK_EX)
	if err != nil {
		return err
	}
	// Renamed first: a layer that is only half there must not bear its name.
	if err := os.Rename(dir, dir+tmpSuffix); err != nil {
		return errors.Join(err, l.remove())
	}
	return errors.Join(removeTree(dir+tmpSuffix), l.remove())
}

func (s *Store) path(chain digest.Digest) string {
	return filepath.Join(s.dir, chain.Algorithm().String()+"-"+chain.Encoded())
}

func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", dir, err)
	}
	return nil
}

// syncTree puts everything written so far on disk, directories and attributes too, with one call for the filesystem.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncing the filesystem of %s: %w", dir, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
