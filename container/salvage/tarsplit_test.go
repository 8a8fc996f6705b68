package salvage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc64"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
)

// TestSplitLayerHostile gives records that ask for more than a layer has.
func TestSplitLayerHostile(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	layer := filepath.Join(dir, "layer")
	if err := os.Mkdir(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": outside, "up": "../outside", "dir": dir} {
		if err := os.Symlink(target, filepath.Join(layer, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(layer, "large"), []byte("secret and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(layer, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	crc := crc64.Checksum([]byte("secret"), storage.CRCTable)
	sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc))
	for name, record := range map[string]string{
		"absolute link": `{"type":1,"name":"link","size":6,"payload":"` + sum + `"}`,
		"relative link": `{"type":1,"name":"up","size":6,"payload":"` + sum + `"}`,
		"dot dot":       `{"type":1,"name":"../outside","size":6,"payload":"` + sum + `"}`,
		"through a dir": `{"type":1,"name":"dir/outside","size":6,"payload":"` + sum + `"}`,
		"larger file":   `{"type":1,"name":"large","size":6,"payload":"` + sum + `"}`,
		"other content": `{"type":2,"payload":"c2VjcmV0IQ=="}`,
		"pipe":          `{"type":1,"name":"pipe","size":6,"payload":"` + sum + `"}`,
		"negative size": `{"type":1,"name":"x","size":-1,"payload":""}`,
		"unknown type":  `{"type":9,"size":1,"payload":""}`,
		"endless line":  `{"type":2,"payload":"` + strings.Repeat("A", maxSplitEntry+4) + `"}`,
		"no JSON":       `{"type":2,`,
	} {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		if _, err := io.WriteString(w, record); err != nil || w.Close() != nil {
			t.Fatal(err)
		}
		l := splitLayer{dir: layer, diffID: digest.FromString("secret"), open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(zipped.Bytes())), nil
		}}
		var out bytes.Buffer
		err := l.assemble(context.Background(), &out)
		// Only the digest tells of other content, at the end.
		if !errors.Is(err, ErrIncomplete) || out.Len() != 0 && name != "other content" {
			t.Errorf("assemble(%s) = %v with %d bytes; want %v and none", name, err, out.Len(), ErrIncomplete)
		}
	}
}

// FuzzSplitLayer gives records and archives to a layer whose links lead to a
// secret outside.
func FuzzSplitLayer(f *testing.F) {
	const secret = "the secret outside"
	dir := f.TempDir()
	layer := filepath.Join(dir, "layer")
	if err := errors.Join(os.Mkdir(layer, 0o755), os.WriteFile(filepath.Join(dir, "outside"), []byte(secret), 0o600),
		os.WriteFile(filepath.Join(layer, "file"), []byte("file\n"), 0o600), os.Symlink("../outside", filepath.Join(layer, "link")), os.Symlink(dir, filepath.Join(layer, "dir"))); err != nil {
		f.Fatal(err)
	}
	var archive, record bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, header := range []tar.Header{
		{Name: "file", Typeflag: tar.TypeReg, Size: 5},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "../outside"},
		{Name: "dir/.wh.x", Typeflag: tar.TypeReg},
		{Name: "dir/outside", Typeflag: tar.TypeReg, Size: int64(len(secret))},
	} {
		content := "file\n"
		if header.Name != "file" {
			content = secret
		}
		if err := w.WriteHeader(&header); err != nil {
			f.Fatal(err)
		}
		if _, err := io.WriteString(w, content[:header.Size]); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	read, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(archive.Bytes()), storage.NewJSONPacker(&record), nil)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, read); err != nil {
		f.Fatal(err)
	}
	if err := <-done; err != nil {
		f.Fatal(err)
	}
	f.Add(record.Bytes(), archive.Bytes())
	f.Add([]byte(`{"type":1,"name":"file","size":5,"payload":"AAAAAAAAAAA="}{"type":2,"payload":"AA=="}`), archive.Bytes()[:700])
	f.Add([]byte(`{"type":1,"name_raw":"Li4vb3V0c2lkZQ==","size":18}`), []byte{})
	f.Fuzz(func(t *testing.T, record, archive []byte) {
		var zipped, out bytes.Buffer
		z := gzip.NewWriter(&zipped)
		if _, err := z.Write(record); err != nil || z.Close() != nil {
			t.Fatal(err)
		}
		l := splitLayer{dir: layer, diffID: digest.FromBytes(archive), open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(zipped.Bytes())), nil
		}}
		_, _ = l.archiveSize(context.Background())
		err := l.verify(context.Background(), &out)
		if err == nil && !bytes.Equal(out.Bytes(), archive) {
			t.Errorf("verify() = nil for %q; want an error, or the archive %q", out.Bytes(), archive)
		}
		if bytes.Contains(out.Bytes(), []byte(secret)) && !bytes.Contains(record, []byte(secret)) && !bytes.Contains(record, []byte(base64.StdEncoding.EncodeToString([]byte(secret))[:20])) {
			t.Errorf("verify() wrote %q; want nothing from outside the layer", out.Bytes())
		}
		if names, err := splitNames(bytes.NewReader(archive)); err == nil {
			_ = l.compare(context.Background(), names)
		}
	})
}
