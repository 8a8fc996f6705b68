package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"github.com/moby/sys/capability"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// Confined says that this process is root without what making a container takes,
// as in a vacuum: see [Nest].
func Confined() bool {
	own, err := capability.NewPid2(0)
	return os.Geteuid() == 0 && err == nil && own.Load() == nil && !own.Get(capability.EFFECTIVE, capability.CAP_SYS_ADMIN)
}

// errNested is returned where there are no namespaces to be had.
var errNested = errors.New("no user namespace to make a container in")

// nestedEnv is set for what [Nest] starts, and what that starts.
const nestedEnv = "_BLACKSTART_NESTED"

// Nested says that this process is one that [Nest] started.
func Nested() bool { return os.Getenv(nestedEnv) != "" }

// Nest runs this program once more, with the same arguments and streams, in a user,
// a mount and a cgroup namespace of its own, where root may mount and make
// containers (user_namespaces(7)); [Settle] does the rest there. Every user stays
// who it is, and the network is not the new namespace's: nothing about it can be
// changed from there. What is mounted lasts as long as a process there does. It
// returns the status that it ended with, 128 and the signal's number if a signal
// ended it.
func Nest(ctx context.Context) (code int, err error) {
	cmd := NestedCommand(os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return attendAgain(ctx, cmd)
}

// NestedCommand is this program with arguments, as [Nest] starts it.
func NestedCommand(args ...string) *exec.Cmd {
	cmd := again(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP, UidMappings: sameIDs(user.CurrentProcessUIDMap()), GidMappings: sameIDs(user.CurrentProcessGIDMap()),
		GidMappingsEnableSetgroups: true,
	}
	return cmd
}

// Settle makes a process that [Nest] started ready to make containers: their
// cgroups are below the one that it is in.
func Settle() error {
	if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mounting cgroup version 2: %w", err)
	}
	return nil
}

// Join is Nest in the namespaces of the container's supervisor, or of its first
// process where that is gone.
func (c *Container) Join(ctx context.Context) (code int, err error) {
	var l live
	_ = readJSON(c.path("live.json"), &l) // without it there is no such process
	for _, pid := range []int{l.Supervisor, c.Status().PID} {
		if pid == 0 {
			continue
		}
		var ns []*os.File
		for _, kind := range []string{"user", "mnt"} {
			f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
			if err != nil {
				break
			}
			defer f.Close()
			ns = append(ns, f)
		}
		if len(ns) == 2 {
			cmd := again(os.Args[1:]...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
			cmd.ExtraFiles, cmd.Env = ns, append(cmd.Env, "_BLACKSTART_JOIN=2") // see join_linux.go
			return attendAgain(ctx, cmd)
		}
	}
	return 0, fmt.Errorf("%w: %s", ErrNotRunning, c.name)
}

func again(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), nestedEnv+"=1")
	return cmd
}

// attendAgain passes signals on to the program until it ends.
func attendAgain(ctx context.Context, cmd *exec.Cmd) (int, error) {
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("%w: %w", errNested, err)
	}
	// A terminal's own signals reach the program without our help.
	own := []unix.Signal{}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		own = []unix.Signal{unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH}
	}
	stop := forward(context.WithoutCancel(ctx), func(s unix.Signal) {
		if !slices.Contains(own, s) {
			_ = cmd.Process.Signal(s)
		}
	}, nil)
	defer stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// sameIDs maps every id that this process knows to itself (user_namespaces(7)).
func sameIDs(known []user.IDMap, err error) []syscall.SysProcIDMap {
	if err != nil {
		return []syscall.SysProcIDMap{{Size: 1}}
	}
	var all []syscall.SysProcIDMap
	for _, m := range known {
		all = append(all, syscall.SysProcIDMap{ContainerID: int(m.ID), HostID: int(m.ID), Size: int(m.Count)})
	}
	return all
}
