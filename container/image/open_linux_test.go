package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// twoLayers is an image whose merged root is wantTwo.
func twoLayers(t *testing.T) *builder {
	t.Helper()
	return build(t).layers(
		[]file{dir("etc", 0o755), reg("etc/gone", "1"), reg("etc/kept", strings.Repeat("0123456789", 4))},
		[]file{reg("etc/.wh.gone", ""), reg("etc/new", "2")},
	)
}

var wantTwo = []string{"etc 40755 0:0", `etc/kept 100644 0:0 "0123456789012345678901234567890123456789"`, `etc/new 100644 0:0 "2"`}

func wantMerged(t *testing.T, im *Image) {
	t.Helper()
	if got := tree(t, mounted(t, unpacked(t, im))); !slices.Equal(got, wantTwo) {
		t.Errorf("merged root = %q; want %q", got, wantTwo)
	}
}

func openTarFile(t *testing.T, path, name string) *Image {
	t.Helper()
	im, err := OpenArchive(path, name, t.TempDir())
	if err != nil {
		t.Fatalf("OpenArchive(%q, %q) = %v; want an image", path, name, err)
	}
	t.Cleanup(func() { must(t, im.Close()) })
	return im
}

// Archives as skopeo writes them, plain and compressed in every way.
func TestOpenArchive(t *testing.T) {
	b := twoLayers(t)
	b.write()
	at := t.TempDir()
	run(t, "skopeo", "copy", "--quiet", "oci:"+b.dir+":test", "docker-archive:"+at+"/docker.tar:etcd:3.4")
	run(t, "skopeo", "copy", "--quiet", "oci:"+b.dir+":test", "oci-archive:"+at+"/oci.tar:etcd:3.4")
	for _, f := range []string{"docker.tar", "oci.tar"} {
		raw, err := os.ReadFile(at + "/" + f)
		must(t, err)
		must(t, os.WriteFile(at+"/"+f+".gz", gzipped(t, raw), 0o644))
		must(t, os.WriteFile(at+"/"+f+".zst", zstded(t, raw), 0o644))
	}
	run(t, "xz", "--keep", at+"/docker.tar")
	for _, f := range []string{"docker.tar", "docker.tar.gz", "docker.tar.zst", "oci.tar", "oci.tar.gz"} {
		t.Run(f, func(t *testing.T) {
			name := "etcd:3.4"
			if strings.HasPrefix(f, "oci") {
				name = "3.4" // skopeo's oci-archive takes everything after the first colon
			}
			im := openTarFile(t, at+"/"+f, "")
			if !strings.HasSuffix(im.Name, name) {
				t.Errorf("Name = %q; want %q", im.Name, name)
			}
			wantMerged(t, im)
			wantMerged(t, openTarFile(t, at+"/"+f, im.Name))
			if _, err := OpenArchive(at+"/"+f, "other:1", t.TempDir()); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), im.Name) {
				t.Errorf("OpenArchive with another name = %v; want ErrNotFound that lists %s", err, im.Name)
			}
			spool := t.TempDir()
			_, err := OpenArchive(at+"/"+f, "other:1", spool)
			if left := names(t, spool); len(left) != 0 {
				t.Errorf("after OpenArchive = %v the spool has %q; want nothing", err, left)
			}
		})
	}
	if _, err := OpenArchive(at+"/docker.tar.xz", "", at); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "xz -d") {
		t.Errorf("OpenArchive(xz) = %v; want ErrUnsupported that says what to do", err)
	}
}

// tarFileOf writes a tar file.
func tarFileOf(t *testing.T, files ...file) string {
	t.Helper()
	path := t.TempDir() + "/archive.tar"
	must(t, os.WriteFile(path, tarOf(t, files...), 0o644))
	return path
}

// Archives of old Docker releases: layers are links to each other's files, or compressed.
func TestOpenArchiveOldDocker(t *testing.T) {
	one, two := tarOf(t, reg("f", "1")), tarOf(t, reg("g", "2"))
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(one), digest.FromBytes(two), digest.FromBytes(one)}
	im := openTarFile(t, tarFileOf(t,
		reg("config.json", string(jsonOf(t, config))),
		reg("aa/layer.tar", string(one)), reg("bb/layer.tar", string(gzipped(t, two))), symlink("cc/layer.tar", "../aa/layer.tar"),
		reg("manifest.json", `[{"Config":"config.json","RepoTags":null,"Layers":["aa/layer.tar","bb/layer.tar","cc/layer.tar"]}]`),
	), "")
	layers := unpacked(t, im)
	if got, want := tree(t, mounted(t, layers)), []string{`f 100644 0:0 "1"`, `g 100644 0:0 "2"`}; !slices.Equal(got, want) || len(layers) != 3 {
		t.Errorf("merged root of %d layers = %q; want 3, %q", len(layers), got, want)
	}
}

func TestOpenArchiveRefuses(t *testing.T) {
	fifo := t.TempDir() + "/fifo"
	must(t, unix.Mkfifo(fifo, 0o600))
	whole := tarOf(t, reg("manifest.json", "[]"), reg("big", strings.Repeat("x", 5000)))
	cut := t.TempDir() + "/cut.tar"
	must(t, os.WriteFile(cut, whole[:4000], 0o644))
	text := t.TempDir() + "/text"
	must(t, os.WriteFile(text, bytes.Repeat([]byte("text"), 500), 0o644))
	broken := t.TempDir() + "/broken.gz"
	must(t, os.WriteFile(broken, gzipped(t, whole)[:60], 0o644))
	docker := func(manifest string) string {
		return tarFileOf(t, reg("manifest.json", manifest), reg("c", "{}"), reg("l", ""))
	}
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"missing":          {"/nonexistent", os.ErrNotExist},
		"a directory":      {t.TempDir(), ErrInvalid},
		"text":             {text, ErrUnsupported},
		"cut off":          {cut, ErrInvalid},
		"broken gzip":      {broken, io.ErrUnexpectedEOF},
		"neither":          {tarFileOf(t, reg("x", "")), ErrInvalid},
		"no image":         {docker(`[]`), ErrNotFound},
		"no config":        {docker(`[{"Layers":["l"]}]`), ErrInvalid},
		"missing config":   {docker(`[{"Config":"x"}]`), os.ErrNotExist},
		"config elsewhere": {docker(`[{"Config":"../../../etc/passwd"}]`), os.ErrNotExist},
		"layers differ":    {docker(`[{"Config":"c","Layers":["l"]}]`), ErrInvalid},
		"two images":       {docker(`[{"Config":"c","RepoTags":["a:1"]},{"Config":"c","RepoTags":["b:1"]}]`), ErrAmbiguous},
		"not JSON":         {docker(`[{`), ErrInvalid},
		"links in a ring":  {tarFileOf(t, symlink("manifest.json", "m2"), symlink("m2", "manifest.json")), ErrInvalid},
		"huge manifest":    {tarFileOf(t, reg("manifest.json", strings.Repeat(" ", maxDocument+1))), ErrLimit},
	} {
		_, err := OpenArchive(c.path, "", t.TempDir())
		if !errors.Is(err, c.want) {
			t.Errorf("OpenArchive, %s = %v; want %v", name, err, c.want)
		}
	}
	// A broken compressed file leaves nothing in the spool.
	spool := t.TempDir()
	_, err := OpenArchive(broken, "", spool)
	if left := names(t, spool); len(left) != 0 {
		t.Errorf("after OpenArchive = %v the spool has %q; want nothing", err, left)
	}
}

func TestOpenLayoutPlatforms(t *testing.T) {
	b := twoLayers(t)
	b.write()
	here := b.put(jsonOf(t, b.manifest), ocispec.MediaTypeImageManifest)
	here.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	other, windows := here, here
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	windows.Platform = &ocispec.Platform{OS: "windows", Architecture: runtime.GOARCH}
	other.Digest, windows.Digest = digest.FromString("s390x"), digest.FromString("windows")

	b.index(other, here, windows)
	wantMerged(t, open(t, b.dir, ""))
	wantMerged(t, open(t, b.dir, "test"))

	inner := b.put(jsonOf(t, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{other, windows, here}}), ocispec.MediaTypeImageIndex)
	b.index(inner)
	wantMerged(t, open(t, b.dir, ""))

	inner = b.put(jsonOf(t, ocispec.Index{Manifests: []ocispec.Descriptor{other, windows}}), ocispec.MediaTypeImageIndex)
	b.index(inner)
	if _, _, err := open(t, b.dir, "").Manifest(t.Context()); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), runtime.GOARCH) {
		t.Errorf("Manifest without one for this platform = %v; want ErrNotFound that names it", err)
	}
	for range maxNesting + 1 {
		inner = b.put(jsonOf(t, ocispec.Index{Manifests: []ocispec.Descriptor{inner}}), ocispec.MediaTypeImageIndex)
	}
	b.index(inner)
	if _, _, err := open(t, b.dir, "").Manifest(t.Context()); !errors.Is(err, ErrLimit) {
		t.Errorf("Manifest of deeply nested indexes = %v; want ErrLimit", err)
	}
}

func TestOpenLayoutRefuses(t *testing.T) {
	at := func(change func(dir string)) string {
		b := twoLayers(t)
		b.write()
		change(b.dir)
		return b.dir
	}
	put := func(name, text string) string {
		return at(func(dir string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) })
	}
	second := func(dir string) {
		raw, err := os.ReadFile(dir + "/index.json")
		must(t, err)
		var index ocispec.Index
		must(t, unmarshal(raw, &index))
		d := index.Manifests[0]
		d.Digest, d.Annotations = digest.FromString("2"), map[string]string{ocispec.AnnotationRefName: "second"}
		must(t, os.WriteFile(dir+"/index.json", jsonOf(t, ocispec.Index{Manifests: append(index.Manifests, d)}), 0o644))
	}
	for name, c := range map[string]struct {
		dir, tag string
		want     error
	}{
		"missing":         {"/nonexistent", "", os.ErrNotExist},
		"no layout":       {t.TempDir(), "", ErrInvalid},
		"other version":   {put("oci-layout", `{"imageLayoutVersion":"2.0.0"}`), "", ErrUnsupported},
		"not JSON":        {put("index.json", `{`), "", ErrInvalid},
		"two meanings":    {put("index.json", `{"manifests":[],"layers":[]}`), "", ErrInvalid},
		"huge index":      {put("index.json", strings.Repeat(" ", maxDocument+1)), "", ErrLimit},
		"unknown tag":     {put("x", ""), "none", ErrNotFound},
		"tag needed":      {at(second), "", ErrAmbiguous},
		"index is a pipe": {at(func(d string) { must(t, os.Remove(d+"/index.json")); must(t, unix.Mkfifo(d+"/index.json", 0o600)) }), "", ErrInvalid},
	} {
		if _, err := OpenLayout(c.dir, c.tag); !errors.Is(err, c.want) {
			t.Errorf("OpenLayout, %s = %v; want %v", name, err, c.want)
		}
	}
	// A blob that is a link to a file elsewhere is not read, though its digest would be right.
	b := twoLayers(t)
	b.write()
	blob := filepath.Join(b.dir, blobPath(b.manifest.Config))
	must(t, os.Rename(blob, t.TempDir()+"/moved"))
	must(t, os.Symlink("/etc/passwd", blob))
	if _, _, err := open(t, b.dir, "").Manifest(t.Context()); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("Manifest with a blob outside = %v; want an error about escaping", err)
	}
	for tag, want := range map[string]string{"": "second", "x": "test"} {
		if _, err := OpenLayout(at(second), tag); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", want)) {
			t.Errorf("OpenLayout(%q) = %v; want it to list %q", tag, err, want)
		}
	}
}
