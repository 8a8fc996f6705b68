package salvage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxConfig bounds an orchestrator's configuration file, in bytes.
const maxConfig = 1 << 20

// Find opens every store in the well-known places below root, which is "/" or
// where the disk of a dead host is mounted: symbolic links are followed as if
// root were the file system's root. Places an orchestrator's own configuration
// names are looked at too. A store that is there and cannot be opened is a
// Problem, and so is a place that this user may not look into. The order is that of [places], the same each time.
func Find(root string) ([]Store, []Problem) {
	var stores []Store
	var problems []Problem
	seen := map[string]bool{}
	for _, place := range places(root) {
		path, err := beneath(root, place.dir)
		if err != nil {
			problems = append(problems, Problem{Store: place.kind, What: place.dir, Err: err})
			continue
		}
		key := string(place.kind) + ":" + path
		if seen[key] {
			continue
		}
		seen[key] = true
		if !looksLike(place.kind, path) {
			if _, err := os.ReadDir(path); errors.Is(err, fs.ErrPermission) {
				problems = append(problems, Problem{Store: place.kind, What: path, Err: err})
			}
			continue
		}
		var store Store
		if place.kind == Kubelet {
			store, err = openKubelet(root, place.dir)
		} else {
			store, err = Open(place.kind, path)
		}
		if err != nil {
			problems = append(problems, Problem{Store: place.kind, What: path, Err: err})
			continue
		}
		stores = append(stores, store)
	}
	return stores, problems
}

// Open opens the store of a known kind in a directory. Both [Podman] and [CRIO]
// stand for containers/storage.
func Open(kind Kind, path string) (Store, error) {
	switch kind {
	case Containerd:
		return openContainerd(path)
	case Docker:
		return openDocker(path)
	case Podman, CRIO:
		return openStorage(path)
	case Kubelet:
		return openKubelet(path, ".")
	default:
		return nil, fmt.Errorf("opening store %s: unknown kind %q", path, kind)
	}
}

// OpenPath opens whatever is at path: a store's own directory, else every store
// of the file system mounted there. With a Docker's directory comes what it keeps
// in a containerd.
func OpenPath(path string) ([]Store, []Problem) {
	for _, kind := range []Kind{Containerd, Docker, Podman} {
		if !looksLike(kind, path) {
			continue
		}
		store, err := Open(kind, path)
		if err != nil {
			return nil, []Problem{{Store: kind, What: path, Err: err}}
		}
		stores := []Store{store}
		if kind == Docker {
			for _, root := range dockerContainerds(path) {
				stores = append(stores, newContainerdStore(root, dockerNamespace))
			}
		}
		return stores, nil
	}
	stores, problems := Find(path)
	if len(stores)+len(problems) > 0 {
		return stores, problems
	}
	if holdsManifests(path) {
		store, err := openKubelet(path, ".")
		if err == nil {
			return []Store{store}, nil
		}
		problems = append(problems, Problem{Store: Kubelet, What: path, Err: err})
	}
	return nil, problems
}

// looksLike tells a kind's directory by what only that kind has in it.
func looksLike(kind Kind, path string) bool {
	switch kind {
	case Containerd:
		return isFileBeneath(path, containerdMetadata)
	case Docker:
		return isDirBeneath(path, "containers") && (isDirBeneath(path, "image") || isFileBeneath(path, "engine-id"))
	case Podman, CRIO:
		return isDirBeneath(path, "overlay-containers") || isDirBeneath(path, "overlay-images") ||
			isDirBeneath(path, "vfs-containers") || isDirBeneath(path, "vfs-images")
	case Kubelet:
		return isDirBeneath(path, ".")
	default:
		return false
	}
}

func holdsManifests(path string) bool {
	for _, pattern := range []string{"*.yaml", "*.yml", "*.json"} {
		if found, _ := filepath.Glob(filepath.Join(path, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

// place is a directory below root where a store may be.
type place struct {
	kind Kind
	dir  string
}

// places lists where distributions, k3s, RKE2, MicroK8s, k0s and snaps keep
// their stores, and where this host's configuration says.
func places(root string) []place {
	list := []place{
		{Containerd, "var/lib/containerd"},
		{Containerd, "var/lib/rancher/k3s/agent/containerd"},
		{Containerd, "var/lib/rancher/rke2/agent/containerd"},
		{Containerd, "var/snap/microk8s/common/var/lib/containerd"},
		{Containerd, "var/lib/k0s/containerd"},
		{Docker, "var/lib/docker"},
		{Docker, "var/snap/docker/common/var-lib-docker"},
		{Podman, "var/lib/containers/storage"},
		{Podman, "root/.local/share/containers/storage"},
		{Kubelet, "etc/kubernetes/manifests"},
		{Kubelet, "var/lib/rancher/k3s/agent/pod-manifests"},
		{Kubelet, "var/lib/rancher/rke2/agent/pod-manifests"},
	}
	if homes, err := beneath(root, "home"); err == nil {
		users, _ := os.ReadDir(homes) // no homes, no rootless stores
		for _, user := range users {
			list = append(list, place{Podman, filepath.Join("home", user.Name(), ".local/share/containers/storage")})
		}
	}
	list = append(list, configured(root)...)
	for _, p := range list {
		if p.kind == Docker {
			list = append(list, place{Containerd, filepath.Join(p.dir, dockerContainerd)})
		}
	}
	return list
}

// configured reads the places out of the orchestrators' configuration files. A
// file that is missing or unreadable names none.
func configured(root string) []place {
	var list []place
	add := func(kind Kind, dir string) {
		if filepath.IsAbs(dir) {
			list = append(list, place{kind, dir})
		}
	}
	if data, err := readBounded(root, "etc/containerd/config.toml", maxConfig); err == nil {
		add(Containerd, tomlString(data, "root"))
	}
	if data, err := readBounded(root, "etc/containers/storage.conf", maxConfig); err == nil {
		add(Podman, tomlString(data, "graphroot"))
	}
	if data, err := readBounded(root, "etc/docker/daemon.json", maxConfig); err == nil {
		var config struct {
			DataRoot string `json:"data-root"`
			Graph    string `json:"graph"` // its name before Docker 17.05
		}
		if json.Unmarshal(data, &config) == nil {
			add(Docker, config.DataRoot)
			add(Docker, config.Graph)
		}
	}
	if data, err := readBounded(root, "var/lib/kubelet/config.yaml", maxConfig); err == nil {
		var config struct {
			StaticPodPath string `yaml:"staticPodPath"`
		}
		if decodeYAML(data, &config) == nil {
			add(Kubelet, config.StaticPodPath)
		}
	}
	return list
}

// tomlString finds the first `key = "value"` line, which is enough of TOML for
// the one key wanted from each file. It returns "" if there is none.
func tomlString(data []byte, key string) string {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok || strings.TrimSpace(name) != key {
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) < 2 || value[0] != '"' && value[0] != '\'' {
			return ""
		}
		value, _, _ = strings.Cut(value[1:], value[:1])
		return value
	}
	return ""
}
