package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerImage is one element of manifest.json (Docker image specification 1.2).
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string // lowest first
}

func parseDocker(raw []byte) ([]dockerImage, error) {
	var all []dockerImage
	if err := unmarshal(raw, &all); err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Config == "" {
			return nil, fmt.Errorf("%w: an image without a configuration", ErrInvalid)
		}
		if len(d.Layers) > maxLayers {
			return nil, fmt.Errorf("%w: %d layers, the kernel stacks at most %d", ErrLimit, len(d.Layers), maxLayers)
		}
	}
	return all, nil
}

// openDocker opens an image of a docker-archive, which has no manifest of its own: one is made up.
func openDocker(t *tarFiles, name string) (*Image, error) {
	raw, err := readFile(t, "manifest.json")
	if err != nil {
		return nil, fmt.Errorf("%w: neither index.json nor manifest.json: %w", ErrInvalid, err)
	}
	all, err := parseDocker(raw)
	if err != nil {
		return nil, fmt.Errorf("reading manifest.json: %w", err)
	}
	d, called, err := pickDocker(all, name)
	if err != nil {
		return nil, err
	}
	a := &dockerBlobs{tar: t, at: map[digest.Digest]tarFile{}}
	target, err := a.manifest(d)
	if err != nil {
		return nil, err
	}
	return &Image{Name: called, Target: target, Provider: a}, nil
}

func pickDocker(all []dockerImage, name string) (dockerImage, string, error) {
	var names []string
	for _, d := range all {
		if name != "" && slices.Contains(d.RepoTags, name) {
			return d, name, nil
		}
		names = append(names, d.RepoTags...)
	}
	switch {
	case name == "" && len(all) == 1 && len(names) > 0:
		return all[0], names[0], nil
	case name == "" && len(all) == 1:
		return all[0], "", nil
	case name == "" && len(all) > 1:
		return dockerImage{}, "", fmt.Errorf("%w of %s", ErrAmbiguous, list(names))
	}
	return dockerImage{}, "", fmt.Errorf("image %q: %w among %s", name, ErrNotFound, list(names))
}

// dockerBlobs gives the files of a docker-archive by digest.
type dockerBlobs struct {
	tar *tarFiles
	at  map[digest.Digest]tarFile
	doc []byte // the manifest
}

func (a *dockerBlobs) manifest(d dockerImage) (ocispec.Descriptor, error) {
	raw, err := readFile(a.tar, d.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := parseConfig(raw, len(d.Layers))
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading %.200q: %w", d.Config, err)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if a.at[m.Config.Digest], err = a.tar.find(path.Clean("/" + d.Config)[1:]); err != nil {
		return ocispec.Descriptor{}, err
	}
	for i, name := range d.Layers {
		layer, err := a.layer(name, config.RootFS.DiffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("reading layer %.200q: %w", name, err)
		}
		m.Layers = append(m.Layers, layer)
	}
	if a.doc, err = json.Marshal(m); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(a.doc), Size: int64(len(a.doc))}, nil
}

// layer describes a layer's file. Its digest is only a claim until it is unpacked: that of a plain tar is the diffID,
// that of a compressed one is in the name of newer archives' files and has to be computed for others.
func (a *dockerBlobs) layer(name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	f, err := a.tar.find(path.Clean("/" + name)[1:])
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	sr := io.NewSectionReader(a.tar.ra, f.offset, f.size)
	head := make([]byte, 16)
	n, err := sr.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: f.size}
	switch sniff(head[:n]) {
	case plainTar:
	case zstdTar:
		desc.MediaType, desc.Digest = ocispec.MediaTypeImageLayerZstd, ""
	default:
		desc.MediaType, desc.Digest = ocispec.MediaTypeImageLayerGzip, ""
	}
	if desc.Digest == "" {
		if hex, ok := strings.CutPrefix(path.Clean(name), "blobs/sha256/"); ok {
			desc.Digest = digest.NewDigestFromEncoded(digest.SHA256, hex)
		} else if desc.Digest, err = digest.FromReader(sr); err != nil {
			return desc, err
		}
	}
	if err := checkDigest(desc.Digest); err != nil {
		return desc, err
	}
	a.at[desc.Digest] = f
	return desc, nil
}

func (a *dockerBlobs) ReaderAt(_ context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if f, ok := a.at[desc.Digest]; ok {
		return &blob{ReaderAt: io.NewSectionReader(a.tar.ra, f.offset, f.size), size: f.size}, nil
	}
	if digest.FromBytes(a.doc) == desc.Digest {
		return &blob{ReaderAt: strings.NewReader(string(a.doc)), size: int64(len(a.doc))}, nil
	}
	return nil, fmt.Errorf("%w in the archive", ErrNotFound)
}
