package image

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// harmless attacks would do no harm to the careless either, but have confused extractors before.
var harmless = map[string]bool{"hard link to the parent": true, "whiteout of nothing": true, "whiteout of dot": true, "whiteout of dot-dot": true}

// provesHarm extracts an attack without care and wants to see the harm.
func provesHarm(t *testing.T, attack func(outside string) []file) {
	t.Helper()
	at := t.TempDir()
	root, outside := at+"/layers/x", at+"/outside"
	must(t, os.MkdirAll(root+"/a", 0o755))
	must(t, os.MkdirAll(outside+"/d", 0o700))
	must(t, os.WriteFile(outside+"/victim", []byte("untouched"), 0o600))
	before := tree(t, outside)
	for _, f := range attack(outside) {
		careless(root, f)
	}
	st, err := os.Stat(outside + "/victim")
	attrs, _ := sysx.Listxattr(outside + "/victim")
	opaque, _ := isOpaque(outside)
	if slices.Equal(before, tree(t, outside)) && err == nil && st.Sys().(*unixStat).Nlink == 1 && len(attrs) == 0 && !opaque {
		t.Error("extracted without care it changes nothing outside either; want an attack")
	}
}

// careless extracts as if every tar were a friend's. Its errors are of no interest.
func careless(root string, f file) {
	path := root + "/" + f.Name
	if filepath.IsAbs(f.Name) {
		path = f.Name
	}
	base := filepath.Base(path)
	switch {
	case base == opaqueMarker:
		_ = unix.Setxattr(filepath.Dir(path), opaqueXattr, []byte("y"), 0)
		return
	case strings.HasPrefix(base, whiteout):
		victim := filepath.Dir(path) + "/" + base[len(whiteout):]
		_ = os.RemoveAll(filepath.Clean(victim))
		_ = unix.Mknod(victim, unix.S_IFCHR, 0)
		return
	case f.Typeflag == tar.TypeDir:
		_ = os.MkdirAll(path, 0o755)
	case f.Typeflag == tar.TypeReg:
		_ = os.WriteFile(path, []byte(f.body), 0o644)
	case f.Typeflag == tar.TypeSymlink:
		_ = os.Symlink(f.Linkname, path)
	case f.Typeflag == tar.TypeLink && filepath.IsAbs(f.Linkname):
		_ = os.Link(f.Linkname, path)
	case f.Typeflag == tar.TypeLink:
		_ = os.Link(root+"/"+f.Linkname, path)
	default:
		_ = unix.Mknod(path, unix.S_IFIFO, 0)
	}
	_ = os.Chown(path, f.Uid, f.Gid)
	_ = os.Chmod(path, os.FileMode(f.Mode))
	for k, v := range f.PAXRecords {
		_ = unix.Setxattr(path, strings.TrimPrefix(k, paxXattr), []byte(v), 0)
	}
}

// Each tar would write, change or delete something in the directory "outside", beside the store, if it were extracted
// without care. It may fail or be contained; outside must stay as it was.
func TestUnpackStaysInside(t *testing.T) {
	for name, attack := range map[string]func(outside string) []file{
		"dot-dot": func(string) []file {
			return []file{reg("../../outside/new", "x"), reg("../../../outside/new", "x"), reg("a/../../../outside/victim", "x"), dir("../../outside/d", 0o777)}
		},
		"absolute": func(o string) []file { return []file{reg(o+"/new", "x"), reg(o+"/victim", "x")} },
		"through a symlink": func(o string) []file {
			return []file{symlink("s", o), reg("s/new", "x"), reg("s/victim", "x")}
		},
		"through a relative symlink": func(string) []file {
			return []file{symlink("s", "../../outside"), reg("s/new", "x"), reg("s/victim", "x"), dir("s/d", 0o777)}
		},
		"through a chain of symlinks": func(o string) []file {
			return []file{symlink("a", "b/.."), symlink("b", o), symlink("c", "a/outside"), reg("c/new", "x"), reg("b/new", "x")}
		},
		"a symlink to the file itself": func(o string) []file {
			return []file{symlink("f", o+"/victim"), reg("f", "x")}
		},
		"mode and owner through a symlink": func(o string) []file {
			return []file{symlink("f", o+"/victim"), owned(hardlink("g", "f"), 0o777, 9, 9), owned(symlink("f", o+"/victim"), 0o777, 9, 9)}
		},
		"attribute through a symlink": func(o string) []file {
			return []file{pax(symlink("f", o+"/victim"), "SCHILY.xattr.user.evil", "x"), pax(symlink("g", o+"/victim"), "SCHILY.xattr.security.capability", capNetBind)}
		},
		"directory over a symlink to one": func(o string) []file {
			return []file{symlink("d", o), dir("d", 0o777), reg("d/victim", "x")}
		},
		"hard link to outside": func(o string) []file {
			return []file{hardlink("h", o+"/victim"), reg("h", "x"), hardlink("i", "../../outside/victim"), owned(hardlink("i", "../../outside/victim"), 0o777, 9, 9)}
		},
		"hard link through a symlink": func(o string) []file {
			return []file{symlink("s", o), owned(hardlink("h", "s/victim"), 0o777, 9, 9)}
		},
		"hard link to a symlink, then written": func(o string) []file {
			return []file{symlink("s", o+"/victim"), hardlink("h", "s"), reg("h", "x")}
		},
		"hard link to the parent": func(string) []file { return []file{hardlink("h", ".."), hardlink("i", "."), hardlink("j", "a/..")} },
		"whiteout outside": func(o string) []file {
			return []file{symlink("s", o), reg("s/.wh.victim", ""), reg("s/.wh..wh..opq", ""), reg("../../outside/.wh.victim", "")}
		},
		"whiteout of dot-dot":  func(string) []file { return []file{reg("a/.wh...", "")} },
		"whiteout of dot":      func(string) []file { return []file{reg("a/.wh..", "")} },
		"whiteout of nothing":  func(string) []file { return []file{reg("a/.wh.", "")} },
		"opaque through links": func(o string) []file { return []file{symlink("s", o), reg("s/.wh..wh..opq", "")} },
		"directory over a whiteout through links": func(o string) []file {
			return []file{symlink("s", o), reg("s/.wh.d", ""), dir("s/d", 0o777), reg("s/d/x", "x")}
		},
		"device": func(o string) []file {
			return []file{symlink("s", o), special(tar.TypeChar, "s/null", 1, 3), special(tar.TypeBlock, "s/disk", 254, 0), special(tar.TypeFifo, "s/fifo", 0, 0)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			at := t.TempDir()
			outside := filepath.Join(at, "outside")
			must(t, os.Mkdir(outside, 0o755))
			must(t, os.WriteFile(outside+"/victim", []byte("untouched"), 0o600))
			must(t, os.Mkdir(outside+"/d", 0o700))
			before := tree(t, outside)
			if !harmless[name] {
				provesHarm(t, attack)
			}
			// A base layer below, so that whiteouts are really made.
			im := build(t).layers([]file{reg("base", "")}, append([]file{dir("a", 0o755)}, attack(outside)...)).image()
			s := store(t, filepath.Join(at, "layers"))
			u, err := s.Unpack(t.Context(), im, Options{})
			t.Logf("Unpack = %v", err)
			if err == nil {
				must(t, u.Close())
			}
			if after := tree(t, outside); !slices.Equal(before, after) {
				t.Errorf("outside = %q; want %q", after, before)
			}
			if got := names(t, at); !slices.Equal(got, []string{"layers", "outside"}) {
				t.Errorf("beside the store there are %q; want only layers and outside", got)
			}
			for _, n := range names(t, s.Dir()) {
				if n != "lock" && (!layerName().MatchString(n) || strings.HasSuffix(n, tmpSuffix)) {
					t.Errorf("the store has %s; want layers only", n)
				}
			}
			if st, err := os.Stat(outside + "/victim"); err != nil || st.Sys().(*unixStat).Nlink != 1 {
				t.Errorf("outside/victim has a second name or is gone: %v", err)
			}
		})
	}
}
