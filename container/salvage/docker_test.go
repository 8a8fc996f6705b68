package salvage

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"Path":"/bin/sh","Args":["-c"],"Config":{"User":"0:x","Env":["A=b","PATH"]},"MountPoints":{"/v":{"Name":"../x","Type":"volume"}}}`),
		[]byte(`{"Privileged":true,"CapAdd":["ALL"],"Devices":[{"PathOnHost":"/dev/null"}],"Tmpfs":{"/t":"rw"},"SecurityOpt":["seccomp"]}`))
	f.Add([]byte(`{"Path":"a","MountPoints":{"/m":{"Type":"tmpfs","Spec":{"TmpfsOptions":{"Mode":511,"SizeBytes":9}}}}}`), []byte(`{"NanoCpus":-1,"IpcMode":"none","MaskedPaths":null}`))
	f.Add([]byte(`{"Created":"never"}`), []byte(``))
	f.Add([]byte(`null`), []byte(`[]`))
	f.Add([]byte(`{"Path":"a"}`), []byte(`{"SecurityOpt":["seccomp={\"syscalls\":[{\"name\":\"a\",\"includes\":{\"minKernel\":\"4.\"}}],\"archMap\":[{}]}"]}`))
	f.Fuzz(func(t *testing.T, config, host []byte) {
		record, err := parseDockerRecord(config, host)
		if err != nil {
			return
		}
		_ = record.container("/var/lib/docker", "0123456789ab")
		spec, err := record.spec("0123456789ab")
		if err != nil {
			return
		}
		if len(spec.Process.Args) == 0 || spec.Process.Args[0] == "" {
			t.Errorf("spec has no command: %q", spec.Process.Args)
		}
		for _, m := range spec.Mounts {
			if !path.IsAbs(m.Destination) || isBind(m) && !path.IsAbs(m.Source) {
				t.Errorf("mount of %q at %q is not absolute", m.Source, m.Destination)
			}
		}
		_, _ = Recover(spec, RewriteOptions{Cgroup: "/blackstart_x"})
	})
}

// BenchmarkDockerList reads a store with 200 images of 10 layers and 500
// containers.
func BenchmarkDockerList(b *testing.B) {
	root := b.TempDir()
	write := func(name string, data []byte) {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	tags := map[string]digest.Digest{}
	for i := range 200 {
		diffs := make([]digest.Digest, 10)
		for j := range diffs {
			diffs[j] = digest.FromString(fmt.Sprint(i, j))
		}
		config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
		if err != nil {
			b.Fatal(err)
		}
		id := digest.FromBytes(config)
		write(imageRecord(id), config)
		tags[fmt.Sprintf("app-%d:1", i)] = id
		for j, diff := range diffs {
			chain := identity.ChainID(diffs[:j+1])
			write(layerRecord(chain, "diff"), []byte(diff))
			write(layerRecord(chain, "cache-id"), []byte(diff.Encoded()))
			write(layerRecord(chain, "tar-split.json.gz"), []byte("is not read"))
			write(filepath.Join(dockerDriver, diff.Encoded(), "diff/file"), nil)
		}
	}
	repositories, err := json.Marshal(map[string]any{"Repositories": map[string]any{"app": tags}})
	if err != nil {
		b.Fatal(err)
	}
	write(dockerImages+"/repositories.json", repositories)
	for i := range 500 {
		dir := filepath.Join(dockerContainers, fmt.Sprintf("%064x", i))
		write(filepath.Join(dir, "config.v2.json"), fmt.Appendf(nil, `{"Name":"/app-%d","Path":"/bin/sh","Config":{"Image":"app-%d:1"}}`, i, i%200))
		write(filepath.Join(dir, "hostconfig.json"), []byte(`{}`))
	}
	for b.Loop() {
		store, err := openDocker(root)
		if err != nil {
			b.Fatal(err)
		}
		listing, err := store.List(context.Background())
		if err != nil || len(listing.Containers) != 500 || len(listing.Images) != 200 || len(listing.Problems) != 0 {
			b.Fatalf("List() = %d containers, %d images, %v, %v", len(listing.Containers), len(listing.Images), listing.Problems, err)
		}
	}
}
