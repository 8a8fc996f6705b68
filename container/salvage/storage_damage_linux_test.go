package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func checkStorageVerify(t *testing.T, p *podman) {
	ctx := context.Background()
	root := p.copied(t)
	store, c, _ := storageOf(t, root)
	var done, total int64
	if err := store.(Verifier).VerifyRootfs(ctx, c, func(d, n int64) { done, total = d, n }); err != nil || done != total || total == 0 {
		t.Errorf("VerifyRootfs() = %v, %d of %d bytes; want all", err, done, total)
	}
	rootfs, err := store.Rootfs(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(rootfs.Layers[1], "etc/app"), 0); err != nil {
		t.Fatal(err)
	}
	if err := store.(Verifier).VerifyRootfs(ctx, c, func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "etc/app") {
		t.Errorf("VerifyRootfs() with etc/app truncated = %v; want it named", err)
	}
	if err := os.WriteFile(filepath.Join(rootfs.Layers[1], "etc/app"), []byte("app\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	extra := filepath.Join(rootfs.Layers[0], "bin/rootkit")
	if err := os.WriteFile(extra, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := store.(Verifier).VerifyRootfs(ctx, c, nil); err == nil || !strings.Contains(err.Error(), "bin/rootkit") {
		t.Errorf("VerifyRootfs() with bin/rootkit = %v; want it named", err)
	}
	if err := errors.Join(os.Remove(extra), os.Remove(filepath.Join(rootfs.Layers[1], "etc/link"))); err != nil {
		t.Fatal(err)
	}
	if err := store.(Verifier).VerifyRootfs(ctx, c, nil); err == nil || !strings.Contains(err.Error(), "etc/link") {
		t.Errorf("VerifyRootfs() without etc/link = %v; want it named", err)
	}
	if err := os.RemoveAll(rootfs.Layers[1]); err != nil {
		t.Fatal(err)
	}
	store, c, listing := storageOf(t, root)
	if len(listing.Problems) == 0 || len(listing.Images) != 1 {
		t.Errorf("List() without a layer = %+v; want a problem, and the image by name", listing)
	}
	if _, err := store.Rootfs(ctx, c); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Rootfs() without a layer: %v; want %v", err, ErrIncomplete)
	}
	if _, err := (&Host{Stores: []Store{store}}).LookupImage(ctx, "", testImage); !errors.Is(err, ErrIncomplete) {
		t.Errorf("LookupImage() without a layer: %v; want %v", err, ErrIncomplete)
	}
}

// checkStorageDamaged empties or cuts the files of records, as a power cut does.
func checkStorageDamaged(t *testing.T, p *podman, said inspected) {
	const containers, layers, images = "overlay-containers/containers.json", "overlay-layers/layers.json", "overlay-images/images.json"
	for _, test := range []struct {
		name  string
		files []string
		size  int64
	}{
		{"containers.json empty", []string{containers}, 0},
		{"containers.json cut", []string{containers}, 100},
		{"layers.json empty", []string{layers}, 0},
		{"all empty", []string{containers, layers, images}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := p.copied(t)
			for _, file := range test.files {
				if err := os.Truncate(filepath.Join(root, file), test.size); err != nil {
					t.Fatal(err)
				}
			}
			store, c, listing := storageOf(t, root)
			if c.ID != p.id || c.Name != said.Name || c.Image != said.ImageName || c.Created.Sub(said.Created).Abs() > time.Second {
				t.Errorf("List() has %+v; want %s (%s) of %s, made %s", c, p.id, said.Name, said.ImageName, said.Created)
			}
			if len(listing.Problems) < len(test.files) {
				t.Errorf("List() has the problems %v; want one for each of %s", listing.Problems, test.files)
			}
			if spec, err := store.Spec(context.Background(), c); err != nil || !slices.Equal(spec.Process.Args, said.Config.Cmd) {
				t.Errorf("Spec() = %+v, %v; want %q", spec, err, said.Config.Cmd)
			}
			moved := said
			moved.GraphDriver.Data.LowerDir = strings.ReplaceAll(said.GraphDriver.Data.LowerDir, p.root, root)
			moved.GraphDriver.Data.UpperDir = strings.ReplaceAll(said.GraphDriver.Data.UpperDir, p.root, root)
			checkStorageRootfs(t, store, c, moved)
		})
	}
}

// checkStorageCRIO writes the records of Podman's container the way CRI-O does.
func checkStorageCRIO(t *testing.T, p *podman) {
	root := p.copied(t)
	dir := filepath.Join(root, "overlay-containers")
	edit := func(file, to string, change func(list []map[string]any)) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var list []map[string]any
		if file != "containers.json" {
			data = slices.Concat([]byte("["), data, []byte("]"))
		}
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		change(list)
		var changed any = list
		if file != "containers.json" {
			changed = list[0]
		}
		if data, err = json.Marshal(changed); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const uid = "_shop_5e0b9a3c-3f63-4f0e-8a34-0d4b8c8a4a59_0"
	record := func(podID, name string) {
		t.Helper()
		edit("containers.json", "volatile-containers.json", func(list []map[string]any) {
			metadata, _ := json.Marshal(map[string]any{
				"pod-name": "k8s_web-0" + uid, "pod-id": podID, "image-name": testImage,
				"name": "k8s_" + name + "_web-0" + uid, "metadata-name": name, "created-at": 1,
			})
			list[0]["metadata"], list[0]["names"] = string(metadata), []string{"k8s_" + name + "_web-0" + uid}
		})
	}
	check := func(what string, sandbox bool, name string) {
		t.Helper()
		store, c, _ := storageOf(t, root)
		if store.Kind() != CRIO || c.Store != CRIO || c.Name != name || c.Pod != "web-0" || c.PodNamespace != "shop" || c.Sandbox != sandbox || c.Image != testImage {
			t.Errorf("%s: List() has %+v in %s; want %s, sandbox %t", what, c, store.Kind(), name, sandbox)
		}
		if rootfs, err := store.Rootfs(context.Background(), c); err != nil || len(rootfs.Layers) != 2 {
			t.Errorf("%s: Rootfs() = %+v, %v; want two layers", what, rootfs, err)
		}
	}
	config := filepath.Join(p.id, "userdata/config.json")
	annotate := func(annotations map[string]string) {
		t.Helper()
		edit(config, config, func(list []map[string]any) { list[0]["annotations"] = annotations })
	}
	annotate(nil)
	record(p.id, "POD")
	if err := os.Rename(filepath.Join(dir, "containers.json"), filepath.Join(dir, "before.json")); err != nil {
		t.Fatal(err)
	}
	check("sandbox by its metadata alone", true, "web-0")
	if err := os.Rename(filepath.Join(dir, "before.json"), filepath.Join(dir, "containers.json")); err != nil {
		t.Fatal(err)
	}
	record(hexA, "nginx")
	if err := os.Remove(filepath.Join(dir, "containers.json")); err != nil {
		t.Fatal(err)
	}
	check("metadata alone", false, "web-0/nginx")
	annotate(map[string]string{
		annotationManager: "cri-o", annotationType: "sandbox", labelPod: "web-0", labelPodNamespace: "shop", labelContainer: "POD",
		annotationCRIO + "ImageName": testImage,
	})
	check("sandbox", true, "web-0")
	annotate(map[string]string{
		annotationManager: "cri-o", annotationType: "container", annotationCRIO + "ImageName": testImage,
		annotationCRIO + "Labels": `{"` + labelPod + `":"web-0","` + labelPodNamespace + `":"shop","` + labelContainer + `":"nginx"}`,
	})
	if err := os.Truncate(filepath.Join(dir, "volatile-containers.json"), 0); err != nil {
		t.Fatal(err)
	}
	check("annotations alone", false, "web-0/nginx")
}
