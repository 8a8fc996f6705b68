package salvage

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"
)

const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// anySpec wraps JSON as containerd does.
func anySpec(url string, value []byte) []byte {
	data := protowire.AppendTag(nil, 1, protowire.BytesType)
	data = protowire.AppendString(data, url)
	data = protowire.AppendTag(data, 2, protowire.BytesType)
	return protowire.AppendBytes(data, value)
}

// typicalSpec is about as large as CRI's, 10 KB.
func typicalSpec(t testing.TB) []byte {
	t.Helper()
	spec := specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/bin/app"}, Cwd: "/"},
		Linux:   &specs.Linux{CgroupsPath: "kubepods.slice:cri-containerd:abc", Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}},
	}
	for i := range 300 {
		spec.Linux.Seccomp.Syscalls = append(spec.Linux.Seccomp.Syscalls, specs.LinuxSyscall{Names: []string{fmt.Sprintf("syscall_%d", i)}})
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// putAll writes values into nested buckets, made as needed: "a/b/key", where
// "|" stands for a slash inside a name.
func putAll(tx *bbolt.Tx, values map[string][]byte) error {
	for path, value := range values {
		names := strings.Split(path, "/")
		for i := range names {
			names[i] = strings.ReplaceAll(names[i], "|", "/")
		}
		b, err := tx.CreateBucketIfNotExists([]byte(names[0]))
		for _, name := range names[1 : len(names)-1] {
			if err != nil {
				return err
			}
			b, err = b.CreateBucketIfNotExists([]byte(name))
		}
		if err != nil {
			return err
		}
		if err := b.Put([]byte(names[len(names)-1]), value); err != nil {
			return err
		}
	}
	return nil
}

// makeStore writes a containerd root with a metadata database alone.
func makeStore(t testing.TB, values map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, containerdMetadata)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(makeBolt(t, func(tx *bbolt.Tx) error { return putAll(tx, values) }), path); err != nil {
		t.Fatal(err)
	}
	return dir
}

func binaryTime(t testing.TB) []byte {
	t.Helper()
	data, err := time.Unix(1700000000, 0).UTC().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestContainerdBadRecords(t *testing.T) {
	now, spec := binaryTime(t), anySpec(specType, []byte(`{"ociVersion":"1.0.2"}`))
	values := map[string][]byte{"v1/version": {1}, "v1/ns/images/broken/target/digest": []byte("sha256:short")}
	for id, record := range map[string][2][]byte{
		"good": {now, spec}, "notime": {[]byte("x"), spec}, "nojson": {now, anySpec(specType, []byte("{"))},
		"notproto": {now, []byte("\xff\xff")}, "othertype": {now, anySpec("example.com/Spec", []byte("{}"))}, "nospec": {now, nil},
	} {
		base := "v1/ns/containers/" + id + "/"
		values[base+"createdat"], values[base+"updatedat"] = record[0], now
		values[base+"spec"] = record[1]
	}
	store, err := openContainerd(makeStore(t, values))
	if err != nil {
		t.Fatal(err)
	}
	listing, err := store.List(context.Background())
	if err != nil || len(listing.Containers) != 6 || len(listing.Images) != 0 {
		t.Fatalf("List() = %+v, %v; want 6 containers and no image", listing, err)
	}
	var what []string
	for _, p := range listing.Problems {
		what = append(what, p.What)
	}
	if got, want := strings.Join(what, " "), "container ns/nospec container ns/notime image ns/broken"; got != want {
		t.Errorf("problems with %q; want %q", got, want)
	}
	for _, c := range listing.Containers {
		spec, err := store.Spec(context.Background(), c)
		if good := c.ID == "good" || c.ID == "notime"; good != (err == nil) || good && spec.Version != "1.0.2" {
			t.Errorf("Spec(%s) = %v, %v", c.ID, spec, err)
		}
		if c.ID == "nospec" && !errors.Is(err, ErrIncomplete) {
			t.Errorf("Spec(nospec) = %v; want ErrIncomplete", err)
		}
	}
	if _, err := store.Spec(context.Background(), Container{Namespace: "ns", ID: "other"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("Spec(other) = %v; want ErrNotFound", err)
	}
}

func TestContainerdSnapshotLoop(t *testing.T) {
	dir := makeStore(t, map[string][]byte{
		"v1/ns/containers/c/createdat": binaryTime(t), "v1/ns/containers/c/updatedat": binaryTime(t),
		"v1/ns/containers/c/spec": anySpec(specType, []byte("{}")), "v1/ns/containers/c/snapshotter": []byte("overlayfs"),
		"v1/ns/containers/c/snapshotKey": []byte("c"),
	})
	path := makeBolt(t, func(tx *bbolt.Tx) error {
		return putAll(tx, map[string][]byte{
			"v1/snapshots/ns|9|c/id": {3}, "v1/snapshots/ns|9|c/kind": {snapshotActive}, "v1/snapshots/ns|9|c/parent": []byte("ns/1/a"),
			"v1/snapshots/ns|1|a/id": {1}, "v1/snapshots/ns|1|a/parent": []byte("ns/2/b"),
			"v1/snapshots/ns|2|b/id": {2}, "v1/snapshots/ns|2|b/parent": []byte("ns/1/a"),
		})
	})
	plugin := filepath.Join(dir, containerdSnapshotter+"overlayfs")
	for id := 1; id <= 3; id++ {
		if err := os.MkdirAll(filepath.Join(plugin, fmt.Sprintf("snapshots/%d/fs", id)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path, filepath.Join(plugin, "metadata.db")); err != nil {
		t.Fatal(err)
	}
	store, err := openContainerd(dir)
	if err != nil {
		t.Fatal(err)
	}
	if rootfs, err := store.Rootfs(context.Background(), Container{Namespace: "ns", ID: "c"}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("Rootfs of a chain that loops = %+v, %v; want ErrIncomplete", rootfs, err)
	}
}

func FuzzContainerdRecord(f *testing.F) {
	f.Add(anySpec(specType, []byte(`{"ociVersion":"1.0.2","process":{"args":["a"]}}`)), binaryTime(f))
	f.Add([]byte("\x0a\xff\xff\xff\xff\x0f"), []byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, spec, created []byte) {
		b := &boltBucket{loaded: true, index: map[string]int{"spec": 0, "createdat": 1, "updatedat": 1}, content: []boltEntry{{value: spec}, {value: created}}}
		record, _ := readContainerdRecord(b)
		_ = record.container("/", "ns", "id")
		if decoded, err := decodeSpec(record.spec); err == nil {
			Recover(decoded, RewriteOptions{Cgroup: "/blackstart_fuzz"})
		}
	})
}

// BenchmarkContainerdList reads a store with 200 images and 500 containers.
func BenchmarkContainerdList(b *testing.B) {
	spec, now := anySpec(specType, typicalSpec(b)), binaryTime(b)
	values := map[string][]byte{}
	for i := range 200 {
		base := fmt.Sprintf("v1/k8s.io/images/registry|app-%d:1/", i)
		values[base+"createdat"], values[base+"updatedat"] = now, now
		values[base+"target/digest"] = []byte(digest.FromString(base))
		values[base+"target/mediatype"] = []byte("application/vnd.oci.image.index.v1+json")
		values[base+"target/size"] = binary.AppendVarint(nil, 1234)
		for j := range 10 {
			values[fmt.Sprintf("v1/k8s.io/content/blob/%s/createdat", digest.FromString(fmt.Sprint(i, j)))] = now
		}
	}
	for i := range 500 {
		base := fmt.Sprintf("v1/k8s.io/containers/%064x/", i)
		values[base+"createdat"], values[base+"updatedat"], values[base+"spec"] = now, now, spec
		values[base+"image"] = fmt.Appendf(nil, "registry/app-%d:1", i%200)
		values[base+"snapshotter"], values[base+"snapshotKey"] = []byte("overlayfs"), fmt.Appendf(nil, "%064x", i)
		values[base+"labels/"+strings.ReplaceAll(labelPod, "/", "|")] = fmt.Appendf(nil, "pod-%d", i)
		values[base+"labels/"+strings.ReplaceAll(labelContainer, "/", "|")] = []byte("app")
	}
	dir := makeStore(b, values)
	info, err := os.Stat(filepath.Join(dir, containerdMetadata))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		store, err := openContainerd(dir)
		if err != nil {
			b.Fatal(err)
		}
		listing, err := store.List(context.Background())
		if err != nil || len(listing.Containers) != 500 || len(listing.Images) != 200 || len(listing.Problems) != 0 {
			b.Fatalf("List() = %d containers, %d images, %v, %v", len(listing.Containers), len(listing.Images), listing.Problems, err)
		}
	}
	b.ReportMetric(float64(info.Size())/1e6, "MB-db")
}

func TestFindSnapshot(t *testing.T) {
	snapshots := containerdSnapshots{"a/9/key": {id: 1}, "a/10/key": {id: 2}, "b/11/key": {id: 3}, "a/12/other/key": {id: 4}, "odd": {}, "a/x/key": {}}
	for query, want := range map[[2]string]string{
		{"a", "key"}: "a/10/key", {"b", "key"}: "b/11/key", {"", "key"}: "b/11/key", {"a", "other/key"}: "a/12/other/key", {"c", "key"}: "",
	} {
		if got, ok := snapshots.find(query[0], query[1]); got != want || ok != (want != "") {
			t.Errorf("find(%q, %q) = %q, %v; want %q", query[0], query[1], got, ok, want)
		}
	}
}
