package kit

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// startRegistry runs a registry on a free port of the loopback until the test ends.
func startRegistry(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	servers := filepath.Join(cache, "blackstart-servers")
	if _, err := os.Stat(filepath.Join(servers, "registry")); err != nil {
		t.Fatalf("%v: run .ci/servers", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	write(t, dir+"/config.yml", fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, addr))
	c := exec.Command(filepath.Join(servers, "registry"), "serve", dir+"/config.yml")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = c.Wait() // killed
	})
	client := http.Client{Timeout: time.Second}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		r, err := client.Get("http://" + addr + "/v2/")
		if err == nil {
			r.Body.Close()
			return addr
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry does not answer: %v", err)
		}
	}
}

func TestSkopeoCarriesAKitThroughARegistry(t *testing.T) {
	l, built := newKit(t)
	key, line := sshKeyFile(t, "alice", "", "ed25519")
	s, err := l.Load("")
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Sign(t.Context(), s.Document, KeyFile{Path: key})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Sign("site-a", sig); err != nil {
		t.Fatal(err)
	}
	var inspected struct{ Layers []string }
	if err := json.Unmarshal([]byte(tool(t, "", "skopeo", "inspect", "oci:"+l.Dir()+":site-a")), &inspected); err != nil {
		t.Fatal(err)
	}
	if want := built.Frames + 2; len(inspected.Layers) != want || inspected.Layers[0] != built.Digest.String() {
		t.Errorf("skopeo inspect shows the layers %v; want %d, the document first", inspected.Layers, want)
	}

	remote := "docker://" + startRegistry(t) + "/kit:1"
	tool(t, "", "skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+l.Dir()+":site-a", remote)
	for _, name := range []string{"site-a", "latest", ""} {
		dir := filepath.Join(t.TempDir(), "back")
		to := "oci:" + dir
		if name != "" {
			to += ":" + name
		}
		tool(t, "", "skopeo", "copy", "-q", "--src-tls-verify=false", remote, to)
		back, err := OpenLayout(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		got, err := back.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Check(got, CheckOptions{Trust: trust(t, line), Threshold: 1, Seen: t.TempDir(), Now: noon})
		if err != nil || !reflect.DeepEqual(c.Document, built.Document) {
			t.Errorf("Check() of the kit that came back as %q = %v; want the same document", name, err)
		}
		if gaps, err := back.Missing(t.Context(), c.Document.Artifacts); err != nil || len(gaps) > 0 {
			t.Errorf("Missing() of the kit that came back = %v, %v; want none", gaps, err)
		}
		left, _ := snapshot(t, filepath.Join(l.Dir(), "blobs"))
		right, _ := snapshot(t, filepath.Join(dir, "blobs"))
		if !reflect.DeepEqual(left, right) {
			t.Errorf("the blobs that came back as %q are not those that went, byte for byte", name)
		}
		// A second signature does not leave a second kit behind, whatever the first was called.
		if err := back.Sign(name, []byte(someSignature)); err != nil {
			t.Fatal(err)
		}
		if names, err := back.Names(); err != nil || !reflect.DeepEqual(names, []string{"site-a"}) {
			t.Errorf("Names() after Sign(%q) = %v, %v; want site-a alone", name, names, err)
		}
	}
}
