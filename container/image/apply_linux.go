package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	confs "github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	whiteout     = ".wh."
	whiteoutMeta = whiteout + whiteout
	opaqueMarker = whiteoutMeta + ".opq"
	opaqueXattr  = "trusted.overlay.opaque"
	opaqueUser   = "user.overlay.opaque"
	capability   = "security.capability"
	paxXattr     = "SCHILY.xattr." // what pkg/archive takes extended attributes from
)

// apply extracts one layer on its own into root, an empty directory that nobody else touches, in the form overlayfs
// wants for a lower directory. base says that nothing is below it, so nothing needs to be hidden. It returns the
// directories that were made only because something lies in them, relative to root, sorted.
func apply(ctx context.Context, root string, r io.Reader, base bool, b *budget) ([]string, error) {
	a := &applier{root: root, base: base, budget: b, implied: map[string]struct{}{}, seen: "\x00"}
	// It logs what it leaves out, like trusted.* attributes; what it cannot do is an error anyway.
	quiet := &log.Entry{Logger: &logrus.Logger{Out: io.Discard, Formatter: new(logrus.TextFormatter), Level: logrus.PanicLevel}}
	_, err := archive.Apply(log.WithLogger(ctx, quiet), root, r, archive.WithFilter(a.filter), archive.WithConvertWhiteout(a.convert))
	var link *os.LinkError // to what is not in the layer
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &link) && errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	implied := make([]string, 0, len(a.implied))
	for d := range a.implied {
		implied = append(implied, d)
	}
	slices.Sort(implied)
	return implied, err
}

// applier adds to archive.Apply what a layer needs that is extracted apart from those below it.
type applier struct {
	root    string
	base    bool
	budget  *budget
	implied map[string]struct{}
	seen    string // directory of the last entry, as it was written in the tar
	at      string // and where that is on disk
}

// filter sees every header before its parent directories are made. The name is clean already.
func (a *applier) filter(hdr *tar.Header) (bool, error) {
	if err := a.budget.entry(hdr); err != nil {
		return false, err
	}
	// Such marks are for overlayfs, and this program's to make.
	maps.DeleteFunc(hdr.PAXRecords, func(key, _ string) bool { return strings.HasPrefix(key, paxXattr+"user.overlay.") })
	dir, base := filepath.Split(hdr.Name)
	switch {
	case hdr.Typeflag == tar.TypeXGlobalHeader:
		return false, nil
	case strings.HasPrefix(base, whiteoutMeta) && base != opaqueMarker:
		return false, nil // aufs kept its own books under such names
	}
	if dir != a.seen {
		if err := a.parents(dir); err != nil {
			return false, err
		}
		a.seen = dir
	}
	switch hdr.Typeflag {
	case tar.TypeGNUSparse:
		hdr.Typeflag = tar.TypeReg // it reads like one
	case tar.TypeDir:
		delete(a.implied, a.rel(filepath.Join(a.at, filepath.Join("/", base))))
	case tar.TypeLink:
		return true, a.keepCapability(hdr)
	}
	return true, nil
}

// parents notes which directories are about to be made for an entry in dir.
func (a *applier) parents(dir string) error {
	at, err := confs.RootPath(a.root, dir)
	if err != nil {
		return err
	}
	a.at = at
	for ; at != a.root; at = filepath.Dir(at) {
		st, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			a.implied[a.rel(at)] = struct{}{}
			continue
		case err != nil:
			return err
		case isWhiteout(st):
			// Deleted below and made anew here, in this order.
			return replaceWhiteout(at)
		}
		return nil
	}
	return nil
}

func (a *applier) rel(path string) string { return strings.TrimPrefix(path[len(a.root):], "/") }

// convert is called for each entry when its parent directories exist. A whiteout hides what is below this layer, never
// what is in it (layer.md), whichever comes first in the tar.
func (a *applier) convert(hdr *tar.Header, path string) (bool, error) {
	dir, base := filepath.Split(path)
	name, isWhite := strings.CutPrefix(base, whiteout)
	switch {
	case isWhite && a.base:
		return false, nil
	case base == opaqueMarker:
		return false, makeOpaque(filepath.Dir(path))
	case isWhite:
		st, err := os.Lstat(dir + name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return archive.OverlayConvertWhiteout(hdr, path)
		case err == nil && st.IsDir():
			return false, makeOpaque(dir + name)
		}
		return false, err
	case hdr.Typeflag == tar.TypeDir:
		if st, err := os.Lstat(path); err == nil && isWhiteout(st) {
			return true, replaceWhiteout(path)
		}
	}
	return true, nil
}

// keepCapability lets a file keep its capabilities when it gets another name: pkg/archive sets the owner once more for
// each name, and the kernel drops capabilities then. Not every tar repeats them with each name.
func (a *applier) keepCapability(hdr *tar.Header) error {
	dir, base := filepath.Split(hdr.Linkname)
	at, err := confs.RootPath(a.root, dir)
	if err != nil {
		return err
	}
	value, err := sysx.LGetxattr(filepath.Join(at, filepath.Join("/", base)), capability)
	if err != nil {
		return nil // none, or no such file: archive.Apply says so
	}
	if _, ok := hdr.PAXRecords[paxXattr+capability]; !ok {
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = map[string]string{}
		}
		hdr.PAXRecords[paxXattr+capability] = string(value)
	}
	return nil
}

func isWhiteout(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*unixStat)
	return ok && st.Mode()&fs.ModeCharDevice != 0 && sys.Rdev == 0
}

// replaceWhiteout puts an empty directory that hides everything below in the place of a whiteout.
func replaceWhiteout(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return err
	}
	return makeOpaque(path)
}

// makeOpaque hides what is below a directory: in the way that [Mount] looks for where
// attributes of the trusted kind are not to be had, as in a user namespace.
func makeOpaque(dir string) error {
	err := unix.Lsetxattr(dir, opaqueXattr, []byte("y"), 0)
	if errors.Is(err, unix.EPERM) {
		err = unix.Lsetxattr(dir, opaqueUser, []byte("y"), 0)
	}
	return err
}

func isOpaque(dir string) (bool, error) {
	for _, name := range []string{opaqueXattr, opaqueUser} {
		v, err := sysx.LGetxattr(dir, name)
		switch {
		case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP):
		case err != nil:
			return false, fmt.Errorf("reading %s of %s: %w", name, dir, err)
		case string(v) == "y":
			return true, nil
		}
	}
	return false, nil
}
