package salvage

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const podDir = "/var/lib/kubelet/pods/6bd1-42"

// podSpec is what containerd's CRI plugin writes for a container of a pod.
func podSpec() *specs.Spec {
	sandbox := "/var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/abc/"
	bind := func(destination, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
	}
	adjust, limit := -997, int64(1<<28)
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Terminal: true, ConsoleSize: &specs.Box{Height: 1, Width: 1},
			Args: []string{"zkServer"}, Cwd: "/",
			Env:             []string{"PATH=/bin", "HOSTNAME=zk-0", "NOTIFY_SOCKET=/run/notify", "LISTEN_FDS=1", "KUBERNETES_SERVICE_HOST=10.96.0.1"},
			ApparmorProfile: "cri-containerd.apparmor.d", SelinuxLabel: "system_u:system_r:container_t:s0",
			OOMScoreAdj: &adjust, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 20, Soft: 1 << 20}},
		},
		Root: &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			bind("/etc/hosts", podDir+"/etc-hosts", "rw"),
			bind("/dev/termination-log", podDir+"/containers/zk/0a1b2c3d", "rw"),
			bind("/etc/hostname", sandbox+"hostname", "rw"),
			bind("/etc/resolv.conf", sandbox+"resolv.conf", "rw"),
			bind("/dev/shm", "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/abc/shm", "rw"),
			bind("/data", "/srv/zk", "rw"),
			bind("/lost", "/srv/lost", "rw"),
			bind("/zoneinfo", "/usr/share/zoneinfo", "ro"),
			bind("/cache", podDir+"/volumes/kubernetes.io~empty-dir/cache", "rw"),
			bind("/block", podDir+"/volumes/kubernetes.io~csi/pvc-1/mount", "rw"),
			bind("/settings", podDir+"/volumes/kubernetes.io~configmap/settings", "ro"),
			bind("/var/run/secrets/kubernetes.io/serviceaccount", podDir+"/volumes/kubernetes.io~projected/kube-api-access", "ro"),
		},
		Hooks: &specs.Hooks{
			CreateRuntime: []specs.Hook{{Path: "/usr/bin/nvidia-container-runtime-hook"}},
			Poststop:      []specs.Hook{{Path: "/opt/cni/hook"}},
		},
		Annotations: map[string]string{"io.kubernetes.cri.sandbox-name": "zk-0"},
		Linux: &specs.Linux{
			CgroupsPath: "kubepods-burstable-pod6bd1.slice:cri-containerd:abc",
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace, Path: "/proc/77/ns/ipc"},
				{Type: specs.UTSNamespace, Path: "/proc/77/ns/uts"},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/var/run/netns/cni-1"},
				{Type: specs.UserNamespace},
			},
			Sysctl:     map[string]string{"net.core.somaxconn": "1024", "kernel.shmmax": "1"},
			Resources:  &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}, Unified: map[string]string{"memory.high": "1"}},
			IntelRdt:   &specs.LinuxIntelRdt{ClosID: "x"},
			MountLabel: "system_u:object_r:container_file_t:s0",
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, ListenerPath: "/run/agent.sock",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}, {Names: []string{"read"}, Action: specs.ActAllow}},
			},
		},
	}
}

// deadHost says that these paths exist, and nothing is mounted.
func deadHost(paths ...string) RewriteOptions {
	exists := func(path string) bool { return slices.Contains(paths, path) }
	return RewriteOptions{
		Cgroup: "/blackstart_zk", Exists: exists, Mounted: func(string) bool { return false },
		Resolve: func(path string) (string, bool) { return path, exists(path) },
	}
}

func TestRecoverPod(t *testing.T) {
	orig := podSpec()
	opts := deadHost("/etc/hosts", "/srv/zk", "/usr/share/zoneinfo", podDir+"/volumes/kubernetes.io~empty-dir/cache",
		podDir+"/volumes/kubernetes.io~csi/pvc-1/mount", podDir+"/etc-hosts")
	got, changes := Recover(orig, opts)
	if !reflect.DeepEqual(orig, podSpec()) {
		t.Error("Recover changed the original")
	}
	var list strings.Builder
	for _, c := range changes {
		if c.Why == "" {
			t.Errorf("%s has no reason", c)
		}
		if c.Loud {
			list.WriteString("! ")
		}
		list.WriteString(c.Path + ": " + c.Was + " -> " + c.Now + "\n")
	}
	checkGolden(t, "testdata/recover_pod.changes", list.String())
	data, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, "testdata/recover_pod.json", string(data)+"\n")
	if again, more := Recover(got, opts); len(more) != 0 || !reflect.DeepEqual(again, got) {
		t.Errorf("Recover of a recovered spec changes %v; want nothing", more)
	}
}

// checkGolden compares with a file, which UPDATE_GOLDEN=1 writes.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func namespaceList(spec *specs.Spec) string {
	var list []string
	for _, ns := range spec.Linux.Namespaces {
		list = append(list, string(ns.Type)+"="+ns.Path)
	}
	return strings.Join(list, " ")
}

func TestRecoverNetwork(t *testing.T) {
	for _, c := range []struct {
		network  Network
		exists   string
		want     string
		hostname string
	}{
		{"", "", "pid= ipc= uts= mount=", "zk-0"},
		{NetworkHost, "/var/run/netns/cni-1", "pid= ipc= uts= mount=", "zk-0"},
		{NetworkNone, "", "pid= ipc= uts= mount= network=", "zk-0"},
		{NetworkKeep, "/var/run/netns/cni-1", "pid= ipc= uts= mount= network=/var/run/netns/cni-1", "zk-0"},
		{NetworkKeep, "", "pid= ipc= uts= mount=", "zk-0"},
	} {
		opts := deadHost(c.exists)
		opts.Network = c.network
		got, _ := Recover(podSpec(), opts)
		if list := namespaceList(got); list != c.want || got.Hostname != c.hostname {
			t.Errorf("network %q: namespaces %q, hostname %q; want %q, %q", c.network, list, got.Hostname, c.want, c.hostname)
		}
		if _, kept := got.Linux.Sysctl["net.core.somaxconn"]; kept != strings.Contains(c.want, "network") {
			t.Errorf("network %q: net sysctl kept: %v", c.network, kept)
		}
	}
	onHost := &specs.Spec{Hostname: "pod", Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}}}}
	opts := deadHost()
	opts.Network = NetworkNone
	if got, _ := Recover(onHost, opts); namespaceList(got) != "mount= network=" || got.Hostname != "" {
		t.Errorf("no network for a container of the host's: %q, hostname %q", namespaceList(got), got.Hostname)
	}
}

func TestRecoverUserNamespace(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec := &specs.Spec{Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/proc/9/ns/user"}}, UIDMappings: ids, GIDMappings: ids,
	}}
	got, _ := Recover(spec, deadHost())
	if namespaceList(got) != "user=" || !reflect.DeepEqual(got.Linux.UIDMappings, ids) {
		t.Errorf("user namespace with mappings: %q, %v; want a fresh one with the same", namespaceList(got), got.Linux.UIDMappings)
	}
}

func TestRecoverDeadDisk(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"disk2/zk", "srv", "dev"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/disk2/zk", filepath.Join(root, "srv/zk")); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/data", Type: "bind", Source: "/srv/zk"},
		{Destination: "/dev/null2", Source: "/dev/null", Options: []string{"bind"}},
		{Destination: "/out", Type: "bind", Source: "/../../etc/passwd"},
	}}
	got, changes := Recover(spec, RewriteOptions{Cgroup: "/blackstart_zk", Resolve: ResolveIn(root)})
	want := []specs.Mount{
		{Destination: "/data", Type: "bind", Source: filepath.Join(root, "disk2/zk")},
		{Destination: "/dev/null2", Source: "/dev/null", Options: []string{"bind"}},
	}
	if !reflect.DeepEqual(got.Mounts, want) {
		t.Errorf("mounts = %+v; want %+v", got.Mounts, want)
	}
	if last := changes[len(changes)-1]; !last.Loud || last.Path != "mounts[/out]" || last.Now != "" {
		t.Errorf("last change = %+v; want a loud one about /out", last)
	}
}

func TestDiff(t *testing.T) {
	if diff, err := Diff(podSpec(), podSpec()); err != nil || diff != "" {
		t.Errorf("Diff of equals = %q, %v; want none", diff, err)
	}
	other := podSpec()
	other.Linux.CgroupsPath = "/blackstart_<zk>"
	diff, err := Diff(podSpec(), other)
	if err != nil || !strings.Contains(diff, "--- recorded\n+++ recovery\n@@ ") ||
		!strings.Contains(diff, "\n-    \"cgroupsPath\": \"kubepods-burstable") || !strings.Contains(diff, "\n+    \"cgroupsPath\": \"/blackstart_<zk>\"") ||
		strings.Count(diff, "\n") != 12 {
		t.Errorf("Diff = %v:\n%s", err, diff)
	}
}

func FuzzRecover(f *testing.F) {
	seed, err := json.Marshal(podSpec())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"network"}],"netDevices":{"eth0":{}}},"process":{"env":["="]},"hooks":{}}`))
	f.Add([]byte(`{"mounts":[{"options":["bind"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var spec specs.Spec
		if json.Unmarshal(data, &spec) != nil {
			return
		}
		before, err := json.Marshal(spec)
		if err != nil {
			return
		}
		got, _ := Recover(&spec, deadHost("/etc/hosts"))
		if after, err := json.Marshal(spec); err != nil || !bytes.Equal(before, after) {
			t.Errorf("Recover changed its input: %s -> %s (%v)", before, after, err)
		}
		if _, again := Recover(got, deadHost("/etc/hosts")); len(again) != 0 {
			t.Errorf("Recover is not settled: %v", again)
		}
		if got.Hooks != nil || got.Linux.CgroupsPath != "/blackstart_zk" {
			t.Errorf("hooks %v, cgroup %q", got.Hooks, got.Linux.CgroupsPath)
		}
	})
}
