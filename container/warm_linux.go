package container

import (
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
)

// Warm tells the kernel that a process will soon change its cgroup. With cgroup
// v1 the first change after a while waits some 8 ms for every processor to have
// taken note (RCU, under cgroup_threadgroup_rwsem); that wait can begin while the
// rest is prepared. Writing what is already so changes nothing. With v2 alone a
// process is born in its cgroup (clone3, CLONE_INTO_CGROUP). wait returns when it
// is over.
func Warm() (wait func()) {
	if cgroups.IsCgroup2UnifiedMode() {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
		if err == nil {
			_ = os.WriteFile(filepath.Join("/sys/fs/cgroup/pids", own["pids"], "cgroup.procs"), []byte("0"), 0)
		}
	}()
	return func() { <-done }
}
