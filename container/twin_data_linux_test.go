package container

import (
	"strconv"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
)

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

func TestParseLock(t *testing.T) {
	for _, c := range []struct {
		line string
		want lock
		ok   bool
	}{
		{"1: FLOCK  ADVISORY  WRITE 41 fe:0a:4711 0 EOF", lock{write: true, pid: 41, dev: "254:10", inode: 4711}, true},
		{"1: -> FLOCK  ADVISORY  WRITE 42 fe:00:4711 0 EOF", lock{waits: true, write: true, pid: 42, dev: "254:0", inode: 4711}, true},
		{"1:  -> POSIX  ADVISORY  READ  42 08:01:1 128 191", lock{waits: true, pid: 42, dev: "8:1", inode: 1}, true},
		{"2: OFDLCK ADVISORY  WRITE -1 00:1f:9 0 0", lock{write: true, pid: -1, dev: "0:31", inode: 9}, true},
		{"3: LEASE  ACTIVE    READ  7 00:1f:9 0 EOF", lock{pid: 7, dev: "0:31", inode: 9}, true},
		{"3: POSIX  ADVISORY  READ 7 <none>:0 0 EOF", lock{}, false},
		{"", lock{}, false},
	} {
		if got, ok := parseLock(c.line); got != c.want || ok != c.ok {
			t.Errorf("parseLock(%q) = %+v, %v; want %+v, %v", c.line, got, ok, c.want, c.ok)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add("1: -> FLOCK  ADVISORY  WRITE 42 fe:00:4711 0 EOF")
	f.Add("2: OFDLCK ADVISORY  WRITE -1 00:1f:9 0 0")
	f.Fuzz(func(t *testing.T, line string) {
		if l, ok := parseLock(line); ok && strings.Count(l.dev, ":") != 1 {
			t.Errorf("parseLock(%q) = %+v; want a device of two numbers", line, l)
		}
	})
}

// A host with the data on a filesystem of its own, and what two containers see.
const (
	hostMounts = `22 1 254:0 / / rw - ext4 /dev/vda rw
23 22 8:16 / /srv/data rw - ext4 /dev/sdb rw
24 23 0:50 / /srv/data/wal rw - tmpfs tmpfs rw
25 22 0:99 /@data /mnt/btrfs rw - btrfs /dev/sdc rw
`
	containerMounts = `90 80 0:60 / / rw - overlay overlay rw
91 90 8:16 /etcd /var/lib/etcd rw - ext4 /dev/sdb rw
92 90 0:50 / /wal rw - tmpfs tmpfs rw
93 90 0:61 / /wal/private rw - tmpfs tmpfs rw
94 90 0:99 /@data/x /b rw - btrfs /dev/sdc rw
`
)

func TestViewFind(t *testing.T) {
	host, inside := mounts(t, hostMounts), mounts(t, containerMounts)
	regions := []region{
		{dev: "8:16", root: "/", data: "/srv/data", path: "/srv/data"},
		{dev: "0:50", root: "/", data: "/srv/data", path: "/srv/data/wal"},
		{dev: "0:99", root: "/@data/x/y", data: "/mnt/btrfs/x/y", path: "/mnt/btrfs/x/y"},
	}
	for _, c := range []struct {
		in         mountTable
		path, want string
	}{
		{host, "/srv/data/etcd/db", "/srv/data/etcd/db"},
		{host, "/srv/data/wal/0.wal (deleted)", "/srv/data/wal/0.wal"},
		{host, "/srv/database", ""},
		{host, "/srv", ""},
		{inside, "/var/lib/etcd/member/db", "/srv/data/etcd/member/db"},
		{inside, "/var/lib/etcd", "/srv/data/etcd"},
		{inside, "/wal/0.wal", "/srv/data/wal/0.wal"},
		{inside, "/wal/private/0.wal", ""}, // covered by another mount
		{inside, "/srv/data/etcd/db", ""},  // the container's own directory of that name
		{inside, "/b/y/z", "/mnt/btrfs/x/y/z"},
		{inside, "/b/z", ""},
	} {
		v := view{mounts: c.in, windows: c.in.windows(regions)}
		if got, _, ok := v.find(c.path); got != c.want || ok != (c.want != "") {
			t.Errorf("find(%s) = %q, %v; want %q", c.path, got, ok, c.want)
		}
	}
}

func mounts(t *testing.T, text string) mountTable {
	t.Helper()
	m, err := mountinfo.GetMountsFromReader(strings.NewReader(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
