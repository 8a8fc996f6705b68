package image

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// archiveOf makes a tar of name, content pairs.
func archiveOf(pairs ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(pairs); i += 2 {
		_ = w.WriteHeader(&tar.Header{Name: pairs[i], Size: int64(len(pairs[i+1])), Mode: 0o644, Typeflag: tar.TypeReg})
		_, _ = w.Write([]byte(pairs[i+1]))
	}
	_ = w.Close()
	return b.Bytes()
}

// FuzzOpenArchive opens and, where it opens, unpacks an archive of any bytes.
func FuzzOpenArchive(f *testing.F) {
	layer := string(archiveOf("etc/motd", "hello", "etc/.wh.gone", "", "../out", "x"))
	f.Add(archiveOf("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]`, "c.json", `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}`, "l.tar", layer))
	f.Add(archiveOf("oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2}]}`))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		file := filepath.Join(dir, "a.tar")
		must(t, os.WriteFile(file, b, 0o600))
		im, err := OpenArchive(file, "", dir)
		if err != nil {
			return
		}
		defer im.Close()
		unpackAny(t, dir, im)
	})
}

// FuzzOpenLayout reads a layout whose index and manifest are any bytes.
func FuzzOpenLayout(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2}]}`), []byte(`{}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../x"}]}`), []byte(`[[[[`))
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		dir := t.TempDir()
		layout := filepath.Join(dir, "layout")
		must(t, os.MkdirAll(layout+"/blobs/sha256", 0o755))
		must(t, os.WriteFile(layout+"/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600))
		must(t, os.WriteFile(layout+"/index.json", index, 0o600))
		must(t, os.WriteFile(layout+"/blobs/sha256/0000000000000000000000000000000000000000000000000000000000000000", manifest, 0o600))
		im, err := OpenLayout(layout, "")
		if err != nil {
			return
		}
		defer im.Close()
		unpackAny(t, dir, im)
	})
}

func unpackAny(t *testing.T, dir string, im *Image) {
	t.Helper()
	s, _, err := OpenStore(filepath.Join(dir, "layers"))
	must(t, err)
	u, err := s.Unpack(t.Context(), im, Options{MaxBytes: 1 << 20, MaxEntries: 1000})
	if err == nil {
		must(t, u.Close())
	}
}
