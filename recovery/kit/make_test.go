package kit

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// split cuts content the way a kit wants it.
func split(ctx context.Context, r io.Reader, put func(digest.Digest, []byte) error) (Blob, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return Blob{}, err
	}
	sum := digest.SHA256.Digester()
	b := Blob{}
	buf := make([]byte, MaxContent)
	for {
		n, err := io.ReadFull(r, buf)
		if errors.Is(err, io.EOF) {
			b.Digest = sum.Digest()
			return b, ctx.Err()
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return b, err
		}
		sum.Hash().Write(buf[:n])
		frame := enc.EncodeAll(buf[:n], nil)
		c := Chunk{Digest: digest.FromBytes(frame), Size: int64(len(frame)), Length: int64(n)}
		if err := put(c.Digest, frame); err != nil {
			return b, err
		}
		b.Chunks = append(b.Chunks, c)
		b.Size += c.Length
	}
}

// words are n bytes that compress a little.
func words(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('a' + r.IntN(12))
	}
	return b
}

// testImage is an image of the given layers, each a tar with one file.
type testImage struct {
	config []byte
	tars   map[digest.Digest][]byte
	order  []digest.Digest
	opened int
}

func newImage(t testing.TB, layers ...[]byte) *testImage {
	t.Helper()
	im := &testImage{tars: map[digest.Digest][]byte{}}
	for i, content := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(b.Bytes())
		im.tars[d] = b.Bytes()
		im.order = append(im.order, d)
	}
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: im.order}
	var err error
	if im.config, err = json.MarshalIndent(c, "", "   "); err != nil {
		t.Fatal(err)
	}
	return im
}

func (im *testImage) open(context.Context, string) (*ImageSource, error) {
	s := &ImageSource{Config: im.config, Platform: "linux/" + runtime.GOARCH, CapturedAt: noon.Add(-time.Hour)}
	for _, d := range im.order {
		s.Layers = append(s.Layers, LayerSource{DiffID: d, Open: func(context.Context) (io.ReadCloser, error) {
			im.opened++
			return io.NopCloser(bytes.NewReader(im.tars[d])), nil
		}})
	}
	return s, nil
}

const testYAML = `name: site-a
fresh_for: 30d
sources:
  - {name: seed, url: "https://10.0.0.9:8443/", trust: site-ca}
artifacts:
  - {name: etcdctl, file: bin/etcdctl, captured_at: 2026-02-28T10:00:00Z}
  - {name: etcd, image: "oci:images/etcd:v3.4", needs: [etcdctl]}
services:
  - name: etcd
    owner: storage-oncall
    managed_by: meta-root
    image: etcd
    spec: services/etcd.yaml
capabilities:
  - {name: package-store:read, service: package-store, spec: {http: [{host: packages, methods: [GET]}]}}
names:
  - {name: registry.example, addresses: [10.0.0.7], observed_at: 2026-03-01T00:00:00Z}
  - {name: example, zone: example.zone, observed_at: 2026-03-01T00:00:00Z}
trust:
  - {name: site-ca, ca: ca.pem}
  - {name: registry, spki: "sha256:` + zeros + `"}
policy: [policy/access.yaml]
runbooks: [runbooks/etcd.yaml]
contacts:
  - {name: storage-oncall, uri: "sip:storage-oncall@10.0.0.9"}
revoked: ["SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
`

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// newTree is a kit source with everything in it: a file of three chunks, and an image with two layers.
func newTree(t testing.TB) (Tree, *testImage) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"kit.yaml":           testYAML,
		"bin/etcdctl":        string(words(1, 2*MaxContent+1234)),
		"services/etcd.yaml": "name: etcd\nargs: [etcd, --force-new-cluster]\ncpus: 1.5\n",
		"example.zone":       "$ORIGIN example.\n@ 60 IN A 10.0.0.7\n",
		"ca.pem":             "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
		"policy/access.yaml": "allow: <all>\n",
		"runbooks/etcd.yaml": "runbook: etcd from bare hosts\n",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	tree, err := ReadTree(filepath.Join(dir, "kit.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return tree, newImage(t, words(2, MaxContent+99), words(3, 5000))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func options(im *testImage) BuildOptions {
	return BuildOptions{SignedAt: noon, OpenImage: im.open, Split: split}
}

// build builds a kit and opens it.
func build(t testing.TB, tree Tree, dir string, o BuildOptions) (*Layout, Built) {
	t.Helper()
	built, err := Build(t.Context(), tree, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := OpenLayout(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, built
}

// newKit is a whole kit, built.
func newKit(t testing.TB) (*Layout, Built) {
	t.Helper()
	tree, im := newTree(t)
	return build(t, tree, filepath.Join(t.TempDir(), "kit"), options(im))
}

// snapshot is all files of a directory with their content, and a word about which file each is.
func snapshot(t testing.TB, dir string) (content, identity map[string]string) {
	t.Helper()
	content, identity = map[string]string{}, map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir+"/")
		content[rel], identity[rel] = string(b), fmt.Sprint(st.Sys().(*syscall.Stat_t).Ino, st.ModTime())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return content, identity
}
