package container

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// region is a directory tree as the kernel names it, whatever the path names of
// a mount namespace: a filesystem and a path inside it. The device number is
// mountinfo's and /proc/locks', which is the superblock's; stat(2)'s st_dev
// differs from it on btrfs, where every subvolume has a number of its own.
type region struct {
	dev  string // "254:0"
	root string // "/srv/etcd", inside the filesystem
	data string // the directory of the query that it belongs to
	path string // the same place in the caller's mount namespace
}

// mountTable is a mount namespace as one process sees it, in mount order.
type mountTable []*mountinfo.Info

// maxMounts bounds a mount table, in bytes; a busy node has a few hundred KiB.
const maxMounts = 16 << 20

func mountsOf(p *proc) mountTable {
	mounts, err := mountinfo.GetMountsFromReader(bytes.NewReader(p.read("mountinfo", maxMounts)), nil)
	if err != nil {
		return nil
	}
	return mounts
}

func device(m *mountinfo.Info) string { return fmt.Sprintf("%d:%d", m.Major, m.Minor) }

// at finds the mount that an absolute path is on: of the longest mount points
// the one mounted last.
func (t mountTable) at(path string) *mountinfo.Info {
	var best *mountinfo.Info
	for _, m := range t {
		if within(path, m.Mountpoint) && (best == nil || len(m.Mountpoint) >= len(best.Mountpoint)) {
			best = m
		}
	}
	return best
}

// within says whether path is dir or below it. Both are clean and absolute.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return ok && (rest == "" || rest[0] == '/')
}

// below moves path, which is within from, to the same place below to.
func below(path, from, to string) string {
	return filepath.Join(to, strings.TrimPrefix(path, strings.TrimSuffix(from, "/")))
}

// regions finds where the directories are, with the filesystems mounted below
// them. A directory that does not exist yet holds nothing and has none.
func (t mountTable) regions(dirs []string) ([]region, error) {
	var found []region
	for _, dir := range dirs {
		real, err := filepath.EvalSymlinks(dir)
		if os.IsNotExist(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("looking at data directory: %w", err)
		}
		m := t.at(real)
		if m == nil {
			return nil, fmt.Errorf("looking at data directory %s: no mount holds it", dir)
		}
		found = append(found, region{dev: device(m), root: below(real, m.Mountpoint, m.Root), data: dir, path: real})
		for _, sub := range t {
			if sub.Mountpoint != real && within(sub.Mountpoint, real) {
				found = append(found, region{dev: device(sub), root: sub.Root, data: dir, path: sub.Mountpoint})
			}
		}
	}
	return found, nil
}

// window is a place where a mount namespace shows a region, or a part of it.
type window struct {
	region
	mount  *mountinfo.Info
	prefix string // path in that namespace
	host   string // the same place in the caller's namespace
}

// windows translates regions into the paths of this namespace.
func (t mountTable) windows(regions []region) []window {
	var found []window
	for _, m := range t {
		for _, r := range regions {
			switch {
			case device(m) != r.dev:
			case within(r.root, m.Root):
				found = append(found, window{r, m, below(r.root, m.Root, m.Mountpoint), r.path})
			case within(m.Root, r.root):
				found = append(found, window{r, m, m.Mountpoint, below(m.Root, r.root, r.path)})
			}
		}
	}
	return found
}

// view is what one mount namespace shows of the data.
type view struct {
	mounts  mountTable
	windows []window
}

// find gives the data's path in the caller's namespace for a path of this one.
// A window that another mount covers does not show the data.
func (v *view) find(path string) (host string, r region, ok bool) {
	path = strings.TrimSuffix(path, " (deleted)")
	for _, w := range v.windows {
		if within(path, w.prefix) && v.mounts.at(path) == w.mount {
			return below(path, w.prefix, w.host), w.region, true
		}
	}
	return "", region{}, false
}

// use is one descriptor, mapping or working directory inside the data.
type use struct {
	pid    int
	region region
	path   string // in the caller's mount namespace
	inode  uint64
	write  bool // open or mapped for writing
	locks  bool // holds a lock on the file
	alone  bool // the lock excludes every other one
	wait   bool // waits for a lock on the file
	cwd    bool
}

// open gives the use of one descriptor, if it is inside the data.
func (v *view) open(p *proc, fd, target string) (use, bool) {
	if len(v.windows) == 0 || !strings.HasPrefix(target, "/") {
		return use{}, false
	}
	path, r, ok := v.find(target)
	st, exists := p.stat("fd/" + fd)
	if !ok || !exists {
		return use{}, false
	}
	u := use{pid: p.pid, region: r, path: path, inode: st.Ino}
	u.readInfo(p.read("fdinfo/"+fd, 64<<10))
	return u, true
}

// readInfo takes the open mode and the locks from /proc/PID/fdinfo/N (see
// proc_pid_fdinfo(5)). Unlike /proc/locks it tells whose an OFD lock is.
func (u *use) readInfo(info []byte) {
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "flags":
			flags, err := strconv.ParseUint(strings.TrimSpace(value), 8, 64)
			mode := flags & unix.O_ACCMODE
			u.write = err == nil && flags&unix.O_PATH == 0 && (mode == unix.O_WRONLY || mode == unix.O_RDWR)
		case "lock":
			if l, ok := parseLock(value); ok && !l.waits {
				u.locks = true
				u.alone = u.alone || l.write
			}
		}
	}
}

// mapping finds a file inside the data that is mapped shared and writable: its
// descriptor may have been closed since.
func (v *view) mapping(p *proc) (use, bool) {
	f, err := p.open("maps", unix.O_RDONLY)
	if err != nil {
		return use{}, false
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		// address perms offset dev inode path, the path perhaps with spaces
		line := sc.Text()
		_, rest, _ := strings.Cut(line, " ")
		if len(rest) < 4 || rest[1] != 'w' || rest[3] != 's' {
			continue
		}
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			continue
		}
		if path, r, ok := v.find(rest[slash:]); ok {
			return use{pid: p.pid, region: r, path: path, write: true}, true
		}
	}
	return use{}, false
}

// lock is one line of /proc/locks or of fdinfo.
type lock struct {
	waits bool   // for a lock someone else holds
	write bool   // excludes every other lock
	pid   int    // 0 or -1 where the kernel does not say
	dev   string // as mountinfo writes it
	inode uint64
}

// parseLock reads "1: -> FLOCK  ADVISORY  WRITE 41 08:01:4711 0 EOF" (see
// proc_locks(5)): major and minor are hexadecimal, the inode is decimal.
func parseLock(line string) (lock, bool) {
	fields := strings.Fields(line)
	if len(fields) < 8 {
		return lock{}, false
	}
	l := lock{waits: fields[1] == "->"}
	fields = fields[len(fields)-5:]
	pid, err := strconv.Atoi(fields[1])
	where := strings.Split(fields[2], ":")
	if err != nil || len(where) != 3 {
		return lock{}, false
	}
	major, err1 := strconv.ParseUint(where[0], 16, 32)
	minor, err2 := strconv.ParseUint(where[1], 16, 32)
	inode, err3 := strconv.ParseUint(where[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return lock{}, false
	}
	l.pid, l.write, l.dev, l.inode = pid, fields[0] == "WRITE", fmt.Sprintf("%d:%d", major, minor), inode
	return l, true
}

// markWaiting finds, among the uses, those that wait for a lock: in the kernel's
// queue, or by asking again and again, as bbolt does, with the file open for
// writing while another process holds it alone.
func markWaiting(ctx context.Context, uses []use) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("reading locks: %w", err)
	}
	f, err := os.Open("/proc/locks")
	if err != nil {
		return fmt.Errorf("reading locks: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		l, ok := parseLock(sc.Text())
		if !ok || !l.waits {
			continue
		}
		for i := range uses {
			u := &uses[i]
			u.wait = u.wait || (u.pid == l.pid && u.inode == l.inode && u.region.dev == l.dev && !u.locks)
		}
	}
	for i := range uses {
		for _, holder := range uses {
			u := &uses[i]
			if holder.alone && u.write && !u.locks && holder.pid != u.pid &&
				holder.inode == u.inode && holder.region.dev == u.region.dev {
				u.wait = true
			}
		}
	}
	return sc.Err()
}
