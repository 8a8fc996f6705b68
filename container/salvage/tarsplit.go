package salvage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
)

// Bounds on a tar-split record. The largest segment is an extended header or a
// megabyte of padding, in base64.
const (
	maxSplitEntry  = 16 << 20 // bytes of one JSON line
	maxSplitRecord = 2 << 30  // bytes of JSON
	maxLayerTar    = 1 << 40  // bytes of the archive
)

// Verifier is a [Store] that can tell whether a container's image layers still
// have the bytes that were once unpacked.
type Verifier interface {
	// VerifyRootfs compares every layer of the container's image with its digest,
	// and its directory with the names in it: none may be missing or new. The
	// error wraps [ErrIncomplete] and names the first layer and, where known, the
	// file that differs. progress, which may be nil, is told bytes read.
	VerifyRootfs(ctx context.Context, c Container, progress func(done, total int64)) error
}

// splitLayer is one layer of a dead graph driver: a directory and the tar-split
// record with which its archive can be made again, bit by bit.
type splitLayer struct {
	dir    string                        // the layer's files
	open   func() (io.ReadCloser, error) // tar-split.json.gz, still compressed
	diffID digest.Digest                 // of the archive
	size   int64                         // of the archive, an upper bound in bytes; 0 if unknown
}

// splitRecord returns how to open a layer's record, which must be there.
func splitRecord(root, name string) (func() (io.ReadCloser, error), error) {
	if !isFileBeneath(root, name) {
		return nil, fmt.Errorf("file %s: %w", name, ErrIncomplete)
	}
	return func() (io.ReadCloser, error) {
		file, _, err := openBeneath(root, name)
		if err != nil {
			return nil, err
		}
		return file, nil
	}, nil
}

// archiveSize adds up what the record says, without reading the files.
func (l splitLayer) archiveSize(ctx context.Context) (int64, error) {
	entries, err := l.entries()
	if err != nil {
		return 0, l.failed(ctx, err)
	}
	defer entries.Close()
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return 0, l.failed(ctx, err)
		}
		if entry.Type == storage.SegmentType {
			size += int64(len(entry.Payload))
		} else {
			size += entry.Size
		}
		if size > maxLayerTar {
			return 0, l.failed(ctx, fmt.Errorf("archive has more than %d bytes", int64(maxLayerTar)))
		}
	}
}

// assemble writes the archive and compares its digest at the end.
func (l splitLayer) assemble(ctx context.Context, w io.Writer) error {
	if err := l.diffID.Validate(); err != nil {
		return fmt.Errorf("assembling layer %q: %w", l.diffID, err)
	}
	root, err := os.OpenRoot(l.dir)
	if err != nil {
		return l.failed(ctx, err)
	}
	defer root.Close()
	entries, err := l.entries()
	if err != nil {
		return l.failed(ctx, err)
	}
	defer entries.Close()
	hash := l.diffID.Algorithm().Hash()
	out := &boundedWriter{ctx: ctx, w: io.MultiWriter(hash, w), left: maxLayerTar}
	if l.size > 0 {
		out.left = l.size
	}
	if err := asm.WriteOutputTarStream(splitFiles{root, entries}, entries, out); err != nil {
		return l.failed(ctx, err)
	}
	if got := digest.NewDigest(l.diffID.Algorithm(), hash); got != l.diffID {
		return l.failed(ctx, fmt.Errorf("content is %s", got))
	}
	return nil
}

func (l splitLayer) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errSpool) { // for want of room here, not of bytes there
		return fmt.Errorf("assembling layer %s: %w", l.diffID, err)
	}
	return fmt.Errorf("assembling layer %s: %w: %w", l.diffID, ErrIncomplete, err)
}

// errSpool marks an error of the archive's destination.
var errSpool = errors.New("writing archive")

// boundedWriter stops a copy once its context is done, or once it is longer than
// the archive was.
type boundedWriter struct {
	ctx  context.Context //nolint:containedctx // lives for one copy
	w    io.Writer
	left int64
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("archive is longer than recorded")
	}
	n, err := b.w.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return n, err
}

// splitEntries reads a record and remembers the entry last read, because the
// reader of a file is told only its name.
type splitEntries struct {
	storage.Unpacker
	file io.Closer
	last *storage.Entry
}

func (l splitLayer) entries() (*splitEntries, error) {
	file, err := l.open()
	if err != nil {
		return nil, err
	}
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading tar-split record: %w", err), file.Close())
	}
	bounded := &lineReader{r: io.LimitReader(unzipped, maxSplitRecord)}
	return &splitEntries{Unpacker: storage.NewJSONUnpacker(bounded), file: file}, nil
}

func (e *splitEntries) Close() error { return e.file.Close() }

// Next implements storage.Unpacker.
func (e *splitEntries) Next() (*storage.Entry, error) {
	entry, err := e.Unpacker.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF // a truncated record ends in io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("reading tar-split record: %w", err)
	}
	if entry.Size < 0 || entry.Size > maxLayerTar || entry.Type != storage.FileType && entry.Type != storage.SegmentType {
		return nil, fmt.Errorf("reading tar-split record: entry %d has type %d and size %d", entry.Position, entry.Type, entry.Size)
	}
	e.last = entry
	return entry, nil
}

// lineReader fails where a line is longer than maxSplitEntry: a JSON decoder
// holds the whole of it.
type lineReader struct {
	r    io.Reader
	line int // bytes since the last line feed
}

func (l *lineReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if i := bytes.LastIndexByte(p[:n], '\n'); i >= 0 {
		l.line = n - i - 1
	} else if l.line += n; l.line > maxSplitEntry {
		return 0, fmt.Errorf("line has more than %d bytes", maxSplitEntry)
	}
	return n, err
}

// splitFiles opens a layer's files. No link leads out of root.
type splitFiles struct {
	root    *os.Root
	entries *splitEntries
}

// Get implements storage.FileGetter. A file of another size than recorded, what
// power loss leaves behind, is an error by itself.
func (f splitFiles) Get(name string) (io.ReadCloser, error) {
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	info, err := f.root.Lstat(rel)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != f.entries.last.Size {
		return nil, fmt.Errorf("file %q: %s of %d bytes, want a regular file of %d bytes", name, info.Mode().Type(), info.Size(), f.entries.last.Size)
	}
	file, err := f.root.OpenFile(rel, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return limitedFile{io.LimitReader(file, info.Size()), file}, nil
}

// limitedFile ends where the record says, even if the file grows meanwhile.
type limitedFile struct {
	io.Reader
	io.Closer
}

// verifySplit verifies every layer; the error names the first layer and, where
// known, the file that differs.
func verifySplit(ctx context.Context, layers []splitLayer, progress func(done, total int64)) error {
	var total int64
	for _, layer := range layers {
		if layer.size == 0 {
			size, err := layer.archiveSize(ctx)
			if err != nil {
				return err
			}
			layer.size = size
		}
		total += layer.size
	}
	count := &progressWriter{total: total, report: progress}
	for _, layer := range layers {
		if err := layer.verify(ctx, count); err != nil {
			return err
		}
	}
	if progress != nil {
		progress(count.done, total)
	}
	return nil
}

// progressStep is how many bytes pass between two reports.
const progressStep = 8 << 20

type progressWriter struct {
	done, total, told int64
	report            func(done, total int64)
}

func (w *progressWriter) Write(p []byte) (int, error) {
	w.done += int64(len(p))
	if w.report != nil && w.done-w.told >= progressStep {
		w.told = w.done
		w.report(w.done, w.total)
	}
	return len(p), nil
}

// matchLayers compares an image's layers with what its configuration says.
func matchLayers(config []byte, layers []splitLayer) (ocispec.Image, error) {
	var parsed ocispec.Image
	if err := json.Unmarshal(config, &parsed); err != nil {
		return ocispec.Image{}, fmt.Errorf("reading image config: %w: %w", ErrIncomplete, err)
	}
	sameLayer := func(id digest.Digest, layer splitLayer) bool { return id == layer.diffID }
	if !slices.EqualFunc(parsed.RootFS.DiffIDs, layers, sameLayer) {
		return ocispec.Image{}, fmt.Errorf("matching layers to image config: %d layers, config has %v: %w", len(layers), parsed.RootFS.DiffIDs, ErrIncomplete)
	}
	return parsed, nil
}

// splitImage returns a provider of a synthesized OCI manifest, the config blob
// and uncompressed layers, and the manifest's descriptor. The same input gives
// the same manifest. The size of a layer takes reading the whole of its record.
func splitImage(ctx context.Context, config []byte, layers []splitLayer) (content.Provider, ocispec.Descriptor, error) {
	parsed, err := matchLayers(config, layers)
	if err != nil {
		return nil, ocispec.Descriptor{}, err
	}
	provider := splitBlobs{small: map[digest.Digest][]byte{}, layers: map[digest.Digest]splitLayer{}}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    provider.add(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{},
	}
	for _, layer := range layers {
		size, err := layer.archiveSize(ctx)
		if err != nil {
			return nil, ocispec.Descriptor{}, err
		}
		layer.size = size
		provider.layers[layer.diffID] = layer
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: layer.diffID, Size: size})
	}
	data, err := json.Marshal(manifest)
	if err != nil {
		return nil, ocispec.Descriptor{}, fmt.Errorf("encoding manifest: %w", err)
	}
	target := provider.add(ocispec.MediaTypeImageManifest, data)
	target.Platform = &ocispec.Platform{Architecture: parsed.Architecture, OS: parsed.OS, Variant: parsed.Variant}
	return provider, target, nil
}

// splitBlobs is a content.Provider of an image that exists only in pieces.
type splitBlobs struct {
	small  map[digest.Digest][]byte // manifest and config
	layers map[digest.Digest]splitLayer
}

func (b splitBlobs) add(mediaType string, data []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	b.small[desc.Digest] = data
	return desc
}

// ReaderAt re-assembles a layer into a nameless temporary file, so its digest is
// verified before the first byte is read.
func (b splitBlobs) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if data, ok := b.small[desc.Digest]; ok {
		return smallReader{bytes.NewReader(data)}, nil
	}
	layer, ok := b.layers[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("opening blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	}
	file, err := namelessFile()
	if err != nil {
		return nil, err
	}
	if err := layer.assemble(ctx, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return spooledReader{file, layer.size}, nil
}

type smallReader struct{ *bytes.Reader }

func (smallReader) Close() error { return nil }

type spooledReader struct {
	*os.File
	size int64
}

func (r spooledReader) Size() int64 { return r.size }
