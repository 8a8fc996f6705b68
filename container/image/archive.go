package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxArchiveFiles bounds the index of an archive: images have hundreds of files, not layers' contents.
	maxArchiveFiles = 1 << 16
	// maxArchiveName bounds a name in it, in bytes (PATH_MAX).
	maxArchiveName = 4096
	// maxSpool bounds what a compressed archive may become on disk, in bytes.
	maxSpool = 256 << 30
)

// OpenArchive opens an image in a tar file as written by `docker save`, `podman save`, `skopeo copy docker-archive:` or
// `skopeo copy oci-archive:`. An empty name stands for the only image in it. Layers are read in place; an archive
// that is compressed as a whole (gzip, zstd, bzip2) is first decompressed to a nameless file in the directory spool.
// Close the image after use.
//
// Errors: ErrInvalid, ErrUnsupported (xz, or no tar), ErrLimit, ErrNotFound, ErrAmbiguous.
func OpenArchive(file, name, spool string) (*Image, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening archive: %w: %w", ErrNotFound, err)
	} else if err != nil {
		return nil, fmt.Errorf("opening archive: %w", err)
	}
	im, err := openArchive(f, name, spool)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening archive %s: %w", file, err)
	}
	return im, nil
}

// openArchive takes over f when it succeeds.
func openArchive(f *os.File, name, spool string) (*Image, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: not a regular file", ErrInvalid)
	}
	t := &tarFiles{ra: f}
	closer := io.Closer(f)
	if compressed, err := isCompressed(f); err != nil {
		return nil, err
	} else if compressed {
		plain, err := decompressTo(spool, f)
		if err != nil {
			return nil, fmt.Errorf("decompressing: %w", err)
		}
		t.ra, closer = plain, both{plain, f}
		if st, err = plain.Stat(); err != nil {
			plain.Close()
			return nil, err
		}
	}
	im, err := openTar(t, st.Size(), name)
	if err != nil {
		if closer != io.Closer(f) {
			closer.(both)[0].Close()
		}
		return nil, err
	}
	im.closer = closer
	return im, nil
}

func openTar(t *tarFiles, size int64, name string) (*Image, error) {
	if err := t.index(size); err != nil {
		return nil, fmt.Errorf("reading tar: %w", err)
	}
	// The layout says more than manifest.json, and says it with digests: it wins where both are.
	if _, ok := t.byName[ocispec.ImageIndexFile]; ok {
		return openLayout(t, name)
	}
	return openDocker(t, name)
}

type both [2]io.Closer

func (b both) Close() error { return errors.Join(b[0].Close(), b[1].Close()) }

// tarFiles is the index of a tar file: where the data of each regular file lies.
type tarFiles struct {
	ra     io.ReaderAt
	byName map[string]tarFile
}

type tarFile struct {
	offset, size int64
	link         string // for links, the path it leads to
}

func (t *tarFiles) index(size int64) error {
	t.byName = map[string]tarFile{}
	sr := io.NewSectionReader(t.ra, 0, size)
	tr := tar.NewReader(sr)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if n >= maxArchiveFiles || len(hdr.Name) > maxArchiveName || len(hdr.Linkname) > maxArchiveName {
			return fmt.Errorf("%w: more than %d files or a name longer than %d bytes", ErrLimit, maxArchiveFiles, maxArchiveName)
		}
		name := path.Clean("/" + hdr.Name)[1:]
		switch hdr.Typeflag {
		case tar.TypeReg:
			// tar.Reader reads its source in whole blocks and no further than the header.
			offset, err := sr.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if offset+hdr.Size > size {
				return fmt.Errorf("%w: it ends within %.200q", ErrInvalid, name)
			}
			t.byName[name] = tarFile{offset: offset, size: hdr.Size}
		case tar.TypeSymlink:
			t.byName[name] = tarFile{link: path.Join("/", path.Dir(name), hdr.Linkname)[1:]}
		case tar.TypeLink:
			t.byName[name] = tarFile{link: path.Clean("/" + hdr.Linkname)[1:]}
		}
	}
}

func (t *tarFiles) find(name string) (tarFile, error) {
	const hops = 8
	at := name
	for range hops {
		f, ok := t.byName[at]
		if !ok {
			return f, fmt.Errorf("finding %.200q in the archive: %w", name, fs.ErrNotExist)
		}
		if f.link == "" {
			return f, nil
		}
		at = f.link
	}
	return tarFile{}, fmt.Errorf("finding %.200q in the archive: %w: too many links", name, ErrInvalid)
}

func (t *tarFiles) open(name string) (*blob, error) {
	f, err := t.find(path.Clean("/" + name)[1:])
	if err != nil {
		return nil, err
	}
	return &blob{ReaderAt: io.NewSectionReader(t.ra, f.offset, f.size), size: f.size}, nil
}

// decompressTo decompresses into a file without a name, which vanishes when it is closed or its process dies.
func decompressTo(dir string, r io.Reader) (*os.File, error) {
	plain, _, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(plain, maxSpool+1))
	var disk *fs.PathError
	switch {
	case err == nil && n > maxSpool:
		err = fmt.Errorf("%w: more than %d bytes", ErrLimit, int64(maxSpool))
	case err != nil && !errors.As(err, &disk):
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isCompressed looks at the first bytes. A tar starts with a name and has its magic far behind it.
func isCompressed(ra io.ReaderAt) (bool, error) {
	head := make([]byte, 512)
	n, err := ra.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return false, err
	}
	switch kind := sniff(head[:n]); {
	case kind != plainTar:
		return true, nil
	case n < 512 || !strings.HasPrefix(string(head[257:]), "ustar"):
		return false, fmt.Errorf("%w: neither a tar file nor one compressed with gzip, zstd or bzip2", ErrUnsupported)
	}
	return false, nil
}
