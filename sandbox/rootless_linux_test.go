package sandbox

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestRootless runs the tests of the vacuum as a user without any privilege.
func TestRootless(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("the tests run as root")
	}
	dir, err := os.MkdirTemp("/var/lib", "blackstart-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, 65533, 65533); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run", "^Test(ExitStatus|DarkModes|HostIsNotReached|InsideTalks|Rules|RecordedVacuum|Vsock|Odd.*|RootIs.*|RootOf.*|Binds.*|Confined|Streams|Terminal|Spawn.*|Up.*|Many.*|Killed.*|Limits)$")
	cmd.Env = append(os.Environ(), "BLACKSTART_TEST_DIR="+dir, "TMPDIR="+dir, "HOME="+dir)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}
