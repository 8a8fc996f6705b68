package salvage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxLayerNames bounds the entries of a layer, and what its directory has beyond
// them.
const maxLayerNames = 4 << 20

// maxNameLength is the kernel's PATH_MAX: no file can have a longer name.
const maxNameLength = 4096

// How an archive says that a name of a lower layer is gone (image-spec,
// layer.md). Names with the second prefix are about a directory as a whole.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
)

// typeWhiteout stands among archive/tar's type flags for a name that is gone.
const typeWhiteout = 'W'

// splitName is what an archive says of a name.
type splitName struct {
	flag byte // of archive/tar, or typeWhiteout
	link string
	size int64
}

// verify assembles the archive, which reads every regular file that is not
// empty, and compares the archive's names with the directory, which covers the
// rest: a link, an empty file or a directory that is gone, and files the layer
// never had. Owners, modes and attributes are not compared.
func (l splitLayer) verify(ctx context.Context, w io.Writer) error {
	read, write := io.Pipe()
	var names map[string]splitName
	done := make(chan error)
	go func() {
		var err error
		names, err = splitNames(read)
		_, _ = io.Copy(io.Discard, read) // to the end, or assemble waits for ever
		done <- err
	}()
	err := l.assemble(ctx, io.MultiWriter(w, write))
	_ = write.CloseWithError(err) // never fails
	if listErr := <-done; err == nil && listErr != nil {
		err = l.failed(ctx, fmt.Errorf("reading archive: %w", listErr))
	}
	if err != nil {
		return err
	}
	if err := l.compare(ctx, names); err != nil {
		return l.failed(ctx, err)
	}
	return nil
}

// splitNames lists an archive. Of a name given twice the last counts. A
// directory that is only implied is listed too.
func splitNames(r io.Reader) (map[string]splitName, error) {
	names := map[string]splitName{}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		if len(name) > maxNameLength {
			return nil, fmt.Errorf("name of %d bytes", len(name))
		}
		base := path.Base(name)
		if name == "" || header.Typeflag == tar.TypeXGlobalHeader || strings.HasPrefix(base, whiteoutMeta) {
			continue
		}
		entry := splitName{header.Typeflag, header.Linkname, header.Size}
		if gone, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
			name, entry = path.Join(path.Dir(name), gone), splitName{flag: typeWhiteout}
		}
		names[name] = entry
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, known := names[dir]; known {
				break
			}
			names[dir] = splitName{flag: tar.TypeDir}
		}
		if len(names) > maxLayerNames {
			return nil, fmt.Errorf("more than %d names", maxLayerNames)
		}
	}
}

// compare walks the layer's directory. It takes names apart.
func (l splitLayer) compare(ctx context.Context, names map[string]splitName) error {
	extra := map[string]bool{}
	err := filepath.WalkDir(l.dir, func(file string, entry fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil || file == l.dir {
			return err
		}
		name := strings.TrimPrefix(file, l.dir+"/")
		base := path.Base(name)
		if strings.HasPrefix(base, whiteoutMeta) {
			return nil
		}
		want, ok := names[name]
		if gone, isWhiteout := strings.CutPrefix(base, whiteoutPrefix); isWhiteout && !ok { // fuse-overlayfs'
			name = path.Join(path.Dir(name), gone)
			if want, ok = names[name]; ok && want.flag == typeWhiteout {
				delete(names, name)
				return nil
			}
		}
		if !ok {
			if entry.Type() != fs.ModeSocket { // no archive can hold one
				extra[name] = true
			}
			if len(extra) > maxLayerNames {
				return fmt.Errorf("more than %d files that the layer never had", maxLayerNames)
			}
			return nil
		}
		delete(names, name)
		return want.check(name, file, entry)
	})
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(names) {
		if flag := names[name].flag; flag == tar.TypeChar || flag == tar.TypeBlock {
			continue // nobody but root may make one
		}
		// A layer may put a file through its own link to a directory.
		dir, err := beneath(l.dir, path.Dir(name))
		if err != nil {
			return err
		}
		if real := strings.TrimPrefix(filepath.Join(dir, path.Base(name)), l.dir+"/"); real == name || !extra[real] {
			return fmt.Errorf("file %q: %w", name, fs.ErrNotExist)
		} else {
			delete(extra, real)
		}
	}
	if len(extra) > 0 {
		return fmt.Errorf("file %q: the layer never had it, nor %d others", slices.Min(slices.Collect(maps.Keys(extra))), len(extra)-1)
	}
	return nil
}

// check compares a name's file with what the archive says.
func (n splitName) check(name, file string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	kind, same := info.Mode().Type(), true
	switch n.flag {
	case typeWhiteout:
		stat, ok := info.Sys().(*syscall.Stat_t)
		same = ok && kind == fs.ModeDevice|fs.ModeCharDevice && stat.Rdev == 0
	case tar.TypeReg:
		same = kind == 0 && info.Size() == n.size
	case tar.TypeDir:
		same = kind == fs.ModeDir
	case tar.TypeLink:
		same = kind != fs.ModeDir
	case tar.TypeSymlink:
		same = kind == fs.ModeSymlink
		if target, err := os.Readlink(file); same && (err != nil || target != n.link) {
			return fmt.Errorf("file %q: link to %q, want %q", name, target, n.link)
		}
	case tar.TypeFifo:
		same = kind == fs.ModeNamedPipe
	}
	if !same {
		return fmt.Errorf("file %q: %s of %d bytes, want type %q of %d bytes", name, info.Mode(), info.Size(), n.flag, n.size)
	}
	return nil
}
