package salvage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxPodManifest bounds a static pod's manifest, in bytes. kubeadm's are 5 KB.
const maxPodManifest = 256 << 10

// kubeletStore is a directory of static pod manifests, which the kubelet starts
// without a control plane. It has no images and no file systems: look the
// image up in the host's other stores.
type kubeletStore struct {
	root string // where links start
	dir  string // below root
	path string

	listing *Listing
	pods    map[string]kubeletContainer // by Container.ID
}

type kubeletContainer struct {
	pod       *kubeletPod
	container *kubeletPodContainer
}

// openKubelet opens the manifest directory dir below root.
func openKubelet(root, dir string) (Store, error) {
	path, err := beneath(root, dir)
	if err != nil {
		return nil, err
	}
	if !isDirBeneath(root, dir) {
		return nil, fmt.Errorf("opening static pods %s: not a directory", path)
	}
	return &kubeletStore{root: root, dir: dir, path: path}, nil
}

func (s *kubeletStore) Kind() Kind   { return Kubelet }
func (s *kubeletStore) Path() string { return s.path }

// Close has nothing to do.
func (s *kubeletStore) Close() error { return nil }

// List reads the manifests. A container's id is NAMESPACE/POD/CONTAINER, and it
// was created when its file was last written. Init containers are not listed:
// each is a Problem, as is every value that only the API server could give.
func (s *kubeletStore) List(ctx context.Context) (Listing, error) {
	if s.listing != nil {
		return *s.listing, nil
	}
	files, err := os.ReadDir(s.path)
	if err != nil {
		return Listing{}, fmt.Errorf("reading static pods: %w", err)
	}
	s.pods = map[string]kubeletContainer{}
	listing := &Listing{}
	for _, file := range files {
		if err := ctx.Err(); err != nil {
			return Listing{}, err
		}
		name := file.Name()
		if strings.HasPrefix(name, ".") || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		pod, err := s.pod(name)
		if err != nil {
			listing.Problems = append(listing.Problems, Problem{Store: Kubelet, What: name, Err: err})
			continue
		}
		var written time.Time
		if info, err := file.Info(); err == nil {
			written = info.ModTime()
		}
		s.add(listing, pod, written)
	}
	s.listing = listing
	return *listing, nil
}

func (s *kubeletStore) pod(name string) (*kubeletPod, error) {
	data, err := readBounded(s.root, filepath.Join(s.dir, name), maxPodManifest)
	if err != nil {
		return nil, err
	}
	return parsePod(data)
}

func (s *kubeletStore) add(listing *Listing, pod *kubeletPod, written time.Time) {
	meta := pod.Metadata
	for i := range pod.Spec.Containers {
		container := &pod.Spec.Containers[i]
		c := Container{
			Store: Kubelet, StorePath: s.path,
			ID:   meta.Namespace + "/" + meta.Name + "/" + container.Name,
			Name: meta.Name + "/" + container.Name,
			Pod:  meta.Name, PodNamespace: meta.Namespace,
			Image: container.Image, Created: written, Labels: meta.Labels,
		}
		_, problems := pod.spec(container)
		if _, again := s.pods[c.ID]; again {
			problems = []error{fmt.Errorf("another manifest has the same name: ignored")}
		} else {
			s.pods[c.ID] = kubeletContainer{pod, container}
			listing.Containers = append(listing.Containers, c)
		}
		for _, err := range problems {
			listing.Problems = append(listing.Problems, Problem{Store: Kubelet, What: "container " + c.Name, Err: err})
		}
	}
	for _, container := range pod.Spec.InitContainers {
		listing.Problems = append(listing.Problems, Problem{
			Store: Kubelet, What: "container " + meta.Name + "/" + container.Name,
			Err: fmt.Errorf("an init container is not recovered: run what it does by hand if it is needed"),
		})
	}
}

// Spec returns what the pod says of the container over what containerd gives
// every one. What must come from the image is named by the annotation
// [FromImage]. The root's path is empty.
func (s *kubeletStore) Spec(ctx context.Context, c Container) (*specs.Spec, error) {
	if _, err := s.List(ctx); err != nil {
		return nil, err
	}
	found, ok := s.pods[c.ID]
	if !ok {
		return nil, fmt.Errorf("static pod container %s: %w", c.ID, ErrNotFound)
	}
	spec, _ := found.pod.spec(found.container) // List reported the problems
	return spec, nil
}

// Rootfs is always [ErrIncomplete]: the kubelet keeps no file systems.
func (s *kubeletStore) Rootfs(_ context.Context, c Container) (Rootfs, error) {
	return Rootfs{}, fmt.Errorf("static pod container %s: a manifest has no snapshot, use its image: %w", c.ID, ErrIncomplete)
}

// Image is always [ErrNotFound]: the kubelet keeps no images.
func (s *kubeletStore) Image(_ context.Context, _, name string) (Image, error) {
	return Image{}, fmt.Errorf("image %s: the kubelet keeps none: %w", name, ErrNotFound)
}
