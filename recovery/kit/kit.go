// Package kit reads, checks, builds and signs the recovery kit: what a recovery needs, captured before the
// outage.
//
//	kit.yaml  ->  ReadTree  ->  Build  ->  Layout          (before the outage)
//	Layout.Load  ->  Check  ->  Document                   (in the outage)
//	Layout.Missing  ->  Layout.Put                         (audit and repair)
//	Layout.Open  ->  Content                               (the bytes of a file or an image layer)
//
// # On disk
//
// A kit is an OCI image layout (image-spec 1.1, image-layout.md) with one manifest, named after the kit by
// org.opencontainers.image.ref.name:
//
//	config   application/vnd.oci.image.config.v1+json        a fixed, empty one: without it skopeo refuses to inspect
//	layer 0  application/vnd.blackstart.kit.v1+json          the Document, the exact bytes that are signed
//	layers   application/vnd.blackstart.signature.v1         one detached signature each, sorted by digest
//	layers   application/vnd.blackstart.frame.v1+zstd        one zstd frame (RFC 8878) each, in the document's order
//
// Content is always kept as frames of at most 4 MiB of content each; the frames of a blob one after another are
// a file that zstd -d reads. None of the media types is one that skopeo or a registry compresses anew, so a kit
// that travelled through them is still the same kit. A signature changes the manifest and the index, nothing else.
//
// # Trust
//
// Signatures are checked over the exact bytes of the document before anything parses them. The index, the
// manifest and the files beside them are hints: a frame counts only with the digest that the document gives.
package kit

import "errors"

// MediaType is the media type of a [Document], and its field of that name.
const MediaType = "application/vnd.blackstart.kit.v1+json"

// Media types of the other layers of a kit's manifest.
const (
	MediaTypeSignature = "application/vnd.blackstart.signature.v1"
	MediaTypeFrame     = "application/vnd.blackstart.frame.v1+zstd"
)

// Namespace is what an SSH signature of a kit is made for: ssh-keygen -Y sign -n blackstart-kit.
const Namespace = "blackstart-kit"

// Limits of a kit. Sizes are in bytes.
const (
	MaxDocument  = 16 << 20 // the document
	MaxContent   = 4 << 20  // the content of one frame
	MaxFrame     = 8 << 20  // one frame
	MaxFrames    = 20_000   // different frames of a kit: its manifest must stay below what registries take, 4 MiB
	maxManifest  = 4 << 20
	maxSignature = 16 << 10
	maxSigners   = 100
	maxEntries   = 10_000 // entries of one section
)

// Errors of this package, wrapped.
var (
	// ErrInvalid: a kit, a kit.yaml, a trust file or a signature does not follow its format.
	ErrInvalid = errors.New("malformed kit")
	// ErrNewer: the kit says that it needs a newer blackstart.
	ErrNewer = errors.New("kit needs a newer blackstart")
	// ErrVerification: a signature or a digest is not right, or too few trusted keys signed.
	ErrVerification = errors.New("verification failed")
	// ErrStale: the kit's fresh_until has passed.
	ErrStale = errors.New("stale kit")
	// ErrRollback: a kit with a higher epoch has been seen, or another one with the same epoch.
	ErrRollback = errors.New("rolled-back kit")
	// ErrNotFound: there is no such kit, or no such blob in the layout.
	ErrNotFound = errors.New("not found")
)
