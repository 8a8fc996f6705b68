package salvage

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// disk lays out files and links ("-> TARGET") below a directory.
func disk(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, link := strings.CutPrefix(data, "-> "); link {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFindOnADeadDisk(t *testing.T) {
	root := disk(t, map[string]string{
		"data/containerd/" + containerdMetadata:                            "x",
		"var/lib/containerd":                                               "-> /data/containerd",
		"etc/containerd/config.toml":                                       "version = 2\n# root = \"/no\"\nroot = \"/srv/containerd\" # here\n[grpc]\n  root = \"/other\"\n",
		"srv/containerd/" + containerdMetadata:                             "x",
		"var/lib/rancher/k3s/agent/containerd/" + containerdMetadata:       "x",
		"var/lib/rancher/rke2/agent/containerd/" + containerdMetadata:      "-> /etc/shadow",
		"docker/containerd/daemon/" + containerdMetadata:                   "x",
		"etc/docker/daemon.json":                                           `{"data-root": "/docker"}`,
		"var/lib/kubelet/config.yaml":                                      "kind: KubeletConfiguration\nstaticPodPath: /etc/static\n",
		"etc/static/pod.yaml":                                              "-> /srv/pod.yaml",
		"srv/pod.yaml":                                                     etcdPod,
		"var/lib/rancher/rke2/agent/pod-manifests/kube-apiserver.yaml":     etcdPod,
		"var/snap/microk8s/common/var/lib/containerd/io.containerd.x/file": "x",
	})
	stores, problems := Find(root)
	var got []string
	for _, store := range stores {
		got = append(got, string(store.Kind())+":"+strings.TrimPrefix(store.Path(), root))
	}
	want := "containerd:/data/containerd containerd:/var/lib/rancher/k3s/agent/containerd kubelet:/var/lib/rancher/rke2/agent/pod-manifests " +
		"containerd:/srv/containerd kubelet:/etc/static containerd:/docker/containerd/daemon"
	if strings.Join(got, " ") != want || len(problems) != 0 {
		t.Fatalf("Find = %s, %v;\nwant   %s", strings.Join(got, " "), problems, want)
	}
	listing, err := stores[4].List(context.Background())
	if err != nil || len(listing.Containers) != 2 {
		t.Errorf("static pods behind a link of the dead disk: %+v, %v; want 2 containers", listing, err)
	}
	for _, store := range stores {
		if store.Kind() != Containerd {
			continue
		}
		if _, err := store.List(context.Background()); err == nil {
			t.Errorf("List of a database of one byte in %s succeeds", store.Path())
		}
	}
}

func TestFindNothing(t *testing.T) {
	root := t.TempDir()
	if stores, problems := OpenPath(root); len(stores)+len(problems) != 0 {
		t.Errorf("OpenPath of an empty directory = %v, %v; want nothing", stores, problems)
	}
	if _, err := Open("rkt", root); err == nil {
		t.Error("Open of an unknown kind succeeds")
	}
	if _, err := Open(Containerd, root); err == nil {
		t.Error("Open(containerd) of an empty directory succeeds")
	}
	dir := disk(t, map[string]string{"etcd.yaml": etcdPod})
	if stores, _ := OpenPath(dir); len(stores) != 1 || stores[0].Kind() != Kubelet {
		t.Errorf("OpenPath of a directory of manifests = %v; want a kubelet store", stores)
	}
}

// listed is a store of records alone: which one a name stands for is a matter
// of the records.
type listed struct {
	kind       Kind
	containers []Container
	err        error
}

func (s listed) Kind() Kind   { return s.kind }
func (s listed) Path() string { return "/" + string(s.kind) }
func (s listed) Close() error { return nil }
func (s listed) List(context.Context) (Listing, error) {
	return Listing{Containers: s.containers}, s.err
}

func (s listed) Image(context.Context, string, string) (Image, error) { return Image{}, ErrNotFound }

func (s listed) Rootfs(context.Context, Container) (Rootfs, error) { return Rootfs{}, ErrNotFound }

func (s listed) Spec(context.Context, Container) (*specs.Spec, error) {
	return nil, ErrNotFound
}

func TestLookup(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2024, 1, 1, hour, 0, 0, 0, time.UTC) }
	host := &Host{Stores: []Store{
		listed{kind: Kubelet, containers: []Container{
			{Store: Kubelet, ID: "kube-system/etcd/etcd", Name: "etcd/etcd", Pod: "etcd", PodNamespace: "kube-system"},
			{Store: Kubelet, ID: "kube-system/vip/vip", Name: "vip/vip", Pod: "vip", PodNamespace: "kube-system"},
		}},
		listed{kind: Containerd, containers: []Container{
			{Store: Containerd, Namespace: "k8s.io", ID: "aaaa1111", Name: "etcd-node1/etcd", Pod: "etcd-node1", PodNamespace: "kube-system", Created: at(1)},
			{Store: Containerd, Namespace: "k8s.io", ID: "aaaa2222", Name: "etcd-node1/etcd", Pod: "etcd-node1", PodNamespace: "kube-system", Created: at(2)},
			{Store: Containerd, Namespace: "k8s.io", ID: "bbbb1111", Name: "etcd-node1", Pod: "etcd-node1", PodNamespace: "kube-system", Sandbox: true},
			{Store: Containerd, Namespace: "k8s.io", ID: "cccc1111", Name: "web-0/app", Pod: "web-0", PodNamespace: "red"},
			{Store: Containerd, Namespace: "k8s.io", ID: "cccc2222", Name: "web-0/app", Pod: "web-0", PodNamespace: "blue"},
			{Store: Containerd, Namespace: "k8s.io", ID: "cccc3333", Name: "web-0/log", Pod: "web-0", PodNamespace: "blue"},
			{Store: Containerd, Namespace: "moby", ID: "dddd1111", Name: "dddd1111"},
		}},
		listed{kind: Docker, containers: []Container{
			{Store: Docker, ID: "dddd1111", Name: "db"},
			{Store: Docker, ID: "eeee1111", Name: "dddd"},
		}},
		listed{kind: Podman, err: io.ErrUnexpectedEOF},
	}}
	for name, want := range map[string]string{
		"etcd":                   "aaaa2222", // the latest attempt, and not the manifest
		"etcd-node1/etcd":        "aaaa2222",
		"aaaa1111":               "aaaa1111",
		"kubelet:etcd":           "kube-system/etcd/etcd",
		"vip":                    "kube-system/vip/vip",
		"etcd-node1":             "aaaa2222", // a sandbox is nothing to recover
		"bbbb1":                  "bbbb1111",
		"red/web-0/app":          "cccc1111",
		"blue/app":               "cccc2222",
		"containerd:blue/log":    "cccc3333",
		"k8s.io/blue/app":        "ambiguous or nothing",
		"web-0/app":              "ambiguous",
		"app":                    "ambiguous",
		"web-0":                  "ambiguous",
		"cccc":                   "ambiguous",
		"aaa":                    "nothing",
		"":                       "nothing",
		"docker:":                "nothing",
		"db":                     "dddd1111",
		"dddd1111":               "dddd1111",
		"dddd":                   "eeee1111", // a name beats the start of an id
		"dddd1":                  "dddd1111",
		"containerd:dddd1":       "dddd1111",
		"containerd:moby/dddd11": "dddd1111",
		"podman:db":              "nothing",
	} {
		store, c, err := host.Lookup(context.Background(), name)
		switch {
		case err == nil && c.ID == want:
			if c.ID == "dddd1111" && (store.Kind() == Containerd) != strings.HasPrefix(name, "containerd:") {
				t.Errorf("Lookup(%q) is in %s", name, store.Kind())
			}
		case errors.Is(err, ErrAmbiguous) && strings.HasPrefix(want, "ambiguous"):
			if name == "web-0/app" && !strings.Contains(err.Error(), "containerd:k8s.io/cccc1111 (web-0/app), containerd:k8s.io/cccc2222 (web-0/app)") {
				t.Errorf("Lookup(%q) = %v; want the candidates named", name, err)
			}
		case errors.Is(err, ErrNotFound) && strings.HasSuffix(want, "nothing"):
			if name == "aaa" && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("Lookup(%q) = %v; want the unreadable store named", name, err)
			}
		default:
			t.Errorf("Lookup(%q) = %q, %v; want %s", name, c.ID, err, want)
		}
	}
}

func TestNormalise(t *testing.T) {
	hex := strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1": "docker.io/library/nginx:1", "quay.io/a/b:1": "quay.io/a/b:1",
		"a/b:1@sha256:" + hex: "docker.io/a/b@sha256:" + hex, "Not A Name": "Not A Name",
	} {
		if got := normalise(name); got != want {
			t.Errorf("normalise(%q) = %q; want %q", name, got, want)
		}
	}
}
