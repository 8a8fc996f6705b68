package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	defaultMaxBytes   = 64 << 30
	defaultMaxEntries = 4_000_000
	// maxParallel bounds the layers unpacked at once, and with them the memory: each has its own decompressor.
	maxParallel = 8
)

// Options bound and report an unpack.
type Options struct {
	// MaxBytes bounds the uncompressed size of all layers together, in bytes; 0 means 64 GiB. The free space of the
	// store's filesystem bounds it as well.
	MaxBytes int64
	// MaxEntries bounds the files, directories and links of all layers together; 0 means 4 million.
	MaxEntries int64
	// Progress, if set, is called as blobs are read, one call at a time.
	Progress func(Progress)
}

// Progress is how far an unpack is.
type Progress struct {
	Layer, Layers int   // the layer that moved, from 1; layers are unpacked in parallel
	Done, Total   int64 // compressed bytes of all layers; layers that were in the store already count as done
}

// Unpacked is an image as directories of the store.
type Unpacked struct {
	// Layers are directories for Mount, lowest first.
	Layers []string
	Config ocispec.Image

	lock *flock
}

// Close lets Prune remove layers again. Call it when the container that uses the layers is on record.
func (u *Unpacked) Close() error { return u.lock.release() }

// Unpack puts the layers of an image into the store, those that are not there yet in parallel, and verifies the digest
// and size of each blob and of its uncompressed tar. Processes that want the same layer share one unpack. On an error
// the layers that were complete stay, nothing half-made does.
//
// Errors: those of Image.Manifest; ErrVerification; ErrInvalid for a broken tar; ErrLimit; unix.ENOSPC.
func (s *Store) Unpack(ctx context.Context, im *Image, o Options) (_ *Unpacked, err error) {
	m, config, err := im.Manifest(ctx)
	if err != nil {
		return nil, err
	}
	lock, err := waitLock(ctx, filepath.Join(s.dir, "lock"), unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("locking layer store: %w", err)
	}
	defer func() {
		if err != nil {
			lock.release()
		}
	}()
	budget, err := s.newBudget(o)
	if err != nil {
		return nil, err
	}
	u := &unpack{store: s, image: im, budget: budget, report: newReport(m.Layers, o.Progress)}
	dirs, err := u.layers(ctx, m.Layers, config.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	return &Unpacked{Layers: dirs, Config: config, lock: lock}, nil
}

type unpack struct {
	store  *Store
	image  *Image
	budget *budget
	report *report
}

func (u *unpack) layers(ctx context.Context, descs []ocispec.Descriptor, diffIDs []digest.Digest) ([]string, error) {
	// ChainIDs overwrites its argument.
	chains := identity.ChainIDs(append([]digest.Digest(nil), diffIDs...))
	dirs := make([]string, len(chains))
	ready := make([]chan struct{}, len(chains)) // closed when the layer and all below are in the store
	for i, c := range chains {
		dirs[i], ready[i] = u.store.path(c), make(chan struct{})
	}
	g, ctx := errgroup.WithContext(ctx)
	// More than there are cores: some of them wait for the disk.
	g.SetLimit(min(runtime.GOMAXPROCS(0)+2, maxParallel))
	for i := range chains {
		// Lower layers are started first and only ever wait for lower ones, so the lowest one always moves on.
		g.Go(func() error {
			l := layer{unpack: u, n: i, desc: descs[i], diffID: diffIDs[i], dir: dirs[i], lower: dirs[:i]}
			below := ready[max(i-1, 0)]
			if i == 0 {
				below = closed()
			}
			if err := l.provide(ctx, below); err != nil {
				return fmt.Errorf("unpacking layer %d of %d, %s: %w", i+1, len(descs), l.desc.Digest, err)
			}
			close(ready[i])
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return uncovered(dirs)
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// uncovered leaves out the layers below one whose root is opaque: overlayfs merges roots without looking at that.
func uncovered(dirs []string) ([]string, error) {
	for i := len(dirs) - 1; i > 0; i-- {
		opaque, err := isOpaque(dirs[i])
		if err != nil {
			return nil, err
		}
		if opaque {
			return dirs[i:], nil
		}
	}
	return dirs, nil
}

// layer is one layer on its way into the store.
type layer struct {
	*unpack
	n      int // from 0, the lowest
	desc   ocispec.Descriptor
	diffID digest.Digest
	dir    string
	lower  []string // directories of the layers below, lowest first
}

// provide sees to it that the layer is in the store. It publishes it only after the layers below are there.
func (l layer) provide(ctx context.Context, below <-chan struct{}) error {
	if there, err := l.there(); there || err != nil {
		return err
	}
	lock, err := waitLock(ctx, l.dir+lockSuffix, unix.LOCK_EX)
	if err != nil {
		return err
	}
	// Another process may have been faster, or may have died over it.
	there, err := l.there()
	if err == nil && !there {
		err = l.make(ctx, below)
		if err != nil {
			err = errors.Join(err, removeTree(l.dir+tmpSuffix))
		}
	}
	return errors.Join(err, lock.remove())
}

func (l layer) there() (bool, error) {
	_, err := os.Lstat(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	l.report.skip(l.n)
	return true, nil
}

func (l layer) make(ctx context.Context, below <-chan struct{}) error {
	tmp := l.dir + tmpSuffix
	if err := removeTree(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil { // whatever the umask is
		return err
	}
	implied, err := l.extract(ctx, tmp)
	if err != nil {
		return err
	}
	select {
	case <-below:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := inherit(tmp, implied, l.lower); err != nil {
		return fmt.Errorf("copying the attributes of directories from lower layers: %w", err)
	}
	// Without this a power loss leaves a layer of empty files that nobody would verify again.
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, l.dir); err != nil {
		return err
	}
	return syncDir(l.store.dir)
}

// extract unpacks the blob into dir and verifies it. It returns the directories that the tar has files in but does not
// describe, relative to dir.
func (l layer) extract(ctx context.Context, dir string) ([]string, error) {
	ra, err := openBlob(ctx, l.image.Provider, l.desc)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	blobHash, diffHash := l.desc.Digest.Verifier(), l.diffID.Verifier()
	source := l.report.reader(l.n, io.NewSectionReader(ra, 0, l.desc.Size))
	raw := readAhead(io.TeeReader(source, blobHash))
	defer raw.Close()

	implied, asIs, err := l.untar(ctx, dir, raw, diffHash)
	if errors.Is(err, ErrLimit) || errors.Is(err, unix.ENOSPC) || ctx.Err() != nil {
		return nil, err
	}
	// What is left is read even after an error: bytes that are not the promised ones explain everything else.
	if _, drainErr := io.Copy(io.Discard, raw); drainErr != nil {
		return nil, fmt.Errorf("reading blob: %w", drainErr)
	}
	switch {
	case !blobHash.Verified() && err != nil:
		return nil, fmt.Errorf("%w: the bytes of the blob do not have its digest (%w)", ErrVerification, err)
	case !blobHash.Verified():
		return nil, fmt.Errorf("%w: the bytes of the blob do not have its digest", ErrVerification)
	case err != nil:
		return nil, err
	case !asIs && !diffHash.Verified():
		return nil, fmt.Errorf("%w: the uncompressed layer does not have the diffID %s", ErrVerification, l.diffID)
	}
	return implied, nil
}

// untar decompresses raw to its end, extracts it and hashes it; not where the blob is the tar as it is, and hashed as
// that.
func (l layer) untar(ctx context.Context, dir string, raw io.Reader, hash io.Writer) (implied []string, asIs bool, err error) {
	plain, kind, err := decompress(raw)
	if err != nil {
		return nil, false, fmt.Errorf("decompressing: %w", err)
	}
	defer plain.Close()
	stream := l.budget.reader(plain)
	asIs = kind == plainTar && l.desc.Digest == l.diffID
	if !asIs {
		ahead := readAhead(io.TeeReader(stream, hash))
		defer ahead.Close() // before plain: its goroutine reads from that
		stream = ahead
	}
	if implied, err = apply(ctx, dir, stream, l.n == 0, l.budget); err != nil {
		return nil, asIs, fmt.Errorf("extracting: %w", err)
	}
	// A tar ends with padding that is part of the diffID.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return nil, asIs, fmt.Errorf("reading the end of the tar: %w", err)
	}
	return implied, asIs, nil
}

// report counts what has been read of each layer.
type report struct {
	mu     sync.Mutex
	to     func(Progress)
	layers []ocispec.Descriptor
	now    Progress
}

func newReport(layers []ocispec.Descriptor, to func(Progress)) *report {
	r := &report{to: to, layers: layers, now: Progress{Layers: len(layers)}}
	for _, l := range layers {
		r.now.Total += l.Size
	}
	return r
}

func (r *report) add(layer int, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.Layer = layer + 1
	r.now.Done += n
	if r.to != nil {
		r.to(r.now)
	}
}

func (r *report) skip(layer int) { r.add(layer, r.layers[layer].Size) }

func (r *report) reader(layer int, from io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		n, err := from.Read(p)
		r.add(layer, int64(n))
		return n, err
	})
}
