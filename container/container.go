// Package container holds one container's life: create, start, watch, enter,
// stop and remove it, on libcontainer and without any daemon.
//
// A container is described by a [Spec], which is what the flags of `run`, a
// salvaged recovery spec and a kit's service say in the same words. A [Host]
// names the two directories in which containers are kept:
//
//	STATE/NAME/state.json     libcontainer's state, which any runc reads: runc --root STATE list
//	STATE/NAME/config.json    the OCI runtime configuration, where runc exec looks for it
//	DATA/containers/NAME/
//	    record.json           what was asked for and how far it got; written before the host is changed
//	    lock                  flock(2)ed by the process in charge: the creator, then the supervisor
//	    rootfs upper work     the overlay mount and its writable layer
//	    log                   the container's stdout and stderr, appended to by the container itself
//	    exit.json             how it ended; health.json: what the last health check saw
//	DATA/tombstones/          one file for each container that was handed over
//	STATE-writable/NAME/      upper and work where DATA lies on an overlay itself, as on rescue media
//
// STATE is gone after a reboot; DATA is not. A record whose lock is free and
// whose start never finished is a leftover: [Host.Sweep] undoes it and says so.
//
// Root that may not mount, as in a vacuum, makes containers in a user namespace:
// see [Nest].
package container

import (
	"errors"
	"path/filepath"
	"strings"
)

var (
	// ErrNotFound is returned for a name that no container here has.
	ErrNotFound = errors.New("no such container")
	// ErrExists is returned where the name is taken.
	ErrExists = errors.New("name is already used")
	// ErrRunning is returned by what needs a container that is not running.
	ErrRunning = errors.New("container is running")
	// ErrNotRunning is returned by what needs a running container.
	ErrNotRunning = errors.New("container is not running")
	// ErrBadSpec is returned for a specification that cannot become a container.
	ErrBadSpec = errors.New("bad container specification")
	// ErrDegraded is returned in strict mode where a wanted feature is missing.
	ErrDegraded = errors.New("this host cannot give all that was asked for")
	// ErrPrivilege is returned where the caller may not make containers.
	ErrPrivilege = errors.New("not enough privilege")
	// ErrReadOnly is returned where a state or data directory cannot be written.
	ErrReadOnly = errors.New("directory cannot be written")
)

// Where containers are kept unless told otherwise.
const (
	DefaultState = "/run/blackstart"
	DefaultData  = "/var/lib/blackstart"
)

// Host is the place where containers are kept. Both are absolute directories.
type Host struct {
	State string
	Data  string
}

// ValidName says whether name can name a container: what libcontainer takes,
// [A-Za-z0-9][A-Za-z0-9_.+-]*, kept short enough for a cgroup and a file name.
func ValidName(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("_.+-", r)) {
			return false
		}
	}
	return name != "" && len(name) <= 100
}

func (h Host) dir(name string) string { return filepath.Join(h.Data, "containers", name) }

// CgroupPath is the container's cgroup below every hierarchy's root. It is
// always absolute: a relative one would land under the operator's own session.
// No directory is shared with other containers: one that comes and goes with them would
// go while another start needs it.
func CgroupPath(name string) string { return "/blackstart_" + name }

// supervisorCgroup is beside the container's, so that a session manager which
// kills the operator's session does not take the supervisor with it. The "@"
// keeps it apart from every container name.
func supervisorCgroup(name string) string { return CgroupPath(name) + "@supervisor" }
