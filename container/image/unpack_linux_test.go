package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/continuity/sysx"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// capNetBind is security.capability with cap_net_bind_service=ep (vfs_cap_data, version 2).
const capNetBind = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// mounted mounts layers and returns the merged root.
func mounted(t testing.TB, lower []string) string {
	t.Helper()
	at := t.TempDir()
	upper, work, target := filepath.Join(at, "u"), filepath.Join(at, "w"), filepath.Join(at, "m")
	for _, d := range []string{upper, work, target} {
		must(t, os.Mkdir(d, 0o755))
	}
	if err := Mount(lower, upper, work, target, false); err != nil {
		t.Fatalf("Mount(%q) = %v; want success", lower, err)
	}
	t.Cleanup(func() { must(t, Unmount(target)) })
	return target
}

// tree describes everything below a root in one line each.
func tree(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(path)
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %o %d:%d", strings.TrimPrefix(path[len(root):], "/"), sys.Mode, sys.Uid, sys.Gid)
		switch {
		case st.Mode().IsRegular():
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if len(raw) > 40 {
				raw = []byte(fmt.Sprintf("%d bytes", len(raw)))
			}
			line += fmt.Sprintf(" %q", raw)
		case st.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case st.Mode()&os.ModeDevice != 0:
			line += fmt.Sprintf(" dev %x", sys.Rdev)
		}
		lines = append(lines, line)
		return nil
	}))
	return lines[1:]
}

// mergeCase is layers and the root they must give.
type mergeCase struct {
	layers [][]file
	want   []string
}

func owned(f file, mode int64, uid, gid int) file {
	f.Mode, f.Uid, f.Gid = mode, uid, gid
	return f
}

func pax(f file, key, value string) file {
	f.Format, f.PAXRecords = tar.FormatPAX, map[string]string{key: value}
	return f
}

func special(kind byte, name string, major, minor int64) file {
	return file{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o620, Devmajor: major, Devminor: minor}}
}

func mergeCases() map[string]mergeCase {
	long := strings.Repeat("d/", 60) + strings.Repeat("n", 250)
	return map[string]mergeCase{
		"whiteout": {
			[][]file{{dir("a", 0o755), reg("a/gone", "1"), reg("a/kept", "1"), dir("b", 0o755), reg("b/x", "1")}, {reg("a/.wh.gone", ""), reg(".wh.b", "")}},
			[]string{"a 40755 0:0", `a/kept 100644 0:0 "1"`},
		},
		"whiteout and the same file again": {
			[][]file{{reg("f", "old"), reg("g", "old")}, {reg(".wh.f", ""), reg("f", "new"), reg("g", "new"), reg(".wh.g", "")}},
			[]string{`f 100644 0:0 "new"`, `g 100644 0:0 "new"`},
		},
		"whiteout and the same directory again": {
			[][]file{
				{dir("a", 0o700), reg("a/old", "1"), dir("b", 0o700), reg("b/old", "1"), dir("c", 0o700), reg("c/old", "1")},
				{reg(".wh.a", ""), dir("a", 0o755), reg("a/new", "2"), dir("b", 0o755), reg("b/new", "2"), reg(".wh.b", ""), reg(".wh.c", ""), reg("c/new", "2")},
			},
			[]string{"a 40755 0:0", `a/new 100644 0:0 "2"`, "b 40755 0:0", `b/new 100644 0:0 "2"`, "c 40755 0:0", `c/new 100644 0:0 "2"`},
		},
		"opaque": {
			[][]file{{dir("a", 0o755), reg("a/old", "1"), dir("a/s", 0o755), reg("a/s/old", "1")}, {dir("a", 0o750), reg("a/new", "2"), reg("a/.wh..wh..opq", "")}},
			[]string{"a 40750 0:0", `a/new 100644 0:0 "2"`},
		},
		"opaque root": {
			[][]file{{reg("old", "1")}, {reg(".wh..wh..opq", ""), reg("new", "2")}, {reg("top", "3")}},
			[]string{`new 100644 0:0 "2"`, `top 100644 0:0 "3"`},
		},
		"whiteouts of the lowest layer": {
			[][]file{{reg(".wh.nothing", ""), dir("a", 0o755), reg("a/.wh..wh..opq", ""), reg("a/f", "1")}},
			[]string{"a 40755 0:0", `a/f 100644 0:0 "1"`},
		},
		"aufs leftovers": {
			[][]file{{reg("f", "1")}, {reg(".wh..wh.plnk", ""), reg(".wh..wh.aufs", ""), reg("g", "2")}},
			[]string{`f 100644 0:0 "1"`, `g 100644 0:0 "2"`},
		},
		"implied directories": {
			[][]file{
				{owned(dir("tmp", 0), 0o1777, 0, 0), owned(dir("home", 0), 0o750, 7, 8), owned(dir("home/u", 0), 0o700, 1000, 1001)},
				{reg("tmp/a", "1")},
				{reg("home/u/f", "2"), reg("none/g", "3")},
				{reg("home/u/.wh.f", ""), reg("home/u/h", "4")},
			},
			[]string{"home 40750 7:8", "home/u 40700 1000:1001", `home/u/h 100644 0:0 "4"`, "none 40755 0:0", `none/g 100644 0:0 "3"`, "tmp 41777 0:0", `tmp/a 100644 0:0 "1"`},
		},
		"implied directories over deleted ones": {
			[][]file{
				{dir("a", 0o700), dir("a/b", 0o700), dir("c", 0o700), dir("c/d", 0o711)},
				{reg(".wh.a", ""), dir("c", 0o701), reg("c/.wh..wh..opq", "")},
				{reg("a/b/f", "1"), reg("c/d/f", "2")},
			},
			[]string{"a 40755 0:0", "a/b 40755 0:0", `a/b/f 100644 0:0 "1"`, "c 40701 0:0", "c/d 40755 0:0", `c/d/f 100644 0:0 "2"`},
		},
		"directory described after its files": {
			[][]file{{dir("a", 0o700)}, {reg("a/f", "1"), dir("a", 0o711)}},
			[]string{"a 40711 0:0", `a/f 100644 0:0 "1"`},
		},
		"kinds and modes": {
			[][]file{{
				owned(reg("suid", "s"), 0o4755, 3, 4), owned(dir("sgid", 0), 0o2775, 0, 5), symlink("link", "/nowhere"),
				hardlink("suid2", "suid"), special(tar.TypeFifo, "fifo", 0, 0), special(tar.TypeChar, "null", 1, 3), special(tar.TypeBlock, "loop", 7, 9),
			}},
			[]string{"fifo 10620 0:0", "link 120777 0:0 -> /nowhere", "loop 60620 0:0 dev 709", "null 20620 0:0 dev 103", "sgid 42775 0:5", `suid 100644 0:0 "s"`, `suid2 100644 0:0 "s"`},
		},
		"long names": {
			[][]file{{reg(long, "1")}, {reg(long+"2", "2")}},
			nil,
		},
		"directory over file and file over directory": {
			[][]file{{reg("a", "1"), dir("b", 0o755), reg("b/x", "1")}, {dir("a", 0o755), reg("a/y", "2"), reg("b", "2")}},
			[]string{"a 40755 0:0", `a/y 100644 0:0 "2"`, `b 100644 0:0 "2"`},
		},
	}
}

// The merged view of layers, each unpacked on its own and several at once.
func TestUnpackMerge(t *testing.T) {
	for name, c := range mergeCases() {
		for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
			t.Run(name+"/"+mediaType[strings.LastIndex(mediaType, ".")+1:], func(t *testing.T) {
				b := build(t)
				for _, l := range c.layers {
					b.layer(mediaType, tarOf(t, l...))
				}
				got := tree(t, mounted(t, unpacked(t, b.image())))
				if c.want == nil {
					if n := len(strings.Split(got[len(got)-1], "/")); len(got) != 62 || n != 61 {
						t.Fatalf("merged root has %d entries, %d levels; want 62, 61", len(got), n)
					}
				} else if !slices.Equal(got, c.want) {
					t.Fatalf("merged root =\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
				}
			})
		}
	}
}

// Many layers at once, each deleting what the one below added: no whiteout may get lost.
func TestUnpackManyWhiteouts(t *testing.T) {
	b := build(t)
	const n = 40
	for i := range n {
		files := []file{dir("d", 0o755), reg(fmt.Sprintf("d/%d", i), "x"), dir(fmt.Sprintf("o/%d", i), 0o755)}
		if i > 0 {
			files = append(files, reg(fmt.Sprintf("d/.wh.%d", i-1), ""), reg("o/.wh..wh..opq", ""))
		}
		b.layers(files)
	}
	got := tree(t, mounted(t, unpacked(t, b.image())))
	want := []string{"d 40755 0:0", `d/39 100644 0:0 "x"`, "o 40755 0:0", "o/39 40755 0:0"}
	if !slices.Equal(got, want) {
		t.Fatalf("merged root = %q; want %q", got, want)
	}
}

func TestUnpackAttributes(t *testing.T) {
	b := build(t).layers(
		[]file{
			pax(owned(reg("ping", "p"), 0o755, 0, 0), "SCHILY.xattr.security.capability", capNetBind),
			owned(hardlink("ping2", "ping"), 0o755, 0, 0),
			pax(dir("d", 0o700), "SCHILY.xattr.user.note", "hello"),
			pax(reg("evil", "e"), "SCHILY.xattr.trusted.overlay.opaque", "y"),
			pax(reg("evil2", "e"), "SCHILY.xattr.trusted.overlay.redirect", "/etc"),
		},
		[]file{reg("d/f", "1")},
	)
	layers := unpacked(t, b.image())
	root := mounted(t, layers)
	for _, c := range []struct{ path, name, want string }{
		{root + "/ping", "security.capability", capNetBind},
		{root + "/ping2", "security.capability", capNetBind},
		{root + "/d", "user.note", "hello"},
		{layers[0] + "/evil", "trusted.overlay.opaque", ""},
		{layers[0] + "/evil2", "trusted.overlay.redirect", ""},
	} {
		got, err := sysx.LGetxattr(c.path, c.name)
		if c.want == "" && !errors.Is(err, syscall.ENODATA) {
			t.Errorf("getxattr(%s, %s) = %q, %v; want ENODATA", c.path, c.name, got, err)
		} else if string(got) != c.want {
			t.Errorf("getxattr(%s, %s) = %q, %v; want %q", c.path, c.name, got, err, c.want)
		}
	}
	st, err := os.Stat(root + "/ping")
	must(t, err)
	if got := st.ModTime().Unix(); got != 1700000000 {
		t.Errorf("mtime of /ping = %d; want 1700000000", got)
	}
}

// A second unpack reads no layer, and layers that two images share are there once.
func TestUnpackShares(t *testing.T) {
	base, top := []file{reg("base", "1")}, []file{reg("top", "2")}
	one, two := build(t).layers(base).image(), build(t).layers(base, top)
	s := store(t, t.TempDir())
	a, err := s.Unpack(t.Context(), one, Options{})
	must(t, err)
	defer a.Close()
	im := two.image()
	// The shared layer's blob is gone; only the store has it.
	must(t, os.Remove(filepath.Join(two.dir, blobPath(two.manifest.Layers[0]))))
	var last Progress
	b, err := s.Unpack(t.Context(), im, Options{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatalf("Unpack with the lower layer in the store = %v; want success", err)
	}
	defer b.Close()
	if a.Layers[0] != b.Layers[0] || len(b.Layers) != 2 {
		t.Errorf("Layers = %q and %q; want the first shared", a.Layers, b.Layers)
	}
	if last.Done != last.Total || last.Layers != 2 || last.Total != two.manifest.Layers[0].Size+two.manifest.Layers[1].Size {
		t.Errorf("last Progress = %+v; want all bytes of 2 layers", last)
	}
	if got := b.Config.Config.Cmd; !slices.Equal(got, []string{"/bin/true"}) {
		t.Errorf("Config.Cmd = %q; want /bin/true", got)
	}
}

func TestUnpackSparse(t *testing.T) {
	at := t.TempDir()
	f, err := os.Create(at + "/holes")
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 1<<20)
	must(t, err)
	must(t, f.Close())
	for _, format := range []string{"gnu", "posix"} {
		raw := run(t, "tar", "-C", at, "--sparse", "--format="+format, "-cf", "-", "holes")
		if len(raw) > 100<<10 {
			t.Fatalf("tar --sparse --format=%s gave %d bytes; want less than the file", format, len(raw))
		}
		layers := unpacked(t, build(t).layer(ocispec.MediaTypeImageLayer, raw).image())
		got, err := os.ReadFile(layers[0] + "/holes")
		must(t, err)
		if len(got) != 1<<20+3 || string(got[1<<20:]) != "end" || strings.Trim(string(got[:1<<20]), "\x00") != "" {
			t.Errorf("sparse file in format %s has %d bytes; want 1048579 that end in \"end\"", format, len(got))
		}
	}
}
