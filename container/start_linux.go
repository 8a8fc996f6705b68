package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Prepare writes down the filled specification and the runtime configuration
// made of it. It returns what this host cannot give; in strict mode that is an
// error instead.
func (c *Container) Prepare(s Spec, strict bool) ([]string, error) {
	conf, err := s.OCI(c.Rootfs())
	if err != nil {
		return nil, err
	}
	lost := Fit(conf)
	if c.rec.InMemory && !Nested() { // there nothing would last anyway
		lost = append(lost, fmt.Sprintf("%s lies on an overlay: what the container writes outside its volumes is in memory, in %s", c.host.Data, c.Upper()))
	}
	if strict && len(lost) > 0 {
		return lost, fmt.Errorf("%w: %s", ErrDegraded, lost[0])
	}
	c.rec.Spec, c.conf = s, conf
	if err := c.save(); err != nil {
		return lost, err
	}
	return lost, writeJSON(c.path("config.json"), conf, false)
}

// OCI is the runtime configuration that the container runs with. It is not to be
// changed.
func (c *Container) OCI() (*specs.Spec, error) {
	if c.conf != nil {
		return c.conf, nil
	}
	conf := &specs.Spec{}
	if err := readJSON(c.path("config.json"), conf); err != nil {
		return nil, err
	}
	return conf, nil
}

// stdio is what the container's first process gets as descriptors 0, 1 and 2,
// or the socket over which it hands out its terminal.
type stdio struct {
	in, out, err *os.File
	console      *os.File
	rows, cols   uint16 // of the terminal, before the first process asks
}

// process is a container's running first process.
type process struct {
	c   *Container
	lib *libcontainer.Container
	lp  *libcontainer.Process
	pid int
}

// start makes the container and runs its first process. What fails is undone.
func (c *Container) start(io stdio) (_ *process, err error) {
	conf, err := c.OCI()
	if err != nil {
		return nil, err
	}
	bundle := filepath.Join(c.host.State, c.name)
	lconf, err := libConfig(c.name, bundle, conf)
	if err != nil {
		return nil, err
	}
	lp, err := libProcess(conf.Process, true)
	if err != nil {
		return nil, err
	}
	lp.Stdin, lp.Stdout, lp.Stderr, lp.ConsoleSocket = reader(io.in), writer(io.out), writer(io.err), io.console
	if io.console != nil {
		lp.ConsoleHeight, lp.ConsoleWidth = io.rows, io.cols
	}
	lib, err := libcontainer.Create(c.host.State, c.name, lconf)
	if errors.Is(err, libcontainer.ErrExist) {
		// The last run's state: the lock says nobody else is in charge.
		if err = c.destroy(); err == nil {
			lib, err = libcontainer.Create(c.host.State, c.name, lconf)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("making container %s: %w", c.name, writable(err))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.destroy())
		}
	}()
	b, err := os.ReadFile(c.path("config.json"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600); err != nil {
		return nil, fmt.Errorf("writing config.json: %w", writable(err))
	}
	if err := lib.Run(lp); err != nil {
		return nil, fmt.Errorf("starting %s: %w", conf.Process.Args[0], err)
	}
	pid, err := lp.Pid()
	if err != nil {
		return nil, err
	}
	return &process{c: c, lib: lib, lp: lp, pid: pid}, c.enter(running)
}

// wait waits for the first process and says how it ended.
func (p *process) wait(started time.Time) Exit {
	state, err := p.lp.Wait()
	e := Exit{Code: -1, Started: started.UTC(), Finished: time.Now().UTC()}
	if state == nil {
		if err != nil {
			e.Reason = err.Error()
		}
		return e
	}
	ws := state.Sys().(syscall.WaitStatus)
	e.Code = ws.ExitStatus()
	if ws.Signaled() {
		e.Code = 128 + int(ws.Signal())
	}
	e.OOMKilled = p.c.oomKilled()
	return e
}

// oomKilled reads the kernel's count of processes it killed in the container's
// cgroup for lack of memory (cgroup v1 memory.oom_control, v2 memory.events).
func (c *Container) oomKilled() bool {
	m, err := c.cgroups()
	if err != nil {
		return false
	}
	n, err := m.OOMKillCount()
	return err == nil && n > 0
}

// cgroups is the container's cgroup in every hierarchy, whether made or not.
func (c *Container) cgroups() (_ cgroups.Manager, err error) {
	if c.cgroup == nil {
		c.cgroup, err = cgroupManager(CgroupPath(c.name))
	}
	return c.cgroup, err
}

// destroy removes what a run left in the kernel and in the state directory:
// every process of the cgroup, the cgroup, the state. It works from the names
// alone, so that it also undoes a start that was cut off anywhere.
func (c *Container) destroy() error {
	if !Confined() { // else they are where this process sees none, and go with the vacuum
		m, err := c.cgroups()
		if err != nil {
			return err
		}
		if err := killAll(m); err != nil {
			return fmt.Errorf("killing what is left of %s: %w", c.name, err)
		}
		if err := m.Destroy(); err != nil {
			return fmt.Errorf("removing the cgroup of %s: %w", c.name, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(c.host.State, c.name)); err != nil {
		return fmt.Errorf("removing the state of %s: %w", c.name, err)
	}
	return nil
}

func cgroupManager(path string) (cgroups.Manager, error) {
	m, err := manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{}})
	if err != nil {
		return nil, fmt.Errorf("opening cgroup %s: %w", path, err)
	}
	return m, nil
}

// killAll kills until the cgroup is empty: a process may fork while it is read.
func killAll(m cgroups.Manager) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := m.GetAllPids()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) || (err == nil && len(pids) == 0) {
			return nil
		}
		if err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v do not die", pids)
		}
		_ = m.Freeze(cgroups.Thawed) // a frozen v1 cgroup takes no signal
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// unmount undoes the overlay on the container's own rootfs directory.
func (c *Container) unmount() error {
	if !c.rec.Overlay || !Mounted(c.path("rootfs")) {
		return nil
	}
	if err := unix.Unmount(c.path("rootfs"), unix.UMOUNT_NOFOLLOW); err == nil {
		return nil
	}
	if err := unix.Unmount(c.path("rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmounting %s: %w", c.path("rootfs"), err)
	}
	return nil
}

// Discard removes everything of a container that its caller is in charge of.
func (c *Container) Discard() error {
	errs := []error{c.enter(removing), c.destroy(), c.leaveCgroup(), c.unmount()}
	if !Mounted(c.path("rootfs")) { // never delete through a mount
		errs = append(errs, c.forget())
	}
	if c.lock != nil {
		errs = append(errs, c.lock.Close())
		c.lock = nil
	}
	return errors.Join(errs...)
}

// forget removes the container's directory. It gets another name first, in one
// step and one that nobody has: nobody opens its lock while it goes, and a Sweep
// that removes what has such a name never sees it half renamed.
func (c *Container) forget() error {
	dir := filepath.Join(filepath.Dir(c.host.dir(c.name)), fmt.Sprintf(".gone.%s.%d", c.name, time.Now().UnixNano()))
	if err := os.Rename(c.host.dir(c.name), dir); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("removing container directory: %w", writable(err))
	}
	// A mount namespace that is being torn down may hold the overlay a moment
	// longer and keep its directories busy.
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := errors.Join(os.RemoveAll(c.host.memory(c.name)), os.RemoveAll(dir)); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// leaveCgroup removes the supervisor's cgroup.
func (c *Container) leaveCgroup() error {
	if !c.rec.Detached || Confined() {
		return nil
	}
	m, err := cgroupManager(supervisorCgroup(c.name))
	if err != nil {
		return err
	}
	if pids, err := m.GetAllPids(); err == nil && len(pids) > 0 {
		return nil // it is on its way out and removes it itself
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("removing the supervisor's cgroup: %w", err)
	}
	return nil
}

// Typed nil files must not become non-nil interfaces.
func reader(f *os.File) interface{ Read([]byte) (int, error) } {
	if f == nil {
		return nil
	}
	return f
}

func writer(f *os.File) interface{ Write([]byte) (int, error) } {
	if f == nil {
		return nil
	}
	return f
}
