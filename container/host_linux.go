package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Container is one container of a Host. A Container that came from Reserve holds
// its lock and is in charge of it; one from Load only looks and asks.
type Container struct {
	host Host
	name string
	rec  record
	conf *specs.Spec // once prepared or read
	lock *os.File

	cgroup cgroups.Manager // once asked for
}

// Name is the container's name.
func (c *Container) Name() string { return c.name }

// Spec is what was asked for, filled with the image's defaults.
func (c *Container) Spec() Spec { return c.rec.Spec }

func (c *Container) path(file string) string { return filepath.Join(c.host.dir(c.name), file) }

// Rootfs is the directory that is the container's root; Upper and Work are the
// writable layer of the overlay that may be mounted there.
func (c *Container) Rootfs() string {
	if c.rec.Spec.Rootfs != "" {
		return c.rec.Spec.Rootfs
	}
	return c.path("rootfs")
}

// Identities is a directory for what the container is to be known by; it goes with the container.
func (c *Container) Identities() string { return c.path("identities") }

// Upper is the overlay's writable directory.
func (c *Container) Upper() string { return c.writable("upper") }

// Work is the overlay's work directory, on the same file system as Upper.
func (c *Container) Work() string { return c.writable("work") }

func (c *Container) writable(dir string) string {
	if c.rec.InMemory {
		return filepath.Join(c.host.memory(c.name), dir)
	}
	return c.path(dir)
}

// memory is where a container's writable layer is if DATA lies on an overlay: that
// cannot be the upper layer of another (kernel: Documentation/filesystems/overlayfs).
func (h Host) memory(name string) string { return filepath.Join(h.State+"-writable", name) }

func onOverlay(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// LogPath is the file that holds the container's output.
func (c *Container) LogPath() string { return c.path("log") }

// Reserve takes the name for a new container and becomes in charge of it. Until
// Prepare, whatever fails is undone by Discard.
func (h Host) Reserve(s Spec, detached bool) (*Container, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("%w: making a container needs root (CAP_SYS_ADMIN for mounts and namespaces, write access to %s and the cgroups), and this is user %d", ErrPrivilege, h.State, os.Geteuid())
	}
	unlock, err := h.exclusive()
	if err != nil {
		return nil, err
	}
	defer unlock()
	c := &Container{host: h, name: s.Name, rec: record{
		Spec: s, Phase: creating, Detached: detached, Overlay: s.Rootfs == "", InMemory: s.Rootfs == "" && onOverlay(h.Data), Created: time.Now().UTC(), BootID: bootID(),
	}}
	if err := os.Mkdir(h.dir(s.Name), 0o700); errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%w: %s", ErrExists, s.Name)
	} else if err != nil {
		return nil, fmt.Errorf("making container directory: %w", writable(err))
	}
	if err := os.MkdirAll(h.State, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("making state directory: %w", writable(err)), os.Remove(h.dir(s.Name)))
	}
	if err := unix.Access(h.State, unix.W_OK); err != nil {
		err = writable(&os.PathError{Op: "access", Path: h.State, Err: err})
		return nil, errors.Join(fmt.Errorf("looking at state directory: %w", err), os.Remove(h.dir(s.Name)))
	}
	if exists(filepath.Join(h.State, s.Name)) {
		return nil, errors.Join(fmt.Errorf("%w: %s, by another program, in %s", ErrExists, s.Name, h.State), os.Remove(h.dir(s.Name)))
	}
	if c.lock, err = tryLock(c.path("lock"), os.O_CREATE); err == nil {
		err = c.save()
	}
	for _, d := range []string{c.path("rootfs"), c.Upper(), c.Work()} {
		if err == nil && c.rec.Overlay {
			err = os.MkdirAll(d, 0o755)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reserving %s: %w", s.Name, err), c.Discard())
	}
	return c, nil
}

// Load finds a container by its name.
func (h Host) Load(name string) (*Container, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	c := &Container{host: h, name: name}
	err := readJSON(c.path("record.json"), &c.rec)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return c, unprivileged(err)
}

// unprivileged turns what was refused to somebody who is not root into the error
// that says so.
func unprivileged(err error) error {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: %w", ErrPrivilege, err)
	}
	return err
}

// List returns all containers by name, and what could not be read.
func (h Host) List() ([]*Container, []error) {
	names, err := h.names()
	if err != nil {
		return nil, []error{err}
	}
	var out []*Container
	var bad []error
	for _, n := range names {
		c, err := h.Load(n)
		if errors.Is(err, ErrNotFound) {
			continue // removed since the names were read, or being made
		} else if err != nil {
			bad = append(bad, err)
			continue
		}
		out = append(out, c)
	}
	return out, bad
}

func (h Host) names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(h.Data, "containers"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing containers: %w", unprivileged(err))
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// LayersInUse lists the layer directories that some container is made of.
func (h Host) LayersInUse() []string {
	all, _ := h.List()
	var dirs []string
	for _, c := range all {
		dirs = append(dirs, c.rec.Layers...)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

func (c *Container) save() error { return writeJSON(c.path("record.json"), c.rec, false) }

func (c *Container) enter(p phase) error {
	c.rec.Phase = p
	return c.save()
}

// exclusive keeps other commands from making, sweeping and removing containers
// for a moment; nothing slow is done under it.
func (h Host) exclusive() (func(), error) {
	if err := os.MkdirAll(filepath.Join(h.Data, "containers"), 0o711); err != nil {
		return nil, fmt.Errorf("making data directory: %w", writable(err))
	}
	f, err := os.OpenFile(filepath.Join(h.Data, "lock"), os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking data directory: %w", writable(err))
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking data directory: %w", err), f.Close())
	}
	return func() { f.Close() }, nil
}

// errLocked says that another live process is in charge.
var errLocked = errors.New("another process is in charge")

// tryLock takes the lock file at path, or returns errLocked, or os.ErrNotExist
// where it has gone. The lock goes with
// the last descriptor: the kernel releases it when its holder is killed. flag is
// O_CREATE where the file may be missing.
func tryLock(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC|flag, 0o600)
	if err != nil {
		return nil, writable(err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// Whoever held it may have removed the container meanwhile, and its name may
	// be another's by now.
	held, err := f.Stat()
	if err == nil {
		var there os.FileInfo
		if there, err = os.Stat(path); err == nil && !os.SameFile(held, there) {
			err = os.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// inCharge waits until nobody else is in charge of the container and takes the
// lock, or returns ctx's error.
func (c *Container) inCharge(ctx context.Context) error {
	for {
		f, err := tryLock(c.path("lock"), 0)
		if err == nil {
			c.lock = f
			return nil
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the supervisor of %s: %w", c.name, err)
		}
	}
}

// supervised says whether some live process is in charge of the container.
func (c *Container) supervised() bool {
	f, err := tryLock(c.path("lock"), 0)
	if err != nil {
		return errors.Is(err, errLocked)
	}
	f.Close()
	return false
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// Mounted says whether something is mounted on path itself.
//
// /proc/self is the process's first thread. To start a container, libcontainer
// has some thread join the container's mount namespace and end there; the first
// one cannot end and stays in it. No goroutine runs on such a thread any more.
func Mounted(path string) bool {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return false
	}
	escaped := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(path)
	return strings.Contains(string(b), " "+escaped+" ")
}
