package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// builder writes an OCI layout by hand, so that a test can put any lie into it.
type builder struct {
	t        testing.TB
	dir      string
	manifest ocispec.Manifest
	config   ocispec.Image
}

func build(t testing.TB) *builder {
	t.Helper()
	b := &builder{t: t, dir: t.TempDir()}
	b.manifest = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	b.config = ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	b.config.Config.Cmd = []string{"/bin/true"}
	b.config.RootFS.Type = "layers"
	return b
}

func (b *builder) put(raw []byte, mediaType string) ocispec.Descriptor {
	b.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	path := filepath.Join(b.dir, "blobs/sha256", d.Digest.Encoded())
	must(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(b.t, os.WriteFile(path, raw, 0o644))
	return d
}

// layer adds a layer, compressed as its media type says.
func (b *builder) layer(mediaType string, raw []byte) *builder {
	b.t.Helper()
	blob := raw
	switch mediaType {
	case ocispec.MediaTypeImageLayerGzip:
		blob = gzipped(b.t, raw)
	case ocispec.MediaTypeImageLayerZstd:
		blob = zstded(b.t, raw)
	}
	b.manifest.Layers = append(b.manifest.Layers, b.put(blob, mediaType))
	b.config.RootFS.DiffIDs = append(b.config.RootFS.DiffIDs, digest.FromBytes(raw))
	return b
}

// layers adds one gzip layer for each list of files.
func (b *builder) layers(all ...[]file) *builder {
	b.t.Helper()
	for _, files := range all {
		b.layer(ocispec.MediaTypeImageLayerGzip, tarOf(b.t, files...))
	}
	return b
}

// write completes the layout under the tag "test".
func (b *builder) write() string {
	b.t.Helper()
	b.manifest.Config = b.put(jsonOf(b.t, b.config), ocispec.MediaTypeImageConfig)
	b.index(b.put(jsonOf(b.t, b.manifest), b.manifest.MediaType))
	return b.dir
}

func (b *builder) index(all ...ocispec.Descriptor) {
	b.t.Helper()
	for i := range all {
		if all[i].Annotations == nil {
			all[i].Annotations = map[string]string{ocispec.AnnotationRefName: "test"}
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: all}
	must(b.t, os.WriteFile(filepath.Join(b.dir, "index.json"), jsonOf(b.t, index), 0o644))
	must(b.t, os.WriteFile(filepath.Join(b.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// image opens what write wrote.
func (b *builder) image() *Image {
	b.t.Helper()
	return open(b.t, b.write(), "")
}

func open(t testing.TB, dir, tag string) *Image {
	t.Helper()
	im, err := OpenLayout(dir, tag)
	if err != nil {
		t.Fatalf("OpenLayout(%q, %q) = %v; want an image", dir, tag, err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

func store(t testing.TB, dir string) *Store {
	t.Helper()
	s, _, err := OpenStore(dir)
	if err != nil {
		t.Fatalf("OpenStore(%q) = %v; want a store", dir, err)
	}
	return s
}

// unpacked unpacks into a new store and returns the layers.
func unpacked(t testing.TB, im *Image) []string {
	t.Helper()
	u, err := store(t, filepath.Join(t.TempDir(), "layers")).Unpack(t.Context(), im, Options{})
	if err != nil {
		t.Fatalf("Unpack = %v; want success", err)
	}
	must(t, u.Close())
	return u.Layers
}

// file is a tar entry. Body sets the size.
type file struct {
	tar.Header
	body string
}

func dir(name string, mode int64) file {
	return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}}
}

func reg(name, body string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, body: body}
}

func symlink(name, to string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}}
}

func hardlink(name, to string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to, Mode: 0o644}}
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.body))
		if f.ModTime.IsZero() {
			f.ModTime = time.Unix(1700000000, 0)
		}
		must(t, tw.WriteHeader(&f.Header))
		_, err := io.WriteString(tw, f.body)
		must(t, err)
	}
	must(t, tw.Close())
	return buf.Bytes()
}

func gzipped(t testing.TB, raw []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(raw)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func zstded(t testing.TB, raw []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(raw, nil)
}

func jsonOf(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	must(t, err)
	return raw
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
