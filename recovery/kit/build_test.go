package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// readBlob reads a blob of a kit as a whole.
func readAll(t testing.TB, l *Layout, b Blob) []byte {
	t.Helper()
	c, err := l.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestBuildKeepsEverythingOfTheTree(t *testing.T) {
	tree, im := newTree(t)
	l, built := build(t, tree, filepath.Join(t.TempDir(), "kit"), options(im))
	s, err := l.Load("site-a")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Parse(s.Document, "v1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(d, built.Document) || s.Digest() != built.Digest {
		t.Errorf("the document in the layout is not the one that Build returned")
	}
	if d.Name != "site-a" || d.Epoch != 1 || !d.SignedAt.Equal(noon) || !d.FreshUntil.Equal(noon.AddDate(0, 0, 30)) || d.Previous != "" {
		t.Errorf("document = %s epoch %d %v until %v after %q; want site-a, 1, noon, 30 days later, nothing", d.Name, d.Epoch, d.SignedAt, d.FreshUntil, d.Previous)
	}
	file, _ := d.Artifact("etcdctl")
	if got := readAll(t, l, file.Blobs[0]); !bytes.Equal(got, words(1, 2*MaxContent+1234)) || len(file.Blobs[0].Chunks) != 3 {
		t.Errorf("etcdctl = %d bytes in %d chunks; want the file's in 3", len(got), len(file.Blobs[0].Chunks))
	}
	if want := time.Date(2026, 2, 28, 10, 0, 0, 0, time.UTC); !file.CapturedAt.Equal(want) {
		t.Errorf("captured_at = %v; want %v", file.CapturedAt, want)
	}
	image, _ := d.Artifact("etcd")
	var m ocispec.Manifest
	if err := json.Unmarshal(readAll(t, l, image.Blobs[0]), &m); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, l, image.Blobs[1]); !bytes.Equal(got, im.config) || m.Config.Digest != digest.FromBytes(got) {
		t.Errorf("configuration = %s; want the image's own bytes", got)
	}
	for i, layer := range m.Layers {
		b := image.Blobs[2+i]
		if layer.Digest != im.order[i] || layer.Digest != b.Digest || layer.Size != b.Size || !bytes.Equal(readAll(t, l, b), im.tars[layer.Digest]) {
			t.Errorf("layer %d = %+v; want the tar %s", i, layer, im.order[i])
		}
	}
	if got := string(d.Services[0].Spec); got != `{"args":["etcd","--force-new-cluster"],"cpus":1.5,"name":"etcd"}` {
		t.Errorf("spec = %s; want the file as JSON", got)
	}
	if got := string(d.Capabilities[0].Spec); got != `{"http":[{"host":"packages","methods":["GET"]}]}` {
		t.Errorf("capability = %s; want the mapping as JSON", got)
	}
	if d.Names[1].Zone == "" || d.Policy[0] != (Text{"access.yaml", "allow: <all>\n"}) || d.Runbooks[0].Name != "etcd.yaml" || len(d.Contacts) != 1 || len(d.Revoked) != 1 {
		t.Errorf("texts = %+v %+v %+v %+v; want those of the tree", d.Names, d.Policy, d.Runbooks, d.Contacts)
	}
}

func TestFramesAreAZstdFile(t *testing.T) {
	l, built := newKit(t)
	a, _ := built.Document.Artifact("etcdctl")
	var all []byte
	for _, c := range a.Blobs[0].Chunks {
		b, err := os.ReadFile(filepath.Join(l.Dir(), blobPath(c.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	c := exec.Command("zstd", "-dc")
	c.Stdin = bytes.NewReader(all)
	got, err := c.Output()
	if err != nil || digest.FromBytes(got) != a.Digest {
		t.Errorf("zstd -dc of the frames = %d bytes, %v; want the artifact", len(got), err)
	}
}

func TestBuildIsReproducible(t *testing.T) {
	tree, im := newTree(t)
	a, _ := build(t, tree, filepath.Join(t.TempDir(), "a"), options(im))
	b, _ := build(t, tree, filepath.Join(t.TempDir(), "b"), options(im))
	left, _ := snapshot(t, a.Dir())
	right, _ := snapshot(t, b.Dir())
	if !maps.Equal(left, right) {
		t.Error("two builds of the same tree, epoch and time differ")
	}
}

func TestBuildTwiceWritesOnlyWhatChanged(t *testing.T) {
	tree, im := newTree(t)
	dir := filepath.Join(t.TempDir(), "kit")
	l, first := build(t, tree, dir, options(im))
	if err := l.Sign("", []byte(someSignature)); err != nil {
		t.Fatal(err)
	}
	before, files := snapshot(t, dir)
	opened := im.opened

	o := options(im)
	o.Epoch = 1
	_, same := build(t, tree, dir, o)
	after, now := snapshot(t, dir)
	if !maps.Equal(before, after) || same.Written != 0 || same.Signed != 1 || im.opened != opened {
		t.Errorf("the same build again: %d frames written, %d signatures kept, %d layers opened; want 0, 1, 0", same.Written, same.Signed, im.opened-opened)
	}
	for name := range files {
		if strings.HasPrefix(name, "blobs/") && files[name] != now[name] {
			t.Errorf("%s was written again", name)
		}
	}

	write(t, filepath.Join(tree.Dir, "bin/etcdctl"), string(words(1, 2*MaxContent))+"changed")
	_, next := build(t, tree, dir, options(im))
	if next.Written != 1 || next.Document.Epoch != 2 || next.Document.Previous != first.Digest || next.Signed != 0 {
		t.Errorf("build of a changed tree = %d frames, epoch %d after %s, %d signatures; want 1 frame, epoch 2 after %s, none", next.Written, next.Document.Epoch, next.Document.Previous, next.Signed, first.Digest)
	}
	left, _ := snapshot(t, dir)
	for name := range before {
		old, _ := first.Document.Artifact("etcdctl")
		if name == blobPath(old.Blobs[0].Chunks[2].Digest) {
			if _, ok := left[name]; ok {
				t.Errorf("the frame that is no longer needed is still there")
			}
		}
	}
	if want := next.Frames + 5; len(left) != want {
		// oci-layout, index.json, manifest, configuration, document
		t.Errorf("the layout holds %d files; want %d", len(left), want)
	}

	o.Epoch = 1
	if _, err := Build(t.Context(), tree, dir, o); !errors.Is(err, ErrRollback) {
		t.Errorf("Build(epoch 1) over epoch 2 = %v; want ErrRollback", err)
	}
	if err := l.Sign("", []byte(someSignature)); err != nil {
		t.Fatal(err)
	}
	o.Epoch, o.SignedAt = 2, noon.Add(time.Second)
	if _, err := Build(t.Context(), tree, dir, o); !errors.Is(err, ErrRollback) {
		t.Errorf("Build() of another kit with a signed epoch = %v; want ErrRollback", err)
	}
}

func TestBuildRepairsDamage(t *testing.T) {
	tree, im := newTree(t)
	dir := filepath.Join(t.TempDir(), "kit")
	l, first := build(t, tree, dir, options(im))
	a, _ := first.Document.Artifact("etcd")
	bad := filepath.Join(dir, blobPath(a.Blobs[2].Chunks[0].Digest))
	write(t, bad, strings.Repeat("x", int(a.Blobs[2].Chunks[0].Size)))
	build(t, tree, dir, options(im))
	if gaps, err := l.Missing(t.Context(), first.Document.Artifacts); err != nil || len(gaps) > 0 {
		t.Errorf("Missing() after a second build = %v, %v; want none", gaps, err)
	}
}

func TestFailedBuildLeavesTheOldKit(t *testing.T) {
	broken := errors.New("no more electricity")
	for name, c := range map[string]struct {
		spoil func(*testing.T, *Tree, *testImage, *BuildOptions)
		want  error
	}{
		"a file that is not there": {func(_ *testing.T, tree *Tree, _ *testImage, _ *BuildOptions) { tree.Artifacts[0].File = "gone" }, os.ErrNotExist},
		"a layer that is not what it says": {func(_ *testing.T, _ *Tree, im *testImage, _ *BuildOptions) {
			im.tars[im.order[1]] = []byte("other")
		}, ErrVerification},
		"a configuration with other layers": {func(_ *testing.T, _ *Tree, im *testImage, _ *BuildOptions) { im.order = im.order[:1] }, ErrVerification},
		"a write that fails": {func(_ *testing.T, _ *Tree, _ *testImage, o *BuildOptions) {
			o.Split = func(ctx context.Context, r io.Reader, put func(digest.Digest, []byte) error) (Blob, error) {
				return split(ctx, r, func(d digest.Digest, b []byte) error {
					if len(b) > 1000 {
						return broken
					}
					return put(d, b)
				})
			}
		}, broken},
		"two artifacts of a name": {func(_ *testing.T, tree *Tree, _ *testImage, _ *BuildOptions) {
			tree.Artifacts = append(tree.Artifacts, tree.Artifacts[0])
		}, ErrInvalid},
		"a needed artifact that is not there": {func(_ *testing.T, tree *Tree, _ *testImage, _ *BuildOptions) {
			tree.Artifacts[0].Needs = []string{"nothing"}
		}, ErrInvalid},
		"artifacts that need each other": {func(_ *testing.T, tree *Tree, _ *testImage, _ *BuildOptions) {
			tree.Artifacts[0].Needs = []string{"etcd"}
		}, ErrInvalid},
		"what is revoked": {func(_ *testing.T, tree *Tree, im *testImage, _ *BuildOptions) {
			tree.Revoked = []string{im.order[0].String()}
		}, ErrInvalid},
		"an empty file": {func(t *testing.T, tree *Tree, _ *testImage, _ *BuildOptions) {
			write(t, filepath.Join(tree.Dir, "bin/etcdctl"), "")
		}, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tree, im := newTree(t)
			dir := filepath.Join(t.TempDir(), "kit")
			l, first := build(t, tree, dir, options(im))
			tree2, _ := newTree(t)
			im2 := newImage(t, words(8, MaxContent+9), words(9, 5000))
			write(t, filepath.Join(tree2.Dir, "bin/etcdctl"), "another file")
			o := options(im2)
			c.spoil(t, &tree2, im2, &o)
			if _, err := Build(t.Context(), tree2, dir, o); !errors.Is(err, c.want) {
				t.Fatalf("Build() = %v; want %v", err, c.want)
			}
			s, err := l.Load("")
			if err != nil || s.Digest() != first.Digest {
				t.Errorf("after a failed build Load() = %s, %v; want the old kit", s.Digest(), err)
			}
			if gaps, err := l.Missing(t.Context(), first.Document.Artifacts); err != nil || len(gaps) > 0 {
				t.Errorf("after a failed build Missing() = %v, %v; want none", gaps, err)
			}
			// What it left is gone with the next one.
			_, again := build(t, tree, dir, options(im))
			if left, _ := snapshot(t, dir); len(left) != again.Frames+5 {
				t.Errorf("the layout holds %d files; want %d", len(left), again.Frames+5)
			}
		})
	}
}

func TestSecondBuildAtTheSameTimeIsRefused(t *testing.T) {
	tree, im := newTree(t)
	l, _ := build(t, tree, filepath.Join(t.TempDir(), "kit"), options(im))
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), tree, l.Dir(), options(im)); err == nil {
		t.Error("Build() beside another = nil; want an error")
	}
	unlock()
	if _, err := Build(t.Context(), tree, l.Dir(), options(im)); err != nil {
		t.Errorf("Build() afterwards = %v; want nil", err)
	}
}

func TestCancelledBuildEnds(t *testing.T) {
	tree, im := newTree(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, tree, filepath.Join(t.TempDir(), "kit"), options(im)); !errors.Is(err, context.Canceled) {
		t.Errorf("Build() = %v; want context.Canceled", err)
	}
}

func TestBuildDoesNotMoveInWithOthers(t *testing.T) {
	tree, im := newTree(t)
	if _, err := Build(t.Context(), tree, tree.Dir, options(im)); !errors.Is(err, ErrInvalid) {
		t.Errorf("Build() into the source's own directory = %v; want ErrInvalid", err)
	}
}
