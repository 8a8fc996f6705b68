package sandbox

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// namespaces are what the first process is started in. Root gets a user
// namespace as well, where every id means the same as outside: what the kernel
// keeps from other namespaces' root (modules, devices, release agents, file
// handles) is then out of reach.
func namespaces() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Setsid:     true,
	}
	if os.Geteuid() == 0 {
		a.UidMappings, a.GidMappings = sameIDs(user.CurrentProcessUIDMap()), sameIDs(user.CurrentProcessGIDMap())
		a.GidMappingsEnableSetgroups = true
	} else {
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
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

// userNamespaceHint names the setting that keeps this user from having
// namespaces, with a separator before it, or is empty.
func userNamespaceHint() string {
	for _, s := range []struct {
		file, bad string
		forRoot   bool
	}{
		{"user/max_user_namespaces", "0", true},
		{"user/max_net_namespaces", "0", true},
		{"kernel/unprivileged_userns_clone", "0", false},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", false},
	} {
		b, err := os.ReadFile("/proc/sys/" + s.file)
		if err == nil && strings.TrimSpace(string(b)) == s.bad && (s.forRoot || os.Geteuid() != 0) {
			return fmt.Sprintf(" (sysctl %s is %s: run as root, or change it)", strings.ReplaceAll(s.file, "/", "."), s.bad)
		}
	}
	return ""
}
