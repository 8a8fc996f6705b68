// Package salvage reads what a dead orchestrator left on a host: the container
// records, the runtime specs, the images and the snapshots of containerd,
// Docker, containers/storage (Podman, CRI-O) and the kubelet's static pods.
//
// Nothing here ever writes to a store, waits for a lock or talks to a daemon. A
// database is copied before it is opened, because a hung daemon still holds its
// lock; a record that cannot be read becomes a [Problem] and the rest goes on.
// Every byte read is hostile: sizes are bounded and no path leaves its root.
//
// A store yields plain values: an OCI runtime spec, directories that serve as
// read-only overlay layers, and image blobs behind containerd's content.Provider.
package salvage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var (
	// ErrNotFound is returned for a container or image that no readable record names.
	ErrNotFound = errors.New("not found in any store")
	// ErrAmbiguous is returned where a name stands for several containers.
	ErrAmbiguous = errors.New("name is ambiguous")
	// ErrIncomplete is returned where a store no longer holds all the bytes asked for.
	ErrIncomplete = errors.New("store is incomplete")
	// ErrVerification is returned where a blob's bytes do not have its digest.
	ErrVerification = errors.New("verification failed")
)

// Kind names the software that wrote a store.
type Kind string

// The kinds of store, as the user sees and types them.
const (
	Containerd Kind = "containerd"
	Docker     Kind = "docker"
	Podman     Kind = "podman" // containers/storage, written by Podman or CRI-O
	CRIO       Kind = "crio"
	Kubelet    Kind = "kubelet"
)

// Container is one container that a store has a record of.
type Container struct {
	Store        Kind              `json:"store"`
	StorePath    string            `json:"store_path"`          // directory the record was read from
	Namespace    string            `json:"namespace,omitempty"` // containerd namespace
	ID           string            `json:"id"`                  // the store's own id
	Name         string            `json:"name"`                // what an operator calls it: Docker's name, POD/CONTAINER for Kubernetes, else the id
	Pod          string            `json:"pod,omitempty"`
	PodNamespace string            `json:"pod_namespace,omitempty"`
	Sandbox      bool              `json:"sandbox,omitempty"` // a pod's pause container: nothing to recover
	Image        string            `json:"image,omitempty"`   // reference as recorded
	ImageDigest  digest.Digest     `json:"image_digest,omitempty"`
	Created      time.Time         `json:"created,omitzero"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Image is an image whose manifest a store still names. Target is what the
// record points at: a manifest, or an index of manifests.
type Image struct {
	Store     Kind               `json:"store"`
	Namespace string             `json:"namespace,omitempty"`
	Name      string             `json:"name"`
	Target    ocispec.Descriptor `json:"target"`
	Provider  content.Provider   `json:"-"` // reads blobs; the reader of a blob verifies its digest
}

// Rootfs is the file system a dead container had, as directories that can be
// lower layers of a new overlay mount. They must be mounted read-only.
type Rootfs struct {
	// Layers are directories, the lowest first. Whiteouts are in overlayfs form.
	Layers []string
	// Upper is the dead container's own writable layer, empty if it had none or
	// it is gone. It holds what the container wrote outside its volumes.
	Upper string
	// Verified says the bytes of Layers (not Upper) were checked against the
	// image's digests just now. Power loss leaves files of zero bytes behind, so
	// what is not verified is only probably right.
	Verified bool
}

// Problem is something that could not be read. It is reported and passed over.
type Problem struct {
	Store Kind   `json:"store"`
	What  string `json:"what"` // record or file
	Err   error  `json:"-"`
}

func (p Problem) String() string { return fmt.Sprintf("%s: %s: %v", p.Store, p.What, p.Err) }

// Listing is all that is readable in a store, and what is not.
type Listing struct {
	Containers []Container
	Images     []Image
	Problems   []Problem
}

// Store reads one store. A Store is used by one goroutine at a time.
//
// Every method works without the store's daemon and without its lock. Methods
// return ErrNotFound for an id or name with no readable record, and wrap
// ErrIncomplete where the record is there but bytes it names are not.
type Store interface {
	Kind() Kind
	// Path is the directory the store was found in, as the caller sees it.
	Path() string
	// List returns every readable record. The error is for a store of which
	// nothing at all can be read.
	List(ctx context.Context) (Listing, error)
	// Spec returns the runtime spec as the orchestrator had it, unchanged, its
	// process and root as recorded. The spec belongs to the caller.
	Spec(ctx context.Context, c Container) (*specs.Spec, error)
	// Rootfs finds the container's snapshots.
	Rootfs(ctx context.Context, c Container) (Rootfs, error)
	// Image returns the image a container or reference stands for, if its blobs
	// are all present in the store. namespace is "" where the kind has none.
	Image(ctx context.Context, namespace, name string) (Image, error)
	// Close removes the store's private copies of databases.
	Close() error
}
