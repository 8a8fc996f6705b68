package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// storageTree writes files into a new graph root.
func storageTree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// Ids of a container and two layers.
const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	hexC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

const storageConfigJSON = `{"ociVersion":"1.0.2","process":{"args":["x"]}}`

func TestStorageHostile(t *testing.T) {
	ctx := context.Background()
	container := func(layer string) string {
		return `[{"id":"` + hexA + `","names":["web"],"layer":"` + layer + `"},{"id":"../../secret"},{"id":7}]`
	}
	for name, test := range map[string]struct{ containers, layers string }{
		"loop of layers":   {container(hexB), `[{"id":"` + hexB + `","parent":"` + hexC + `"},{"id":"` + hexC + `","parent":"` + hexB + `"}]`},
		"layer that leads": {container("../../../../etc"), `[]`},
		"parent that is no id": {
			container(hexB), `[{"id":"` + hexB + `","parent":"../secret"},{"id":"../secret"}]`,
		},
		"no layer": {container(""), `null`},
	} {
		root := storageTree(t, map[string]string{
			"overlay-containers/containers.json":                   test.containers,
			"overlay-containers/" + hexA + "/userdata/config.json": storageConfigJSON,
			"overlay-layers/layers.json":                           test.layers,
			"overlay/" + hexB + "/diff/x":                          "", "overlay/" + hexC + "/diff/x": "",
		})
		store, c, listing := storageOf(t, root)
		if len(listing.Problems) == 0 {
			t.Errorf("%s: List() has no problem; want one for the records that are none", name)
		}
		if rootfs, err := store.Rootfs(ctx, c); !errors.Is(err, ErrIncomplete) {
			t.Errorf("%s: Rootfs() = %+v, %v; want %v", name, rootfs, err, ErrIncomplete)
		}
		if _, err := store.Spec(ctx, c); err != nil {
			t.Errorf("%s: Spec(): %v", name, err)
		}
		for _, id := range []string{"", hexB, "../overlay-containers/" + hexA} {
			if _, err := store.Spec(ctx, Container{ID: id}); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: Spec(%q): %v; want %v", name, id, err, ErrNotFound)
			}
		}
	}
}

// A link in the store that leads out of it is read as if the store were the
// whole file system.
func TestStorageLinks(t *testing.T) {
	outside := storageTree(t, map[string]string{"config.json": storageConfigJSON, "diff/x": ""})
	root := storageTree(t, map[string]string{
		"overlay-containers/containers.json": `[{"id":"` + hexA + `","layer":"` + hexB + `"}]`,
		"overlay-layers/layers.json":         `[{"id":"` + hexB + `","parent":"` + hexC + `"},{"id":"` + hexC + `"}]`,
		"overlay/" + hexB + "/diff/x":        "",
	})
	if err := os.MkdirAll(filepath.Join(root, "overlay-containers", hexA), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"overlay-containers/" + hexA + "/userdata": outside, "overlay/" + hexC: outside} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	store, c, _ := storageOf(t, root)
	if _, err := store.Spec(context.Background(), c); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Spec() through a link: %v; want %v", err, ErrIncomplete)
	}
	if rootfs, err := store.Rootfs(context.Background(), c); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Rootfs() through a link = %+v, %v; want %v", rootfs, err, ErrIncomplete)
	}
}

// The vfs driver has one tree for each layer, the container's included.
func TestStorageVFS(t *testing.T) {
	root := storageTree(t, map[string]string{
		"vfs-containers/containers.json": `[{"id":"` + hexA + `","names":["web"],"layer":"` + hexB + `"}]`,
		"vfs-layers/layers.json":         `[{"id":"` + hexB + `","parent":"` + hexC + `"},{"id":"` + hexC + `"}]`,
		"vfs/dir/" + hexB + "/x":         "", "vfs/dir/" + hexC + "/x": "",
	})
	store, c, _ := storageOf(t, root)
	rootfs, err := store.Rootfs(context.Background(), c)
	if want := filepath.Join(root, "vfs/dir", hexB); err != nil || len(rootfs.Layers) != 1 || rootfs.Layers[0] != want || rootfs.Upper != "" {
		t.Errorf("Rootfs() = %+v, %v; want %s alone", rootfs, err, want)
	}
	if err := store.(Verifier).VerifyRootfs(context.Background(), c, func(int64, int64) {}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("VerifyRootfs() = %v; want %v", err, ErrIncomplete)
	}
}

func TestStorageNothing(t *testing.T) {
	root := storageTree(t, map[string]string{"overlay-containers/containers.json": ""})
	store, err := openStorage(root)
	if err != nil {
		t.Fatal(err)
	}
	if listing, err := store.List(context.Background()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("List() of zero bytes = %+v, %v; want %v", listing, err, ErrIncomplete)
	}
	if _, err := openStorage(t.TempDir()); err == nil {
		t.Error("openStorage(empty directory): no error")
	}
}

func FuzzStorage(f *testing.F) {
	f.Add([]byte(`[{"id":"`+hexA+`","names":["web"],"layer":"`+hexB+`","metadata":"{\"name\":\"web\"}"}]`),
		[]byte(`[{"id":"`+hexB+`","parent":"`+hexC+`"},{"id":"`+hexC+`","parent":"`+hexB+`"}]`), []byte(storageConfigJSON))
	f.Add([]byte(`[{"id":"`+hexA+`","metadata":"{\"pod-name\":\"k8s_a_b_c_0\",\"name\":\"k8s_x_a_b_c_0\"}"},`), []byte(`null`),
		[]byte(`{"annotations":{"io.kubernetes.cri-o.Labels":"{}","io.container.manager":"cri-o"},"root":{"path":"/o/`+hexB+`/merged"}}`))
	f.Add([]byte("\x00\x00"), []byte(`[{"id":"../..","created":"x","diff-size":1e9}]`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, containers, layers, config []byte) {
		root := storageTree(t, map[string]string{
			"overlay-containers/containers.json":                   string(containers),
			"overlay-containers/" + hexA + "/userdata/config.json": string(config),
			"overlay-layers/layers.json":                           string(layers),
			"overlay/" + hexB + "/lower":                           string(config),
			"overlay/" + hexB + "/diff/x":                          "",
		})
		store, err := openStorage(root)
		if err != nil {
			t.Fatal(err)
		}
		listing, err := store.List(context.Background())
		if err != nil {
			return
		}
		_ = store.Kind()
		for _, c := range listing.Containers {
			_, _ = store.Spec(context.Background(), c)
			rootfs, err := store.Rootfs(context.Background(), c)
			if err != nil {
				continue
			}
			for _, dir := range append(rootfs.Layers, rootfs.Upper) {
				if dir != "" && !strings.HasPrefix(dir, filepath.Join(root, "overlay")+"/") {
					t.Errorf("Rootfs() has %s; want only directories of the store", dir)
				}
			}
		}
	})
}

// BenchmarkStorageList reads a store with 200 images of 10 layers and 500
// containers.
func BenchmarkStorageList(b *testing.B) {
	files := map[string]string{}
	var images, layers, containers []string
	for i := range 200 {
		parent := ""
		diffs := make([]digest.Digest, 10)
		for j := range diffs {
			diffs[j] = digest.FromString(fmt.Sprint(i, j))
			id := diffs[j].Encoded()
			layers = append(layers, fmt.Sprintf(`{"id":%q,"parent":%q,"diff-digest":%q,"diff-size":1}`, id, parent, diffs[j]))
			files["overlay/"+id+"/diff/file"], files["overlay-layers/"+id+".tar-split.gz"] = "", "is not read"
			parent = id
		}
		config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
		if err != nil {
			b.Fatal(err)
		}
		id := digest.FromBytes(config)
		files["overlay-images/"+id.Encoded()+"/"+bigDataName(id.String())] = string(config)
		images = append(images, fmt.Sprintf(`{"id":%q,"names":["localhost/app-%d:1"],"layer":%q,"digest":%q}`, id.Encoded(), i, parent, id))
	}
	for i := range 500 {
		id := fmt.Sprintf("%064x", i)
		containers = append(containers, fmt.Sprintf(`{"id":%q,"names":["app-%d"],"metadata":"{\"name\":\"app-%d\"}"}`, id, i, i))
		files["overlay-containers/"+id+"/userdata/config.json"] = storageConfigJSON
	}
	for kind, records := range map[string][]string{"images": images, "layers": layers, "containers": containers} {
		files["overlay-"+kind+"/"+kind+".json"] = "[" + strings.Join(records, ",") + "]"
	}
	root := storageTree(b, files)
	for b.Loop() {
		store, err := openStorage(root)
		if err != nil {
			b.Fatal(err)
		}
		listing, err := store.List(context.Background())
		if err != nil || len(listing.Containers) != 500 || len(listing.Images) != 200 || len(listing.Problems) != 0 {
			b.Fatalf("List() = %d containers, %d images, %v, %v", len(listing.Containers), len(listing.Images), listing.Problems, err)
		}
	}
}
