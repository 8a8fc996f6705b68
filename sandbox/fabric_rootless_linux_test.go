package sandbox

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestRootlessFabric runs the tests of the fabric, and what a guard says, as a
// user without any privilege.
func TestRootlessFabric(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/var/lib", "blackstart-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, 65533, 65533); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^Test(Fabric.*|Partition.*|Refused.*|GuardNeedsRoot)$")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}
