package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// rootBuilder makes the vacuum's root out of the host's mounts, in a mount
// namespace of its own.
//
// A directory with a mount below it cannot be a lower layer in a user namespace:
// the kernel would have to show what the mount hides. So a copy of the host's
// root is a skeleton of such directories, "/" among them, in the throw-away
// layer, and each directory without mounts below is an overlay in it.
type rootBuilder struct {
	s        *setup
	layers   []int             // with s.Layers: the directories the root is made of, topmost first
	parts    []part            // else: what stands in the skeleton
	mounts   map[string]string // the host's: mount point -> type
	parents  map[string]bool   // directories with a mount below
	devices  map[string]int
	binds    []bind
	warnings []string
	stage    string // where the throw-away layer is mounted, while the host's root is ours
	stageFD  int    // and ever after
}

// part is a directory of the host that has its own overlay, or a file that is
// shown read-only.
type part struct {
	path string
	fd   int
	dir  bool
}

type bind struct {
	path string
	fd   int // a detached copy of the mount
	dir  bool
}

const tmpfsFlags = unix.MS_NOSUID | unix.MS_NODEV

// buildRoot makes the root and goes there. Everything of the host is opened
// before its name is covered.
func buildRoot(s *setup) ([]string, error) {
	b := &rootBuilder{s: s, devices: map[string]int{}}
	for _, step := range []func() error{b.open, b.lay, b.enter, b.system, b.mountParts, b.fresh, b.mountBinds, b.leave} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return b.warnings, nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", kind, target, err)
	}
	return nil
}

// open takes hold of everything that the root is made of.
func (b *rootBuilder) open() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	for _, l := range b.s.Layers {
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the root %s: %w", l, err)
		}
		b.layers = append(b.layers, fd)
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, "/dev/"+name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("opening /dev/%s: %w", name, err)
		}
		b.devices[name] = fd
	}
	for _, p := range b.s.Binds {
		fd, err := unix.OpenTree(unix.AT_FDCWD, p, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("opening %s: %w", p, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("looking at %s: %w", p, err)
		}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}); err != nil {
			return fmt.Errorf("making %s read-only: %w", p, err)
		}
		b.binds = append(b.binds, bind{p, fd, st.Mode&unix.S_IFMT == unix.S_IFDIR})
	}
	return nil
}

// covered are the directories that the vacuum has its own of.
var covered = [...]string{"/proc", "/sys", "/dev", "/run", "/tmp", "/var/run", "/var/tmp", "/var/cache"}

// apparitions are file systems that hold no files of the host, but its kernel's.
var apparitions = [...]string{
	"proc", "sysfs", "cgroup", "cgroup2", "devpts", "devtmpfs", "mqueue", "debugfs", "tracefs", "securityfs", "bpf", "pstore",
	"nsfs", "autofs", "rpc_pipefs", "fusectl", "binfmt_misc", "configfs", "hugetlbfs", "efivarfs", "selinuxfs", "nfsd",
}

// served are file systems whose files come from a server, or a daemon of the
// host: who reads one is on the network, past every rule.
var served = [...]string{
	"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "coda", "ceph", "lustre", "gpfs", "beegfs", "orangefs", "pvfs2",
	"gfs2", "ocfs2", "fuse", "fuseblk",
}

func isServed(kind string) bool {
	return slices.Contains(served[:], kind) || strings.HasPrefix(kind, "fuse.")
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// lay mounts the throw-away layer and makes the root in it.
func (b *rootBuilder) lay() error {
	root, err := os.Open("/")
	if err != nil {
		return fmt.Errorf("opening the host's root: %w", err)
	}
	defer root.Close()
	if err := b.readMounts(); err != nil {
		return err
	}
	for _, b.stage = range []string{"/tmp", "/run", "/mnt", "/dev", ""} {
		if st, err := os.Lstat(b.stage); err == nil && st.IsDir() {
			break
		}
	}
	if b.stage == "" {
		return errors.New("no directory to mount the throw-away layer on: none of /tmp, /run, /mnt, /dev is there")
	}
	if err := mount("tmpfs", b.stage, "tmpfs", tmpfsFlags, "mode=0755"); err != nil {
		return err
	}
	if b.stageFD, err = unix.Open(b.stage, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening the throw-away layer: %w", err)
	}
	if err := b.probeAttributes(); err != nil {
		return err
	}
	at := b.root()
	if err := os.Mkdir(at, 0o755); err != nil {
		return fmt.Errorf("making the root: %w", err)
	}
	if len(b.layers) > 0 {
		if err := b.writeFiles(); err != nil {
			return err
		}
		return b.mountOverlay(at, b.layers, 0)
	}
	if err := mount(at, at, "bind", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := b.skeleton(root, "/"); err != nil {
		return err
	}
	return b.writeFiles()
}

func (b *rootBuilder) root() string { return filepath.Join(b.stage, "root") }

func (b *rootBuilder) readMounts() error {
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("reading the mounts: %w", err)
	}
	b.mounts, b.parents = map[string]string{}, map[string]bool{}
	for _, m := range mounts {
		b.mounts[m.Mountpoint] = m.FSType
		for d := m.Mountpoint; d != "/"; {
			d = filepath.Dir(d)
			b.parents[d] = true
		}
	}
	return nil
}

// probeAttributes says when a file system without user attributes, as tmpfs
// before Linux 6.6, holds the throw-away layer.
func (b *rootBuilder) probeAttributes() error {
	err := unix.Setxattr(b.stage, "user.overlay.probe", []byte("y"), 0)
	if err == unix.EOPNOTSUPP {
		b.warnings = append(b.warnings, "tmpfs keeps no user attributes on this kernel: a directory of the host that was removed inside cannot be made again")
		return nil
	}
	if err != nil {
		return fmt.Errorf("preparing the throw-away layer: %w", err)
	}
	return nil
}

// upper makes and names the directories of one overlay.
func (b *rootBuilder) upper(n int) (upper, work string, err error) {
	upper, work = fdPath(b.stageFD)+"/upper"+strconv.Itoa(n), fdPath(b.stageFD)+"/work"+strconv.Itoa(n)
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", "", fmt.Errorf("preparing the throw-away layer: %w", err)
		}
	}
	return upper, work, nil
}

func (b *rootBuilder) mountOverlay(target string, layers []int, n int) error {
	upper, work, err := b.upper(n)
	if err != nil {
		return err
	}
	if err := copyOwner(layers[0], "", upper); err != nil {
		return err
	}
	var lower []string
	for _, fd := range layers {
		lower = append(lower, fdPath(fd))
	}
	return mount("overlay", target, "overlay", 0, "lowerdir="+strings.Join(lower, ":")+",upperdir="+upper+",workdir="+work+",userxattr")
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// copyOwner gives a directory of the throw-away layer the mode and owner of the
// one it covers. An owner that is not mapped becomes the vacuum's root.
func copyOwner(dirfd int, name, to string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("looking at the root's %s: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("the root's %s is no directory", name)
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("preparing the throw-away layer: %w", err)
	}
	if err := unix.Chmod(to, st.Mode&0o7777|0o700); err != nil {
		return fmt.Errorf("preparing the throw-away layer: %w", err)
	}
	return nil
}

// writeFiles puts the vacuum's own files into the throw-away layers, where they
// cover the host's, links included, without writing through them.
func (b *rootBuilder) writeFiles() error {
	for path, content := range b.s.Files {
		to, err := b.above(path)
		if err == nil {
			if err = os.Remove(to); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = os.WriteFile(to, content, 0o644)
			}
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	// The kernel cannot copy a directory up whose owner is not mapped. The ones
	// that lead to where the user works are there already.
	if len(b.layers) > 0 {
		return nil
	}
	for _, path := range b.s.Work {
		if st, err := os.Lstat(path); err != nil || !st.IsDir() {
			continue
		}
		if _, err := b.above(filepath.Join(path, "x")); err != nil {
			b.warnings = append(b.warnings, fmt.Sprintf("%s cannot be written to: %v", path, err))
		}
	}
	return nil
}

// above makes the parents of a path in the throw-away layer that it is in, like
// those they cover, and says where the path is there.
func (b *rootBuilder) above(path string) (string, error) {
	layers, rel := b.layers, strings.TrimPrefix(path, "/")
	dir, n := b.root(), -1
	if len(layers) > 0 {
		n = 0
	}
	for i, p := range b.parts {
		switch {
		case p.path == path && p.fd >= 0:
			_ = unix.Close(p.fd)
			b.parts[i].fd = -1 // ours stands in its place
		case p.dir && p.fd >= 0 && within(path, p.path):
			n, layers, rel = i+1, []int{p.fd}, strings.TrimPrefix(strings.TrimPrefix(path, p.path), "/")
		}
	}
	if n >= 0 {
		var err error
		if dir, _, err = b.upper(n); err != nil {
			return "", err
		}
	}
	parents := strings.Split(rel, "/")
	for i := range parents[:len(parents)-1] {
		parent := filepath.Join(parents[:i+1]...)
		to := filepath.Join(dir, parent)
		if err := os.Mkdir(to, 0o755); errors.Is(err, fs.ErrExist) {
			if st, err := os.Lstat(to); err != nil || !st.IsDir() {
				return "", fmt.Errorf("%s is no directory", parent)
			}
			continue
		} else if err != nil {
			return "", err
		}
		for _, fd := range layers {
			if err := copyOwner(fd, parent, to); err == nil {
				break
			} else if !errors.Is(err, unix.ENOENT) {
				_ = os.Remove(to)
				return "", err
			}
		}
	}
	return filepath.Join(dir, rel), nil
}

// enter makes the overlay the root. The old one stays mounted until leave, for
// the kernel takes lower layers only from mounts it can see; no path leads there.
func (b *rootBuilder) enter() error {
	if err := unix.Chdir(b.root()); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	return nil
}
