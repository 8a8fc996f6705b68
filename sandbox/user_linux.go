package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"

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
		a.UidMappings, a.GidMappings = sameIDs("/proc/self/uid_map"), sameIDs("/proc/self/gid_map")
		a.GidMappingsEnableSetgroups = true
	} else {
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// sameIDs maps every id that this process knows to itself (user_namespaces(7)).
func sameIDs(file string) []syscall.SysProcIDMap {
	f, err := os.Open(file)
	if err != nil {
		return []syscall.SysProcIDMap{{Size: 1}}
	}
	defer f.Close()
	var all []syscall.SysProcIDMap
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var id, parent, size int
		if _, err := fmt.Sscan(lines.Text(), &id, &parent, &size); err == nil {
			all = append(all, syscall.SysProcIDMap{ContainerID: id, HostID: id, Size: size})
		}
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
