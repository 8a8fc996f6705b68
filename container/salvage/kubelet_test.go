package salvage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// etcdPod has what kubeadm writes for etcd, and more.
const etcdPod = `apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://192.0.2.1:2379
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --name=$(NODE)-$(MISSING)-$$(NODE)
    - --data-dir=/var/lib/etcd
    image: registry.k8s.io/etcd:3.5.12-0
    name: etcd
    env:
    - {name: HOST, value: node1}
    - {name: NODE, value: $(HOST).example}
    - name: POD
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
    - name: IP
      valueFrom: {fieldRef: {fieldPath: status.hostIP}}
    resources:
      requests: {cpu: 100m, memory: 100Mi}
      limits: {cpu: "1.5", memory: 512Mi}
    securityContext:
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
    volumeMounts:
    - {mountPath: /var/lib/etcd, name: etcd-data}
    - {mountPath: /etc/pki, name: certs, readOnly: true, subPath: ../../etcd}
    - {mountPath: /scratch, name: scratch}
    - {mountPath: /settings, name: settings}
  - name: sidecar
    image: sidecar
    args: [serve]
    securityContext: {privileged: true, runAsUser: 0}
  hostNetwork: true
  initContainers:
  - {name: prepare, image: busybox}
  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, seccompProfile: {type: RuntimeDefault}}
  volumes:
  - hostPath: {path: /etc/kubernetes/pki, type: DirectoryOrCreate}
    name: certs
  - hostPath: {path: /var/lib/etcd}
    name: etcd-data
  - {name: scratch, emptyDir: {sizeLimit: 1Gi}}
  - {name: settings, configMap: {name: settings}}
status: {}
`

func manifests(t *testing.T, files map[string]string) Store {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	store, err := openKubelet(dir, ".")
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestKubeletSpec(t *testing.T) {
	ctx := context.Background()
	store := manifests(t, map[string]string{"etcd.yaml": etcdPod})
	listing, err := store.List(ctx)
	if err != nil || len(listing.Containers) != 2 {
		t.Fatalf("List() = %+v, %v; want 2 containers", listing, err)
	}
	problems := make([]string, len(listing.Problems))
	for i, p := range listing.Problems {
		problems[i] = p.String()
	}
	all := strings.Join(problems, "\n")
	for _, want := range []string{"variable IP", `volume "settings"`, "etcd/prepare: an init container"} {
		if !strings.Contains(all, want) {
			t.Errorf("problems %s; want one about %s", all, want)
		}
	}
	if len(problems) != 3 {
		t.Errorf("%d problems:\n%s\nwant 3", len(problems), all)
	}
	etcd, sidecar := listing.Containers[0], listing.Containers[1]
	if etcd.Name != "etcd/etcd" || etcd.PodNamespace != "kube-system" || etcd.Image != "registry.k8s.io/etcd:3.5.12-0" || etcd.Created.IsZero() {
		t.Errorf("container = %+v", etcd)
	}
	got, err := store.Spec(ctx, etcd)
	if err != nil {
		t.Fatal(err)
	}
	memory, quota, period, shares := int64(512<<20), int64(150_000), uint64(100_000), uint64(102)
	caps := []string{"CAP_NET_BIND_SERVICE"}
	want := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Args:         []string{"etcd", "--name=node1.example-$(MISSING)-$(NODE)", "--data-dir=/var/lib/etcd"},
			Env:          []string{"HOST=node1", "NODE=node1.example", "POD=etcd"},
			User:         specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{3000}},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Root: &specs.Root{Readonly: true},
		Mounts: append(standardMounts(nil, false, false), []specs.Mount{
			{Destination: "/var/lib/etcd", Type: "bind", Source: "/var/lib/etcd", Options: []string{"rbind", "rprivate", "rw"}},
			{Destination: "/etc/pki", Type: "bind", Source: "/etc/kubernetes/pki/etcd", Options: []string{"rbind", "rprivate", "ro"}},
			{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=0777", "size=1073741824"}},
		}...),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}},
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Quota: &quota, Period: &period, Shares: &shares},
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
			MaskedPaths: got.Linux.MaskedPaths, ReadonlyPaths: got.Linux.ReadonlyPaths,
		},
		Annotations: map[string]string{FromImage: "env,cwd", AnnotationRestart: "always", AnnotationSeccomp: "default"},
	}
	if !slices.Contains(want.Linux.MaskedPaths, "/proc/kcore") || !slices.Contains(want.Linux.ReadonlyPaths, "/proc/sys") {
		t.Errorf("masked %q, read-only %q; want /proc/kcore and /proc/sys in them", want.Linux.MaskedPaths, want.Linux.ReadonlyPaths)
	}
	if !reflect.DeepEqual(got, want) {
		diff, _ := Diff(want, got)
		t.Errorf("Spec(etcd) differs from what the pod says:\n%s", diff)
	}
	got, err = store.Spec(ctx, sidecar)
	if err != nil {
		t.Fatal(err)
	}
	if got.Annotations[FromImage] != "env,entrypoint,cwd" || !slices.Equal(got.Process.Args, []string{"serve"}) || got.Process.User.UID != 0 {
		t.Errorf("sidecar: %s = %q, args %q, uid %d; want the image's entrypoint before serve, as uid 0",
			FromImage, got.Annotations[FromImage], got.Process.Args, got.Process.User.UID)
	}
	if !slices.Contains(got.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") || len(got.Linux.Resources.Devices) != 1 {
		t.Errorf("sidecar: capabilities %v, devices %v; want all", got.Process.Capabilities.Bounding, got.Linux.Resources.Devices)
	}
	if len(got.Linux.MaskedPaths) != 0 || len(got.Linux.Devices) == 0 || got.Annotations[AnnotationSeccomp] != "" {
		t.Errorf("sidecar: hides %q, %d devices, filter %q; want nothing hidden, this host's devices, no filter",
			got.Linux.MaskedPaths, len(got.Linux.Devices), got.Annotations[AnnotationSeccomp])
	}
	if _, err := store.Rootfs(ctx, etcd); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Rootfs() = %v; want ErrIncomplete", err)
	}
}

func TestKubeletStandard(t *testing.T) {
	ctx := context.Background()
	store := manifests(t, map[string]string{"a.yaml": `kind: Pod
metadata: {name: a}
spec:
  hostIPC: true
  containers:
  - name: b
    image: i
    securityContext: {seccompProfile: {type: Localhost, localhostProfile: profiles/audit.json}}
    volumeMounts: [{mountPath: /dev/, name: dev}]
  volumes: [{name: dev, hostPath: {path: /dev}}]
`})
	listing, err := store.List(ctx)
	if err != nil || len(listing.Containers) != 1 || len(listing.Problems) != 1 {
		t.Fatalf("List() = %+v, %v; want one container and one problem", listing, err)
	}
	if got := listing.Problems[0].String(); !strings.Contains(got, "profiles/audit.json is not read") {
		t.Errorf("problem %q; want one about the profile", got)
	}
	spec, err := store.Spec(ctx, listing.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	at := make([]string, len(spec.Mounts))
	for i, m := range spec.Mounts {
		at[i] = m.Destination
	}
	if want := []string{"/proc", "/sys", "/sys/fs/cgroup", "/dev/"}; !slices.Equal(at, want) {
		t.Errorf("mounts at %q; want %q: nothing over the pod's own /dev", at, want)
	}
	if !reflect.DeepEqual(spec.Process.Capabilities.Bounding, defaultCapabilities()) || spec.Annotations[AnnotationSeccomp] != "default" {
		t.Errorf("capabilities %v, filter %q; want the default ones", spec.Process.Capabilities, spec.Annotations[AnnotationSeccomp])
	}
	if m := standardMounts(nil, false, true); m[len(m)-1].Source != "/dev/shm" {
		t.Errorf("hostIPC: %+v; want the host's /dev/shm", m[len(m)-1])
	}
}

func TestKubeletHostileManifests(t *testing.T) {
	files := map[string]string{
		"good.json":   `{"kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"b","image":"i"}]}}`,
		".hidden":     etcdPod,
		"readme.txt":  "no manifest",
		"alias.yaml":  "kind: Pod\nmetadata: {name: x, labels: &a {b: c}}\nspec: {containers: [{name: y}], x: *a}\n",
		"flow.yaml":   "kind: " + strings.Repeat("[", 100_000),
		"dashes.yaml": "kind:\n" + strings.Repeat("- ", 100_000) + "x\n",
		"keys.yaml":   strings.Repeat("? ", 100_000) + "x\n",
		"tags.yaml":   "kind: " + strings.Repeat("!a ", 50_000) + "x\n",
		"large.yaml":  "kind: Pod\n" + strings.Repeat("#", maxPodManifest),
		"other.yaml":  "kind: Deployment\nmetadata: {name: x}\n",
		"empty.yaml":  "",
		"binary.yaml": "\x00\xff\xfe",
		"noname.yaml": "kind: Pod\nmetadata: {name: x}\nspec: {containers: [{image: i}]}\n",
	}
	store := manifests(t, files)
	if err := os.Symlink("/etc/passwd", filepath.Join(store.Path(), "link.yaml")); err != nil {
		t.Fatal(err)
	}
	listing, err := store.List(context.Background())
	if err != nil || len(listing.Containers) != 1 || listing.Containers[0].ID != "default/a/b" {
		t.Fatalf("List() = %+v, %v; want the one good container", listing.Containers, err)
	}
	var bad []string
	for _, p := range listing.Problems {
		bad = append(bad, p.What)
	}
	want := "alias.yaml binary.yaml dashes.yaml empty.yaml flow.yaml keys.yaml large.yaml link.yaml noname.yaml other.yaml tags.yaml"
	if got := strings.Join(bad, " "); got != want {
		t.Errorf("problems with %s; want %s", got, want)
	}
}

func TestParseQuantity(t *testing.T) {
	for raw, want := range map[any]float64{"512Mi": 512 << 20, "100m": 0.1, "1e3": 1000, "2": 2, 2: 2, 0.5: 0.5, "1k": 1000, "1G": 1e9, "1E": 1e18} {
		if got, err := parseQuantity(raw); err != nil || got != want {
			t.Errorf("parseQuantity(%v) = %v, %v; want %v", raw, got, err, want)
		}
	}
	for _, raw := range []any{"", "Mi", "-1", "NaN", "Inf", "1e400", "16E", "1x", nil, []string{"1"}} {
		if got, err := parseQuantity(raw); err == nil {
			t.Errorf("parseQuantity(%v) = %v; want an error", raw, got)
		}
	}
}

func FuzzPodManifest(f *testing.F) {
	f.Add([]byte(etcdPod))
	f.Add([]byte(`{"kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"b","args":["$(A"]}]}}`))
	f.Add([]byte("kind: Pod\na: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pod, err := parsePod(data)
		if err != nil {
			return
		}
		for i := range pod.Spec.Containers {
			spec, _ := pod.spec(&pod.Spec.Containers[i])
			for _, m := range spec.Mounts {
				if m.Type == "bind" && !filepath.IsAbs(m.Source) {
					t.Errorf("bind source %q is not absolute", m.Source)
				}
			}
		}
	})
}
