package kit

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestMissingIsTheExactSet(t *testing.T) {
	l, built := newKit(t)
	arts := built.Document.Artifacts
	if gaps, err := l.Missing(t.Context(), arts); err != nil || len(gaps) != 0 {
		t.Fatalf("Missing() of a whole kit = %v, %v; want none", gaps, err)
	}
	file, image := arts[0], arts[1]
	gone, flipped, short, link := file.Blobs[0].Chunks[0], file.Blobs[0].Chunks[2], image.Blobs[2].Chunks[0], image.Blobs[2].Chunks[1]
	pipe := image.Blobs[3].Chunks[0]
	at := func(c Chunk) string { return filepath.Join(l.Dir(), blobPath(c.Digest)) }
	b, err := os.ReadFile(at(flipped))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	keep := filepath.Join(t.TempDir(), "frame")
	for _, err := range []error{
		os.Remove(at(gone)), os.WriteFile(at(flipped), b, 0o644), os.Truncate(at(short), short.Size-1),
		os.Rename(at(link), keep), os.Symlink(keep, at(link)),
		os.Remove(at(pipe)), syscall.Mkfifo(at(pipe), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []Gap{
		{gone, []string{"etcdctl"}, false},
		{flipped, []string{"etcdctl"}, true},
		{short, []string{"etcd"}, true},
		{link, []string{"etcd"}, true},
		{pipe, []string{"etcd"}, true},
	}
	gaps, err := l.Missing(t.Context(), arts)
	if err != nil || !reflect.DeepEqual(gaps, want) {
		t.Errorf("Missing() = %+v, %v; want %+v", gaps, err, want)
	}
	if gaps, err := l.Missing(t.Context(), arts[1:]); err != nil || len(gaps) != 3 {
		t.Errorf("Missing(etcd) = %+v, %v; want its 3 gaps", gaps, err)
	}
	for _, c := range []struct {
		blob Blob
		want error
	}{{file.Blobs[0], ErrNotFound}, {image.Blobs[2], ErrVerification}, {image.Blobs[3], ErrInvalid}} {
		r, err := l.Open(c.blob)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadAt(make([]byte, 10), 0); !errors.Is(err, c.want) {
			t.Errorf("ReadAt() = %v; want %v", err, c.want)
		}
		r.Close()
	}
}

func TestPutChecksAndReplacesDamage(t *testing.T) {
	l, built := newKit(t)
	c := built.Document.Artifacts[0].Blobs[0].Chunks[0]
	path := filepath.Join(l.Dir(), blobPath(c.Digest))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Put(c.Digest, good[1:]); !errors.Is(err, ErrVerification) {
		t.Errorf("Put() of other bytes = %v; want ErrVerification", err)
	}
	if wrote, err := l.Put(c.Digest, good); wrote || err != nil {
		t.Errorf("Put() of what is there = %v, %v; want false", wrote, err)
	}
	for name, spoil := range map[string]func() error{
		"gone":   func() error { return os.Remove(path) },
		"other":  func() error { return os.WriteFile(path, good[1:], 0o644) },
		"a link": func() error { return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if wrote, err := l.Put(c.Digest, good); !wrote || err != nil {
			t.Errorf("Put() where the frame is %s = %v, %v; want true", name, wrote, err)
		}
		if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
			t.Errorf("after Put() the frame is %v, %v; want a file", st.Mode(), err)
		}
	}
	if _, err := l.Put("sha256:../../../x", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("Put() with a path = %v; want ErrInvalid", err)
	}
}

func TestReadAtAnyOffset(t *testing.T) {
	l, built := newKit(t)
	a, _ := built.Document.Artifact("etcdctl")
	want := bytes.NewReader(words(1, 2*MaxContent+1234))
	c, err := l.Open(a.Blobs[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, at := range [][2]int64{
		{0, 10},
		{MaxContent - 5, 10},
		{2*MaxContent - 1, 2},
		{0, 2*MaxContent + 1234},
		{2*MaxContent + 1230, 4},
		{2*MaxContent + 1230, 5},
		{2*MaxContent + 1234, 1},
		{1 << 40, 1},
		{17, 0},
		{MaxContent, MaxContent},
	} {
		p, q := make([]byte, at[1]), make([]byte, at[1])
		n, err := c.ReadAt(p, at[0])
		m, wantErr := want.ReadAt(q, at[0])
		if n != m || !bytes.Equal(p, q) || (at[1] > 0 && !errors.Is(err, wantErr)) {
			t.Errorf("ReadAt(%d bytes, %d) = %d, %v; want %d, %v", at[1], at[0], n, err, m, wantErr)
		}
	}
	if _, err := c.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("ReadAt(-1) = nil; want an error")
	}
}

func TestFrameThatGrowsIsStopped(t *testing.T) {
	l, _ := newKit(t)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	// 256 MiB of zeros: one frame says so in its header, the other does not.
	frank := enc.EncodeAll(make([]byte, 1<<28), nil)
	var sly bytes.Buffer
	stream, err := zstd.NewWriter(&sly)
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		if _, err := stream.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	for length, bomb := range map[int64][]byte{1000: frank, 2000: sly.Bytes(), MaxContent: frank, MaxContent - 1: sly.Bytes()} {
		if _, err := l.Put(digest.FromBytes(bomb), bomb); err != nil {
			t.Fatal(err)
		}
		c, err := l.Open(Blob{Digest: digest.FromString("x"), Size: length, Chunks: []Chunk{{digest.FromBytes(bomb), int64(len(bomb)), length}}})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = c.ReadAt(make([]byte, 1), 0)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrVerification) {
			t.Errorf("ReadAt() of a frame of 256 MiB that promises %d bytes = %v; want ErrVerification", length, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 4*MaxContent {
			t.Errorf("ReadAt() of a frame of 256 MiB allocated %d bytes; want at most %d", used, 4*MaxContent)
		}
		c.Close()
	}
	less := enc.EncodeAll([]byte("less"), nil)
	if _, err := l.Put(digest.FromBytes(less), less); err != nil {
		t.Fatal(err)
	}
	c, err := l.Open(Blob{Digest: digest.FromString("x"), Size: 5, Chunks: []Chunk{{digest.FromBytes(less), int64(len(less)), 5}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.ReadAll(io.NewSectionReader(c, 0, 5)); !errors.Is(err, ErrVerification) {
		t.Errorf("ReadAt() of a frame that is shorter = %v; want ErrVerification", err)
	}
}

func TestBadLayouts(t *testing.T) {
	l, built := newKit(t)
	index, err := os.ReadFile(filepath.Join(l.Dir(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	raw, m, err := l.Manifest("")
	if err != nil {
		t.Fatal(err)
	}
	manifest := filepath.Join(l.Dir(), blobPath(digest.FromBytes(raw)))
	document := filepath.Join(l.Dir(), blobPath(built.Digest))
	etc, err := filepath.Rel(filepath.Join(l.Dir(), "blobs/sha256"), "/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(l.Dir(), name) }
	for name, c := range map[string]struct {
		path  string
		spoil func(path string) error
		want  error
	}{
		"no oci-layout":           {in("oci-layout"), os.Remove, ErrInvalid},
		"another version":         {in("oci-layout"), text(`{"imageLayoutVersion":"2.0.0"}`), ErrInvalid},
		"a link for index.json":   {in("index.json"), link("/etc/hostname"), ErrInvalid},
		"an index that is none":   {in("index.json"), text("{"), ErrInvalid},
		"a huge index":            {in("index.json"), func(p string) error { return os.Truncate(p, maxManifest+1) }, ErrInvalid},
		"an empty index":          {in("index.json"), text("{}"), ErrNotFound},
		"a path for a digest":     {in("index.json"), text(`{"manifests":[{"digest":"sha256:../../../../etc/hostname","size":1}]}`), ErrInvalid},
		"a manifest with a byte":  {manifest, text(string(raw) + " "), ErrVerification},
		"a manifest that is gone": {manifest, os.Remove, ErrNotFound},
		"a link for the document": {document, link(etc), ErrInvalid},
		"a pipe for the document": {document, func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o644)) }, ErrInvalid},
		"a huge document":         {document, func(p string) error { return os.Truncate(p, MaxDocument+1) }, ErrInvalid},
		"a document cut short":    {document, func(p string) error { return os.Truncate(p, 100) }, ErrVerification},
	} {
		before, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(c.path); err != nil {
			t.Fatal(err)
		}
		if again, err := OpenLayout(l.Dir()); err == nil {
			_, err = again.Load("")
			again.Close()
			if !errors.Is(err, c.want) {
				t.Errorf("Load() with %s = %v; want %v", name, err, c.want)
			}
		} else if !errors.Is(err, c.want) {
			t.Errorf("OpenLayout() with %s = %v; want %v", name, err, c.want)
		}
		if err := errors.Join(os.RemoveAll(c.path), os.WriteFile(c.path, before, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Load("other"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "site-a") {
		t.Errorf("Load(other) = %v; want ErrNotFound and what there is", err)
	}
	two := strings.Replace(string(index), `"manifests":[`, `"manifests":[{"digest":"`+string(m.Config.Digest)+`","size":1},`, 1)
	write(t, in("index.json"), two)
	if _, err := l.Load(""); !errors.Is(err, ErrInvalid) {
		t.Errorf("Load() of one among two = %v; want ErrInvalid", err)
	}
	if err := errors.Join(os.Rename(in("blobs"), in("else")), os.Symlink("else", in("blobs"))); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLayout(l.Dir()); !errors.Is(err, ErrInvalid) {
		t.Errorf("OpenLayout() with a link for blobs = %v; want ErrInvalid", err)
	}
}

func text(s string) func(string) error {
	return func(p string) error { return os.WriteFile(p, []byte(s), 0o644) }
}

func link(to string) func(string) error {
	return func(p string) error { return errors.Join(os.Remove(p), os.Symlink(to, p)) }
}

func TestStoreMakesAKitOfWhatWasLoaded(t *testing.T) {
	from, built := newKit(t)
	if err := from.Sign("site-a", []byte(someSignature)); err != nil {
		t.Fatal(err)
	}
	s, err := from.Load("")
	if err != nil {
		t.Fatal(err)
	}
	to, err := CreateLayout(filepath.Join(t.TempDir(), "new", "kit"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if err := to.Store("other", s); !errors.Is(err, ErrInvalid) {
		t.Errorf("Store() under another name = %v; want ErrInvalid", err)
	}
	if err := to.Store("site-a", s); err != nil {
		t.Fatal(err)
	}
	got, err := to.Load("")
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("Load() of what was stored = %v; want the same kit", err)
	}
	gaps, err := to.Missing(t.Context(), built.Document.Artifacts)
	if err != nil || len(gaps) != built.Frames {
		t.Fatalf("Missing() = %d frames, %v; want all %d", len(gaps), err, built.Frames)
	}
	for _, g := range gaps {
		b, err := os.ReadFile(filepath.Join(from.Dir(), blobPath(g.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.Put(g.Digest, b); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := snapshot(t, from.Dir())
	right, _ := snapshot(t, to.Dir())
	if !reflect.DeepEqual(left, right) {
		t.Error("the copy is not the kit it was made of, byte for byte")
	}
}

func TestSignChangesManifestAndIndexOnly(t *testing.T) {
	l, _ := newKit(t)
	before, was := snapshot(t, l.Dir())
	for range 2 { // the second is the same signature
		if err := l.Sign("", []byte(someSignature)); err != nil {
			t.Fatal(err)
		}
	}
	after, is := snapshot(t, l.Dir())
	changed := 0
	for name := range after {
		if before[name] != after[name] || was[name] != is[name] {
			changed++
		}
	}
	if changed != 3 || len(after) != len(before)+1 {
		t.Errorf("Sign() changed %d files, there are %d more; want 3 (index, manifest, signature) and 1", changed, len(after)-len(before))
	}
	if s, err := l.Load(""); err != nil || len(s.Signatures) != 1 || string(s.Signatures[0]) != someSignature {
		t.Errorf("Load() = %d signatures, %v; want the one", len(s.Signatures), err)
	}
	if err := l.Sign("", []byte("hello")); !errors.Is(err, ErrInvalid) {
		t.Errorf("Sign(hello) = %v; want ErrInvalid", err)
	}
	_, m, err := l.Manifest("")
	if err != nil || m.Config.MediaType != ocispec.MediaTypeImageConfig || m.Layers[0].MediaType != MediaType || m.Layers[1].MediaType != MediaTypeSignature || m.Layers[2].MediaType != MediaTypeFrame {
		t.Errorf("Manifest() = %+v, %v; want document, signature, frames", m, err)
	}
}
