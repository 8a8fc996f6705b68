package container

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Conflict is one sign that a service may be running on this host already, with
// who holds it.
type Conflict struct {
	Kind    string `json:"kind"`              // "lock", "data", "port" or "program"
	What    string `json:"what"`              // a path of this host, "127.0.0.1:2379/tcp", or the program's name
	PID     int    `json:"pid,omitempty"`     // 0 where only the kernel holds it
	Command string `json:"command,omitempty"` // its command line: printable, at most some 200 bytes
	Waiting bool   `json:"waiting,omitempty"` // it waits for a lock that someone else holds
	Certain bool   `json:"certain"`           // a second instance would clash; else it is a hint
	Why     string `json:"why"`               // what was seen
}

// String is one line for an operator.
func (c Conflict) String() string {
	if c.PID == 0 {
		return fmt.Sprintf("%s %s: %s", c.Kind, c.What, c.Why)
	}
	return fmt.Sprintf("%s %s: %s by process %d (%s)", c.Kind, c.What, c.Why, c.PID, c.Command)
}

// TwinQuery describes the service that must not run twice.
type TwinQuery struct {
	Args   []string           // its command line with the program
	Ports  []Port             // where it listens, see PortsOf
	Data   []string           // host directories that it writes, absolute
	NetNS  string             // path of the network namespace that it uses; "" is the caller's
	Ignore func(pid int) bool // processes that may: the recovery container's own and its supervisor; nil is none
}

// maxConflicts bounds what one query returns.
const maxConflicts = 64

// Twins looks for signs that the service is running: its ports are taken, its
// data is locked, open for writing or mounted in some container, or the same
// program runs. Only processes count that neither are the caller nor are
// ignored; a lock the ignored ones hold still makes others wait for it. Certain
// conflicts come first. An error means that the host could not be looked at, so
// that nothing is known.
//
// Files are compared by filesystem and path inside it, through every process's
// own mount table, so neither other path names nor deleted files hide a writer.
// On overlayfs the kernel's lock list names other inodes: there a waiter in the
// kernel's queue counts as a writer only.
func Twins(ctx context.Context, q TwinQuery) ([]Conflict, error) {
	s, err := newTwinScan(q)
	if err != nil {
		return nil, err
	}
	if err := eachProcess(ctx, s.look); err != nil {
		return nil, err
	}
	if len(s.uses) > 0 {
		if err := markWaiting(ctx, s.uses); err != nil {
			return nil, err
		}
	}
	found := slices.Concat(s.dataConflicts(), s.portConflicts(), s.programs)
	slices.SortStableFunc(found, func(a, b Conflict) int {
		switch {
		case a.Certain == b.Certain:
			return 0
		case a.Certain:
			return -1
		}
		return 1
	})
	return found[:min(len(found), maxConflicts)], nil
}

// twinScan gathers in one pass over /proc what the query needs.
type twinScan struct {
	q       TwinQuery
	self    int
	netns   unix.Stat_t
	regions []region
	own     mountTable
	views   map[string]*view // the caller's by its ns/mnt link, others by ns/mnt and root
	sockets []taken

	uses     []use
	known    map[int]seen
	shown    []Conflict // data mounted in a container, once for each mount namespace
	programs []Conflict
}

// taken is a socket that the service would meet.
type taken struct {
	socket
	port  Port
	sure  bool
	owner []int
}

// seen is what a conflict tells of a process.
type seen struct{ command, mountNS string }

func newTwinScan(q TwinQuery) (*twinScan, error) {
	if q.Ignore == nil {
		q.Ignore = func(int) bool { return false }
	}
	s := &twinScan{q: q, self: os.Getpid(), views: map[string]*view{}, known: map[int]seen{}}
	if len(q.Ports) > 0 {
		all, err := listening(q.NetNS)
		if err != nil {
			return nil, err
		}
		for _, sock := range all {
			for _, p := range q.Ports {
				if meets, sure := sock.clash(p); meets {
					s.sockets = append(s.sockets, taken{socket: sock, port: p, sure: sure})
				}
			}
		}
	}
	path := cmp.Or(q.NetNS, "/proc/self/ns/net")
	if err := unix.Stat(path, &s.netns); err != nil {
		return nil, fmt.Errorf("looking at network namespace %s: %w", path, err)
	}
	if len(q.Data) > 0 {
		dir, err := os.Open("/proc/self")
		if err != nil {
			return nil, fmt.Errorf("looking at mounts: %w", err)
		}
		defer dir.Close()
		self := &proc{pid: s.self, dir: dir}
		s.own = mountsOf(self)
		if s.regions, err = s.own.regions(q.Data); err != nil {
			return nil, err
		}
		s.views[self.link("ns/mnt")] = &view{mounts: s.own, windows: s.own.windows(s.regions)}
	}
	return s, nil
}

// look takes from one process what concerns the query.
func (s *twinScan) look(p *proc) {
	if p.pid == s.self {
		return
	}
	v, ns := &view{}, ""
	if len(s.regions) > 0 {
		v, ns = s.view(p)
	}
	first := len(s.uses)
	relevant := false
	if len(s.sockets) > 0 || len(v.windows) > 0 {
		p.eachFD(func(fd, target string) {
			relevant = s.owns(p.pid, target) || relevant
			if u, ok := v.open(p, fd, target); ok {
				s.uses = append(s.uses, u)
			}
		})
	}
	if len(v.windows) > 0 {
		if path, r, ok := v.find(p.link("cwd")); ok {
			s.uses = append(s.uses, use{pid: p.pid, region: r, path: path, cwd: true})
		}
		if !slices.ContainsFunc(s.uses[first:], func(u use) bool { return u.write }) {
			if u, ok := v.mapping(p); ok {
				s.uses = append(s.uses, u)
			}
		}
	}
	relevant = relevant || len(s.uses) > first
	if relevant {
		s.known[p.pid] = seen{command: command(p.argv()), mountNS: ns}
	}
	if len(s.q.Args) > 0 && !s.q.Ignore(p.pid) {
		s.sameProgram(p, p.argv())
	}
}

// owns notes which process holds a socket that the service would meet.
func (s *twinScan) owns(pid int, target string) bool {
	n, ok := socketInode(target)
	if !ok {
		return false
	}
	found := false
	for i := range s.sockets {
		if t := &s.sockets[i]; t.inode == n {
			t.owner = append(t.owner, pid)
			found = true
		}
	}
	return found
}

// view is what the process's mount namespace shows, read once for all that
// share it and their root directory: below another root fewer mounts are listed.
func (s *twinScan) view(p *proc) (v *view, ns string) {
	ns = p.link("ns/mnt")
	if v, ok := s.views[ns]; ok {
		return v, ns
	}
	root := p.link("root")
	if v, ok := s.views[ns+root]; ok {
		return v, ns
	}
	mounts := mountsOf(p)
	for _, m := range mounts {
		m.Mountpoint = below(m.Mountpoint, "/", root) // as the links of descriptors name it
	}
	v = &view{mounts: mounts, windows: mounts.windows(s.regions)}
	if ns != "" && len(mounts) > 0 {
		s.views[ns+root] = v
		s.showsData(p, v, ns)
	}
	return v, ns
}

// showsData notes a container that has the data mounted writable, though it may
// not be using it. A namespace whose root is the caller's is no container but a
// service with some private mounts, which sees the whole host.
func (s *twinScan) showsData(p *proc, v *view, ns string) {
	if s.q.Ignore(p.pid) {
		return
	}
	root, own := v.mounts.at("/"), s.own.at("/")
	if root == nil || own == nil || (device(root) == device(own) && root.Root == own.Root) {
		return
	}
	for _, w := range v.windows {
		whole := w.mount.Root == "/" && w.root != "/" // the host's filesystem, for an agent
		if whole || !hasOption(w.mount.Options, "rw") || !hasOption(w.mount.VFSOptions, "rw") || v.mounts.at(w.prefix) != w.mount {
			continue
		}
		s.shown = append(s.shown, Conflict{
			Kind: "data", What: w.host, PID: p.pid, Command: command(p.argv()), Why: "mounted writable in a container",
		})
		s.known[p.pid] = seen{command: command(p.argv()), mountNS: ns}
		return
	}
}

func hasOption(list, option string) bool { return slices.Contains(strings.Split(list, ","), option) }

// dataConflicts gives one conflict for each process and data directory, the
// strongest sign of it.
func (s *twinScan) dataConflicts() []Conflict {
	type key struct {
		pid  int
		data string
	}
	strength := func(u use) int {
		switch {
		case u.wait:
			return 4
		case u.locks:
			return 3
		case u.write:
			return 2
		case u.cwd:
			return 1
		}
		return 0 // reads only: a backup, a log shipper
	}
	best, order := map[key]use{}, []key{}
	for _, u := range s.uses {
		k := key{u.pid, u.region.data}
		if s.q.Ignore(u.pid) || strength(u) == 0 {
			continue
		}
		if _, ok := best[k]; !ok {
			order = append(order, k)
		}
		if strength(u) > strength(best[k]) {
			best[k] = u
		}
	}
	var found []Conflict
	for _, k := range order {
		u := best[k]
		c := Conflict{Kind: "data", What: u.path, PID: u.pid, Command: s.known[u.pid].command, Certain: !sharedDir(u.region.path)}
		switch strength(u) {
		case 4:
			c.Kind, c.Waiting, c.Why = "lock", true, "waited for"
		case 3:
			c.Kind, c.Why = "lock", "locked"
		case 2:
			c.Why = "open for writing"
		case 1:
			c.Why, c.Certain = "used as working directory", false
		}
		found = append(found, c)
	}
	uses := len(found)
	for _, c := range s.shown {
		same := func(f Conflict) bool { return s.known[f.PID].mountNS == s.known[c.PID].mountNS }
		if !slices.ContainsFunc(found[:uses], same) {
			found = append(found, c)
		}
	}
	return found
}

// sharedDir says whether many programs write below the directory itself, so that
// a writer there is no twin: /run, /var/log. Their subdirectories are not shared.
func sharedDir(path string) bool {
	for _, tree := range []string{"/proc", "/sys", "/dev", "/run/lock"} {
		if within(path, tree) {
			return true
		}
	}
	return slices.Contains([]string{
		"/", "/etc", "/home", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/cache", "/var/lib",
		"/var/lib/kubelet", "/var/log", "/var/log/containers", "/var/log/pods", "/var/run", "/var/spool", "/var/tmp",
	}, path)
}

// portConflicts gives one conflict for each socket and process. A socket that an
// ignored process holds is the recovery container's own.
func (s *twinScan) portConflicts() []Conflict {
	var found []Conflict
	for _, t := range s.sockets {
		c := Conflict{
			Kind: "port", What: Port{Proto: t.proto, Addr: t.local.Addr(), Port: t.local.Port()}.String(),
			Certain: t.sure, Why: "taken",
		}
		if slices.ContainsFunc(t.owner, s.q.Ignore) || slices.Contains(t.owner, s.self) {
			continue
		}
		if len(t.owner) > 0 {
			c.PID = slices.Min(t.owner)
			c.Command = s.known[c.PID].command
		}
		same := func(f Conflict) bool { return f.What == c.What && f.PID == c.PID }
		if i := slices.IndexFunc(found, same); i >= 0 {
			found[i].Certain = found[i].Certain || c.Certain
			continue
		}
		found = append(found, c)
	}
	return found
}
