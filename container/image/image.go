// Package image turns a container image at rest into a root filesystem, and back.
//
//	OCI layout | docker-archive | any content.Provider  ->  Image
//	Image  ->  Store.Unpack  ->  verified layer directories, lowest first  ->  Mount  ->  overlay root
//	Image  ->  WriteLayout | WriteArchive
//
// Every byte that is read is hostile until its digest has been checked. Manifests and configurations are
// read only up to 4 MiB. A layer becomes visible in the [Store] only after the digest and size of its blob and
// the digest of its uncompressed tar (its diffID) are those the image promised.
//
// Sources: the OCI image specification 1.1 (image-layout.md, manifest.md, config.md, layer.md), Docker's
// image specification 1.2 for manifest.json, and the kernel's Documentation/filesystems/overlayfs.rst.
package image

import (
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrInvalid says that a document or archive does not follow its specification.
	ErrInvalid = errors.New("malformed image")
	// ErrVerification says that bytes are not what their digest or size promised.
	ErrVerification = errors.New("verification failed")
	// ErrUnsupported says that a media type, digest algorithm or compression is not known here.
	ErrUnsupported = errors.New("not supported")
	// ErrLimit says that something is larger than the limit set for it.
	ErrLimit = errors.New("over the limit")
	// ErrNotFound says that no image has this name or suits this platform, or that a blob is absent.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous says that a name is needed because there are several images.
	ErrAmbiguous = errors.New("several images, name one")
)

// Image is one image and the blobs it consists of. A caller with its own content store fills the exported fields
// itself; then Close does nothing.
type Image struct {
	// Name is what the source calls the image, "" when it has no name.
	Name string
	// Target is the manifest, or an index that Manifest resolves to linux on this machine's architecture.
	Target ocispec.Descriptor
	// Provider gives blobs by digest. What it returns is not trusted.
	Provider content.Provider

	closer io.Closer
}

// Close releases what OpenLayout or OpenArchive opened.
func (im *Image) Close() error {
	if im.closer == nil {
		return nil
	}
	return im.closer.Close()
}

// blob is a content.ReaderAt over a part of a file or of memory.
type blob struct {
	io.ReaderAt
	size   int64
	closer io.Closer
}

func (b *blob) Size() int64 { return b.size }

func (b *blob) Close() error {
	if b.closer == nil {
		return nil
	}
	return b.closer.Close()
}
