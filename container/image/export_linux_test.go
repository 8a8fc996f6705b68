package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerTypes turns an image into one with Docker's media types.
func dockerTypes(t *testing.T, b *builder) *Image {
	t.Helper()
	b.manifest.Config = b.put(jsonOf(t, b.config), dockerConfig)
	b.manifest.MediaType = dockerManifest
	for i := range b.manifest.Layers {
		b.manifest.Layers[i].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	}
	b.index(b.put(jsonOf(t, b.manifest), dockerManifest))
	return open(t, b.dir, "")
}

// What is exported is read by other tools, and by this package, as the same image.
func TestExport(t *testing.T) {
	for name, from := range map[string]func(t *testing.T) *Image{
		"oci":    func(t *testing.T) *Image { return twoLayers(t).image() },
		"docker": func(t *testing.T) *Image { return dockerTypes(t, twoLayers(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			im, at := from(t), t.TempDir()
			m, _, err := im.Manifest(t.Context())
			must(t, err)
			var diffs []string
			for _, l := range m.Layers {
				diffs = append(diffs, l.Digest.String())
			}
			if err := WriteLayout(t.Context(), im, at+"/layout", "v1"); err != nil {
				t.Fatalf("WriteLayout = %v; want success", err)
			}
			f, err := os.Create(at + "/archive.tar")
			must(t, err)
			if err := WriteArchive(t.Context(), im, f, "example.org/etcd:v1"); err != nil {
				t.Fatalf("WriteArchive = %v; want success", err)
			}
			must(t, f.Close())

			for _, ref := range []string{"oci:" + at + "/layout:v1", "docker-archive:" + at + "/archive.tar", "docker-archive:" + at + "/archive.tar:example.org/etcd:v1", "oci-archive:" + at + "/archive.tar"} {
				var got struct {
					Architecture string
					Layers       []string
				}
				must(t, json.Unmarshal(run(t, "skopeo", "inspect", ref), &got))
				if got.Architecture != runtime.GOARCH || len(got.Layers) != 2 || strings.HasPrefix(ref, "oci") && !slices.Equal(got.Layers, diffs) {
					t.Errorf("skopeo inspect %s = %+v; want layers %q", ref, got, diffs)
				}
			}
			run(t, "umoci", "unpack", "--image", at+"/layout:v1", at+"/bundle")
			if got := tree(t, at+"/bundle/rootfs"); !slices.Equal(got, wantTwo) {
				t.Errorf("umoci unpack gives %q; want %q", got, wantTwo)
			}
			wantMerged(t, open(t, at+"/layout", "v1"))
			wantMerged(t, openTarFile(t, at+"/archive.tar", "example.org/etcd:v1"))

			var again bytes.Buffer
			must(t, WriteArchive(t.Context(), im, &again, "example.org/etcd:v1"))
			first, err := os.ReadFile(at + "/archive.tar")
			must(t, err)
			if !bytes.Equal(first, again.Bytes()) {
				t.Error("WriteArchive twice gives different bytes; want the same")
			}
		})
	}
}

func TestWriteLayoutMerges(t *testing.T) {
	one, two := twoLayers(t).image(), build(t).layers([]file{reg("only", "two")}).image()
	dir := t.TempDir() + "/layout"
	for _, w := range []struct {
		im  *Image
		tag string
	}{{one, "a"}, {two, "b"}, {two, "c"}, {one, "c"}, {one, ""}, {one, ""}} {
		must(t, WriteLayout(t.Context(), w.im, dir, w.tag))
	}
	// A blob that rotted is written anew.
	m, _, err := one.Manifest(t.Context())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, blobPath(m.Layers[0])), []byte("rot"), 0o644))
	must(t, WriteLayout(t.Context(), one, dir, "c"))
	raw, err := os.ReadFile(dir + "/index.json")
	must(t, err)
	var index ocispec.Index
	must(t, json.Unmarshal(raw, &index))
	var tags []string
	for _, d := range index.Manifests {
		tags = append(tags, d.Annotations[ocispec.AnnotationRefName])
	}
	slices.Sort(tags)
	if !slices.Equal(tags, []string{"", "a", "b", "c"}) {
		t.Errorf("tags in the layout = %q; want a, b, c and one without", tags)
	}
	wantMerged(t, open(t, dir, "a"))
	wantMerged(t, open(t, dir, "c"))
	if got := tree(t, mounted(t, unpacked(t, open(t, dir, "b")))); !slices.Equal(got, []string{`only 100644 0:0 "two"`}) {
		t.Errorf("b = %q; want its own file", got)
	}
}

func TestExportRefuses(t *testing.T) {
	b := twoLayers(t)
	im := b.image()
	blob := filepath.Join(b.dir, blobPath(b.manifest.Layers[1]))
	raw, err := os.ReadFile(blob)
	must(t, err)
	raw[len(raw)-1] ^= 1
	must(t, os.WriteFile(blob, raw, 0o644))
	dir := t.TempDir() + "/layout"
	if err := WriteLayout(t.Context(), im, dir, "x"); !errors.Is(err, ErrVerification) {
		t.Errorf("WriteLayout of a corrupt image = %v; want ErrVerification", err)
	}
	if _, err := os.Stat(dir + "/index.json"); err == nil {
		t.Error("WriteLayout of a corrupt image wrote an index; want none")
	}
	if got := names(t, dir+"/blobs/sha256"); len(got) != 2 {
		t.Errorf("WriteLayout of a corrupt image left %q; want the two good blobs only", got)
	}
	if err := WriteArchive(t.Context(), im, new(bytes.Buffer), "x"); !errors.Is(err, ErrVerification) {
		t.Errorf("WriteArchive of a corrupt image = %v; want ErrVerification", err)
	}
	other := t.TempDir()
	must(t, os.WriteFile(other+"/precious", nil, 0o644))
	if err := WriteLayout(t.Context(), im, other, "x"); !errors.Is(err, ErrInvalid) {
		t.Errorf("WriteLayout into another directory = %v; want ErrInvalid", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteLayout(ctx, twoLayers(t).image(), t.TempDir(), "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteLayout after a cancel = %v; want context.Canceled", err)
	}
	s := store(t, t.TempDir())
	if _, err := s.Unpack(ctx, twoLayers(t).image(), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Unpack after a cancel = %v; want context.Canceled", err)
	}
	if got := names(t, s.Dir()); !slices.Equal(got, []string{"lock"}) {
		t.Errorf("after a cancel the store has %q; want the lock only", got)
	}
}
