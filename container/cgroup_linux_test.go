package container

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A container that goes takes the directory that holds all containers' cgroups with
// it, unless another one is in there.
func TestLeavesNoCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("cgroups need root")
	}
	c := &Container{host: Host{State: t.TempDir(), Data: t.TempDir()}, name: "leaves-no-cgroup"}
	m, err := c.cgroups()
	if err != nil {
		t.Fatal(err)
	}
	holdCgroups(m)
	for _, dir := range m.GetPaths() {
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.destroy(); err != nil {
		t.Fatal(err)
	}
	if err := c.leaveCgroups(); err != nil {
		t.Fatal(err)
	}
	if len(c.above) == 0 {
		t.Fatal("no hierarchy; want one")
	}
	for _, dir := range c.above {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // another test's container may be about to go
			others, err := filepath.Glob(dir + "/*/cgroup.procs")
			if _, gone := os.Stat(dir); os.IsNotExist(gone) || err != nil || len(others) > 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s is there, and empty; want it gone", dir)
				break
			}
		}
	}
}
