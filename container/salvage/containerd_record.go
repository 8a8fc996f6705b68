package salvage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protowire"
)

// Labels that containerd's CRI plugin and the kubelet put on a container.
const (
	labelKind         = "io.cri-containerd.kind"
	labelPod          = "io.kubernetes.pod.name"
	labelPodNamespace = "io.kubernetes.pod.namespace"
	labelContainer    = "io.kubernetes.container.name"
)

// containerdRecord is what the database says of one container.
type containerdRecord struct {
	created, updated         time.Time
	image                    string
	snapshotter, snapshotKey string
	spec                     []byte // protobuf Any around JSON
	labels                   map[string]string
}

// readContainerdRecord reads a container's bucket. With an error the record
// holds what is readable.
func readContainerdRecord(b *boltBucket) (containerdRecord, error) {
	r := containerdRecord{
		image:       string(b.get("image")),
		snapshotter: string(b.get("snapshotter")),
		snapshotKey: string(b.get("snapshotKey")),
		spec:        b.get("spec"),
	}
	problems := []error{b.err()}
	for key, to := range map[string]*time.Time{"createdat": &r.created, "updatedat": &r.updated} {
		if err := to.UnmarshalBinary(b.get(key)); err != nil {
			*to = time.Time{}
			problems = append(problems, fmt.Errorf("%s: %w", key, err))
		}
	}
	if labels := b.bucket("labels"); labels != nil {
		r.labels = make(map[string]string, len(labels.entries()))
		for _, entry := range labels.entries() {
			r.labels[string(entry.key)] = string(entry.value)
		}
		problems = append(problems, labels.err())
	}
	if len(r.spec) == 0 {
		problems = append(problems, errors.New("no spec is recorded"))
	}
	return r, errors.Join(problems...)
}

// container names the record as an operator would.
func (r containerdRecord) container(path, namespace, id string) Container {
	c := Container{
		Store: Containerd, StorePath: path, Namespace: namespace, ID: id, Name: id,
		Pod: r.labels[labelPod], PodNamespace: r.labels[labelPodNamespace],
		Sandbox: r.labels[labelKind] == "sandbox",
		Image:   r.image, Created: r.created, Labels: r.labels,
	}
	switch name := r.labels[labelContainer]; {
	case c.Pod != "" && name != "":
		c.Name = c.Pod + "/" + name
	case c.Pod != "":
		c.Name = c.Pod
	}
	return c
}

// readContainerdTarget reads the descriptor an image's bucket points at.
func readContainerdTarget(b *boltBucket) (ocispec.Descriptor, error) {
	target := b.bucket("target")
	if err := errors.Join(b.err(), target.err()); err != nil {
		return ocispec.Descriptor{}, err
	}
	size, _ := binary.Varint(target.get("size"))
	desc := ocispec.Descriptor{
		MediaType: string(target.get("mediatype")),
		Digest:    digest.Digest(target.get("digest")),
		Size:      size,
	}
	if err := desc.Digest.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("target %q: %w", desc.Digest, err)
	}
	if size < 0 {
		return ocispec.Descriptor{}, fmt.Errorf("target %s: size %d", desc.Digest, size)
	}
	return desc, nil
}

// decodeAny takes a google.protobuf.Any apart: 1 type_url, 2 value.
func decodeAny(data []byte) (url string, value []byte, err error) {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return "", nil, fmt.Errorf("decoding protobuf: %w", protowire.ParseError(n))
		}
		data = data[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return "", nil, fmt.Errorf("decoding protobuf: %w", protowire.ParseError(n))
			}
			data = data[n:]
			continue
		}
		field, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return "", nil, fmt.Errorf("decoding protobuf: %w", protowire.ParseError(n))
		}
		data = data[n:]
		switch number {
		case 1:
			url = string(field)
		case 2:
			value = field
		}
	}
	return url, value, nil
}
