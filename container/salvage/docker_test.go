package salvage

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc64"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/storage"
)

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"Path":"/bin/sh","Args":["-c"],"Config":{"User":"0:x","Env":["A=b","PATH"]},"MountPoints":{"/v":{"Name":"../x","Type":"volume"}}}`),
		[]byte(`{"Privileged":true,"CapAdd":["ALL"],"Devices":[{"PathOnHost":"/dev/null"}],"Tmpfs":{"/t":"rw"},"SecurityOpt":["seccomp"]}`))
	f.Add([]byte(`{"Path":"a","MountPoints":{"/m":{"Type":"tmpfs","Spec":{"TmpfsOptions":{"Mode":511,"SizeBytes":9}}}}}`), []byte(`{"NanoCpus":-1,"IpcMode":"none","MaskedPaths":null}`))
	f.Add([]byte(`{"Created":"never"}`), []byte(``))
	f.Add([]byte(`null`), []byte(`[]`))
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
		_, _ = Recover(spec, RewriteOptions{Name: "x"})
	})
}

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
