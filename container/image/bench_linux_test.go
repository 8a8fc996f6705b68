package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkUnpack unpacks 1.6 GB (uncompressed) in four gzip layers, always the same bytes: 30,000 small files of text,
// large files of text, large random ones, and a layer that changes and deletes some of them. With IMAGE_BENCH_DIR set, the
// image is made and kept there, for a comparison on the very same image:
//
//	IMAGE_BENCH_DIR=/var/tmp/bench go test -run '^$' -bench Unpack -benchtime 3x ./container/image
//	time umoci unpack --image /var/tmp/bench:bench /var/tmp/bundle
func BenchmarkUnpack(b *testing.B) {
	dir := os.Getenv("IMAGE_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		benchImage(b, dir)
	}
	im := open(b, dir, "bench")
	for b.Loop() {
		b.StopTimer()
		at := filepath.Join(b.TempDir(), "layers")
		b.StartTimer()
		u, err := store(b, at).Unpack(b.Context(), im, Options{})
		if err != nil {
			b.Fatalf("Unpack = %v; want success", err)
		}
		b.StopTimer()
		must(b, u.Close())
		must(b, os.RemoveAll(at))
		b.StartTimer()
	}
	b.SetBytes(1600 << 20)
}

func benchImage(b *testing.B, dir string) {
	b.Helper()
	w := build(b)
	w.dir = dir
	seed := uint64(0)
	benchLayer(w, func(add func(string, []byte)) { // 470 MB in small files
		for i := range 30_000 {
			seed++
			add(fmt.Sprintf("usr/share/%03d/%05d.txt", i%300, i), text(seed, 1<<10+int(seed*7919%(30<<10))))
		}
	})
	benchLayer(w, func(add func(string, []byte)) { // 640 MB
		for i := range 20 {
			seed++
			add(fmt.Sprintf("usr/lib/lib%02d.so", i), text(seed, 32<<20))
		}
	})
	benchLayer(w, func(add func(string, []byte)) { // 384 MB that do not compress
		for i := range 6 {
			seed++
			raw := make([]byte, 64<<20)
			_, _ = rand.NewChaCha8(seed256(seed)).Read(raw)
			add(fmt.Sprintf("opt/data%d.bin", i), raw)
		}
	})
	benchLayer(w, func(add func(string, []byte)) { // 100 MB over the first
		for i := range 3_000 {
			seed++
			add(fmt.Sprintf("usr/share/%03d/%05d.txt", i%300, i), text(seed, 32<<10))
			add(fmt.Sprintf("usr/share/%03d/.wh.%05d.txt", i%300, i+3_000), nil)
		}
	})
	w.manifest.Config = w.put(jsonOf(b, w.config), ocispec.MediaTypeImageConfig)
	desc := w.put(jsonOf(b, w.manifest), w.manifest.MediaType)
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: "bench"}
	w.index(desc)
}

func benchLayer(w *builder, fill func(add func(name string, raw []byte))) {
	w.t.Helper()
	var blob bytes.Buffer
	hash := digest.SHA256.Digester()
	z := gzip.NewWriter(&blob)
	tw := tar.NewWriter(io.MultiWriter(z, hash.Hash()))
	made := map[string]bool{"./": true}
	fill(func(name string, raw []byte) {
		var parents []string
		for d := filepath.Dir(name) + "/"; !made[d]; d = filepath.Dir(filepath.Clean(d)) + "/" {
			made[d] = true
			parents = append([]string{d}, parents...)
		}
		for _, d := range parents {
			must(w.t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755}))
		}
		must(w.t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(raw))}))
		_, err := tw.Write(raw)
		must(w.t, err)
	})
	must(w.t, tw.Close())
	must(w.t, z.Close())
	w.manifest.Layers = append(w.manifest.Layers, w.put(blob.Bytes(), ocispec.MediaTypeImageLayerGzip))
	w.config.RootFS.DiffIDs = append(w.config.RootFS.DiffIDs, hash.Digest())
}

func seed256(seed uint64) (s [32]byte) {
	binary.LittleEndian.PutUint64(s[:], seed)
	return s
}

// text compresses about as well as programs and documents do: to 40 percent.
func text(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([]string, 2000)
	for i := range words {
		words[i] = fmt.Sprintf("%x", r.Uint64())[:3+r.IntN(9)]
	}
	out := make([]byte, 0, size+16)
	for len(out) < size {
		out = append(append(out, words[r.IntN(len(words))]...), ' ')
	}
	return out[:size]
}
