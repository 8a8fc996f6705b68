package salvage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"
)

// What CRI-O says of a container in its spec (pkg/annotations of CRI-O). Podman
// uses a few of them too.
const (
	annotationManager = "io.container.manager" // libpod or cri-o
	annotationCRIO    = "io.kubernetes.cri-o."
	annotationType    = annotationCRIO + "ContainerType" // sandbox or container
)

// storageMetadata is what Podman (image-name, image-id, name) and CRI-O (all of
// it) keep in a record.
type storageMetadata struct {
	PodName   string `json:"pod-name"` // k8s_POD_NAMESPACE_UID_ATTEMPT
	PodID     string `json:"pod-id"`
	ImageName string `json:"image-name"`
	Name      string `json:"name"` // CRI-O: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
}

// storageConfig is the part of config.json that says whose container it is.
type storageConfig struct {
	Annotations map[string]string `json:"annotations"`
	Root        struct {
		Path string `json:"path"`
	} `json:"root"`
}

// container adds a container to the listing. A record without image or layer,
// from [storageLoader.scan], gets its layer from the root the runtime was given,
// and the rest from Podman's own database.
func (l *storageLoader) container(r storageContainer, images map[string]storageImage) {
	var config storageConfig
	if err := l.store.config(r.ID, &config); errors.Is(err, fs.ErrNotExist) {
		l.problem("container "+r.ID, fmt.Errorf("no config.json: it was never started: %w", ErrIncomplete))
	} else if err != nil {
		l.problem("container "+r.ID, err)
	}
	var meta storageMetadata
	if r.Metadata != "" {
		if err := json.Unmarshal([]byte(r.Metadata), &meta); err != nil {
			l.problem("metadata of container "+r.ID, err)
		}
	}
	if r.Layer == "" {
		r.Layer = layerOfRoot(config.Root.Path)
		l.store.containers[r.ID] = r
	}
	own := l.store.libpod[r.ID]
	r.Image = cmp.Or(r.Image, own.ImageID)
	if len(r.Names) == 0 && own.Name != "" {
		r.Names = []string{own.Name}
	}
	if r.Created.IsZero() {
		r.Created = own.Created
	}
	meta.ImageName = cmp.Or(meta.ImageName, own.Image)
	c := describeStorage(r, meta, config.Annotations)
	c.StorePath = l.store.path
	if c.Image == "" {
		c.Image = l.names[r.Image]
	}
	if image, ok := images[r.Image]; ok && image.Digest.Validate() == nil {
		c.ImageDigest = image.Digest
	}
	l.listing.Containers = append(l.listing.Containers, c)
}

// layerOfRoot finds the layer in DRIVER's path to a mounted root:
// overlay/LAYER/merged or vfs/dir/LAYER.
func layerOfRoot(root string) string {
	if path.Base(root) == "merged" {
		root = path.Dir(root)
	}
	if id := path.Base(root); storageID(id) {
		return id
	}
	return ""
}

// describeStorage names a container as its operator would. The spec's
// annotations go before the record, which has no names in plain form for CRI-O.
func describeStorage(r storageContainer, meta storageMetadata, annotations map[string]string) Container {
	c := Container{
		Store: Podman, ID: r.ID, Name: r.ID, Image: meta.ImageName, Created: r.Created.Time,
		Sandbox: annotations[annotationType] == "sandbox",
	}
	if c.Image == "" {
		c.Image = annotations[annotationCRIO+"ImageName"]
	}
	if c.Created.IsZero() {
		c.Created, _ = time.Parse(time.RFC3339Nano, annotations[annotationCRIO+"Created"])
	}
	manager := annotations[annotationManager]
	if manager == "libpod" || manager != "cri-o" && meta.PodName == "" && annotations[annotationCRIO+"SandboxID"] == "" {
		switch {
		case len(r.Names) > 0 && r.Names[0] != "":
			c.Name = r.Names[0]
		case meta.Name != "":
			c.Name = meta.Name
		}
		return c
	}
	c.Store = CRIO
	c.Sandbox = c.Sandbox || meta.PodID == r.ID
	if json.Unmarshal([]byte(annotations[annotationCRIO+"Labels"]), &c.Labels) != nil {
		c.Labels = nil
	}
	fromName := splitKubeName(cmp.Or(annotations[annotationCRIO+"Name"], meta.Name))
	fromPod := splitKubeName(meta.PodName)
	c.Pod = cmp.Or(annotations[labelPod], c.Labels[labelPod], fromName.pod, fromPod.container)
	c.PodNamespace = cmp.Or(annotations[labelPodNamespace], c.Labels[labelPodNamespace], annotations[annotationCRIO+"Namespace"], fromName.namespace, fromPod.pod)
	name := cmp.Or(annotations[labelContainer], c.Labels[labelContainer], fromName.container)
	switch {
	case c.Pod == "":
	case c.Sandbox || name == "":
		c.Name = c.Pod
	default:
		c.Name = c.Pod + "/" + name
	}
	return c
}

// kubeName is a name as CRI-O joins it. Kubernetes' own names have no underscore.
type kubeName struct{ container, pod, namespace string }

// splitKubeName takes k8s_CONTAINER_POD_NAMESPACE_… apart. Of a sandbox's own
// name, k8s_POD_NAMESPACE_UID_…, each part is one place further to the front.
func splitKubeName(name string) kubeName {
	parts := strings.Split(name, "_")
	if len(parts) < 4 || parts[0] != "k8s" {
		return kubeName{}
	}
	return kubeName{parts[1], parts[2], parts[3]}
}
