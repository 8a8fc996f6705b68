package fetch

import (
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// dialFile is a source of a file: URL, closed at the end of the test.
func dialFile(t *testing.T, path string) Source {
	t.Helper()
	s, err := Dial(Place{URL: (&url.URL{Scheme: "file", Path: path}).String()}, Net{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFileLayout(t *testing.T) {
	content := pattern(3<<20 + 17)
	dir := filepath.Join(t.TempDir(), "a kit? #1 100%")
	storeWith(t, dir, content)
	testSource(t, dialFile(t, dir), digest.FromBytes(content), content)
}

func TestFileRelative(t *testing.T) {
	content := pattern(1 << 20)
	t.Chdir(t.TempDir())
	storeWith(t, "my kit", content)
	for _, place := range []string{"file:my%20kit", "file:./my%20kit", "file:my kit"} {
		s, err := Dial(Place{URL: place}, Net{})
		if err != nil {
			t.Fatal(err)
		}
		wantPart(t, s, digest.FromBytes(content), content, 4096, 4096)
	}
}

func TestFileItself(t *testing.T) {
	content := pattern(1<<20 + 1)
	path := filepath.Join(t.TempDir(), "etcd.tar")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	testSource(t, dialFile(t, path), digest.FromString("any"), content, oneContent)
}

// A directory that somebody else has filled.
func TestFileHostileLayout(t *testing.T) {
	dir := t.TempDir()
	content := pattern(1000)
	d := digest.FromBytes(content)
	storeWith(t, filepath.Join(dir, "kit"), content)
	blob := func(d digest.Digest) string { return filepath.Join(dir, "kit/blobs/sha256", d.Encoded()) }
	outside := filepath.Join(dir, "outside")
	inside, absolute, relative, fifo, folder, loop, hole := digest.FromString("inside"), digest.FromString("absolute"),
		digest.FromString("relative"), digest.FromString("fifo"), digest.FromString("folder"), digest.FromString("loop"), digest.FromString("hole")
	if err := errors.Join(
		os.WriteFile(outside, content, 0o600),
		os.Symlink(d.Encoded(), blob(inside)),
		os.Symlink(outside, blob(absolute)),
		os.Symlink("../../../outside", blob(relative)),
		os.Symlink(loop.Encoded(), blob(loop)),
		os.Symlink("nowhere", blob(hole)),
		os.Mkdir(blob(folder), 0o700),
		syscall.Mkfifo(blob(fifo), 0o600),
		os.Mkdir(filepath.Join(dir, "kit2"), 0o700),
		os.Symlink("../kit/blobs", filepath.Join(dir, "kit2/blobs")),
		os.Symlink("kit", filepath.Join(dir, "kit3")),
		syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	kit := dialFile(t, filepath.Join(dir, "kit"))
	wantPart(t, kit, inside, content, 0, -1)
	wantPart(t, dialFile(t, filepath.Join(dir, "kit3")), d, content, 0, -1) // the operator's own link
	for _, c := range []struct {
		name    string
		src     Source
		blob    digest.Digest
		missing bool
	}{
		{name: "link to a path outside", src: kit, blob: absolute},
		{name: "link upwards", src: kit, blob: relative},
		{name: "link to itself", src: kit, blob: loop},
		{name: "link to nothing", src: kit, blob: hole, missing: true},
		{name: "FIFO", src: kit, blob: fifo},
		{name: "directory", src: kit, blob: folder},
		{name: "blobs outside", src: dialFile(t, filepath.Join(dir, "kit2")), blob: d},
		{name: "no directory", src: dialFile(t, filepath.Join(dir, "none")), blob: d, missing: true},
		{name: "FIFO itself", src: dialFile(t, filepath.Join(dir, "fifo")), blob: d},
		{name: "device itself", src: dialFile(t, "/dev/zero"), blob: d},
		{name: "below a file", src: dialFile(t, filepath.Join(outside, "x")), blob: d},
	} {
		t.Run(c.name, func(t *testing.T) {
			within(t, 5*time.Second, func() {
				body, _, err := c.src.Open(t.Context(), c.blob, 0, -1)
				if err == nil || errors.Is(err, ErrNotFound) != c.missing {
					t.Errorf("Open() = %v; want an error, %v: %t", err, ErrNotFound, c.missing)
				}
				if err == nil {
					_ = body.Close()
				}
				if n, err := c.src.Stat(t.Context(), c.blob); err == nil || errors.Is(err, ErrNotFound) != c.missing {
					t.Errorf("Stat() = %d, %v; want an error, %v: %t", n, err, ErrNotFound, c.missing)
				}
			})
		})
	}
}

func TestFileChanges(t *testing.T) {
	content := pattern(1 << 20)
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s, d := dialFile(t, path), digest.FromString("any")
	open := func(ctx context.Context, n int64) io.ReadCloser {
		t.Helper()
		body, _, err := s.Open(ctx, d, 0, n)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = body.Close() })
		return body
	}
	ctx, cancel := context.WithCancel(t.Context())
	grows, shrinks, part, given := open(t.Context(), -1), open(t.Context(), -1), open(t.Context(), 1000), open(ctx, -1)
	cancel()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, grows); n != 1<<20 || err != nil {
		t.Errorf("reading a file that grows: %d, %v; want %d", n, err, 1<<20)
	}
	if err := errors.Join(f.Close(), os.Truncate(path, 1000)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, shrinks); n != 1000 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading a file that shrinks: %d, %v; want 1000, %v", n, err, io.ErrUnexpectedEOF)
	}
	if n, err := io.Copy(io.Discard, part); n != 1000 || err != nil {
		t.Errorf("reading what is left of a file that shrinks: %d, %v; want 1000", n, err)
	}
	if n, err := io.Copy(io.Discard, given); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("reading after a cancel: %d, %v; want 0, %v", n, err, context.Canceled)
	}
}

func TestFilePlaces(t *testing.T) {
	for _, place := range []string{
		"file:", "file://", "file://host/dir", "file://10.0.0.1/dir", "file:/dir?x=y", "file:/dir?", "file:/dir#x", "file:dir%zz", "file:/dir%zz",
	} {
		if s, err := Dial(Place{URL: place}, Net{}); !errors.Is(err, ErrPlace) {
			t.Errorf("Dial(%s) = %v, %v; want %v", place, s, err, ErrPlace)
		}
	}
	for _, place := range []string{"file:/dir", "file:///dir", "file://localhost/dir", "file:dir", "file:../dir/"} {
		s, err := Dial(Place{URL: place}, Net{})
		if err != nil || s.String() != place {
			t.Errorf("Dial(%s) = %v, %v; want a source", place, s, err)
		}
	}
}
