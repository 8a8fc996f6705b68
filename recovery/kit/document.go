package kit

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
)

// Document is the root of a kit. Every digest is a sha256; times are RFC 3339 in whole seconds.
type Document struct {
	MediaType    string        `json:"media_type"` // MediaType, so that a signature of something else never fits
	Name         string        `json:"name"`       // also the OCI tag
	Epoch        uint64        `json:"epoch"`      // 1 and up; grows with every kit of this name
	Previous     digest.Digest `json:"previous,omitempty"`
	SignedAt     time.Time     `json:"signed_at"`
	FreshUntil   time.Time     `json:"fresh_until,omitzero"` // zero: never stale
	MinTool      string        `json:"min_tool,omitempty"`   // vMAJOR.MINOR.PATCH of blackstart
	Sources      []Source      `json:"sources,omitempty"`
	Artifacts    []Artifact    `json:"artifacts,omitempty"`
	Services     []Service     `json:"services,omitempty"`
	Capabilities []Capability  `json:"capabilities,omitempty"`
	Names        []Name        `json:"names,omitempty"`
	Trust        []Anchor      `json:"trust,omitempty"`
	Policy       []Text        `json:"policy,omitempty"`
	Runbooks     []Text        `json:"runbooks,omitempty"`
	Contacts     []Contact     `json:"contacts,omitempty"`
	// Revoked names what must not be used any more: digests ("sha256:…"), and the keys that signed kits by their
	// [Signer] ID.
	Revoked []string `json:"revoked,omitempty"`
}

// Source is a place where the kit's frames may be had from.
type Source struct {
	Name  string `json:"name" yaml:"name"`
	URL   string `json:"url" yaml:"url"`                         // file:, http:, https:, oci:, s3:, ssh:
	Trust string `json:"trust,omitempty" yaml:"trust,omitempty"` // name of the Anchor that its TLS certificate is checked with
}

// ArtifactKind says what an artifact is.
type ArtifactKind string

// The kinds of artifacts.
const (
	File  ArtifactKind = "file"  // one blob, the file's content
	Image ArtifactKind = "image" // an OCI image manifest, its configuration, its layers as uncompressed tars
)

// Artifact is a file or a container image. Digest is that of the first blob: the file, or the image's manifest.
type Artifact struct {
	Name       string        `json:"name"`
	Kind       ArtifactKind  `json:"kind"`
	MediaType  string        `json:"media_type"`
	Digest     digest.Digest `json:"digest"`
	Size       int64         `json:"size"`               // of the content of all blobs, in bytes
	Platform   string        `json:"platform,omitempty"` // os/architecture[/variant]
	CapturedAt time.Time     `json:"captured_at"`
	Needs      []string      `json:"needs,omitempty"` // artifacts that are to be repaired before this one
	Blobs      []Blob        `json:"blobs"`           // for an image: the manifest, the configuration, the layers from the lowest
}

// Blob is content with a digest, kept in parts.
type Blob struct {
	Digest    digest.Digest `json:"digest"` // of the content, not compressed
	Size      int64         `json:"size"`   // of the content, in bytes; at least 1
	MediaType string        `json:"media_type"`
	Chunks    []Chunk       `json:"chunks"` // in order; their lengths add up to Size
}

// Chunk is a part of a blob, kept as one zstd frame.
type Chunk struct {
	Digest digest.Digest `json:"digest"` // of the frame
	Size   int64         `json:"size"`   // of the frame, in bytes
	Length int64         `json:"length"` // of what the frame decompresses to, in bytes
}

// Service is something to be started again.
type Service struct {
	Name      string          `json:"name"`
	Owner     string          `json:"owner,omitempty"`
	ManagedBy string          `json:"managed_by,omitempty"` // who starts it on an ordinary day
	Image     string          `json:"image,omitempty"`      // name of an image artifact
	Spec      json.RawMessage `json:"spec"`                 // the container's specification, a JSON object
}

// Capability is something a recovery may need of another service.
type Capability struct {
	Name    string          `json:"name"` // such as package-store:read
	Service string          `json:"service,omitempty"`
	Spec    json.RawMessage `json:"spec"` // what the sandbox allows, a JSON object
}

// Name is a frozen DNS answer, or a whole zone. Exactly one of Addresses and Zone is there.
type Name struct {
	Name       string    `json:"name"`
	Addresses  []string  `json:"addresses,omitempty"` // IP addresses
	Zone       string    `json:"zone,omitempty"`      // a master file (RFC 1035, section 5)
	ObservedAt time.Time `json:"observed_at"`
}

// Anchor is what a TLS peer is checked with. Exactly one of CA and SPKI is there.
type Anchor struct {
	Name string        `json:"name"`
	CA   string        `json:"ca,omitempty"`   // PEM certificates
	SPKI digest.Digest `json:"spki,omitempty"` // of the peer's SubjectPublicKeyInfo in DER
}

// Text is a file that is part of the document: a runbook, a policy.
type Text struct {
	Name string `json:"name"` // the file's name, without a directory
	Text string `json:"text"`
}

// Contact is somebody to call.
type Contact struct {
	Name string `json:"name" yaml:"name"`
	URI  string `json:"uri" yaml:"uri"` // sip:, tel:, mailto:
}

// Artifact returns the artifact of a name.
func (d *Document) Artifact(name string) (Artifact, bool) {
	for _, a := range d.Artifacts {
		if a.Name == name {
			return a, true
		}
	}
	return Artifact{}, false
}

// Frames are the different frames of artifacts, in the order given.
func Frames(artifacts ...Artifact) []Chunk {
	seen := map[digest.Digest]bool{}
	var all []Chunk
	for _, a := range artifacts {
		for _, b := range a.Blobs {
			for _, c := range b.Chunks {
				if !seen[c.Digest] {
					seen[c.Digest] = true
					all = append(all, c)
				}
			}
		}
	}
	return all
}
