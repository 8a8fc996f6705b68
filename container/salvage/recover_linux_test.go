package salvage

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// checkRunsAgain starts a container from what was salvaged, with a stock runtime:
// the recovered spec on an overlay of the dead snapshots.
func checkRunsAgain(t *testing.T, d *containerdDaemon) {
	ctx := context.Background()
	store, err := openContainerd(d.root)
	if err != nil {
		t.Fatal(err)
	}
	host := &Host{Stores: []Store{store}}
	_, c, err := host.Lookup(ctx, d.prefix()+"plain")
	if err != nil {
		t.Fatal(err)
	}
	orig, err := store.Spec(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	rootfs, err := store.Rootfs(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	spec, _ := Recover(orig, RewriteOptions{Cgroup: "/blackstart_again", Resolve: ResolveIn("/")})
	bundle := t.TempDir()
	for _, dir := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(bundle, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	lower := append(slices.Clone(rootfs.Layers), rootfs.Upper)
	slices.Reverse(lower) // overlayfs wants the highest first
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + bundle + "/upper,workdir=" + bundle + "/work"
	if err := syscall.Mount("overlay", bundle+"/root", "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(bundle+"/root", 0); err != nil {
			t.Error(err)
		}
	})
	spec.Root = &specs.Root{Path: "root"}
	spec.Process.Args = []string{"/bin/busybox", "sh", "-c", "/bin/busybox cat /etc/base /etc/app /etc/written; echo $COLOUR; /bin/busybox hostname"}
	spec.Hostname = "again"
	spec.Linux.CgroupsPath = "/" + d.prefix() + "again"
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("runc", "--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, d.prefix()+"again").CombinedOutput()
	if want := "base\napp\nwritten\nblue\nagain\n"; err != nil || string(out) != want {
		t.Errorf("the recovered container says %q, %v; want %q", out, err, want)
	}
}
