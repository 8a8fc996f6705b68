package container

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseSpecRoundTrip(t *testing.T) {
	const doc = `name: etcd
from: containerd:production/etcd
image: containerd://production/example.internal/etcd:3.4
args: [/bin/etcd, --data-dir, /data]
env: ["A=1", "B=x: y"]
mounts:
  - {source: /srv/etcd, target: /data, options: [rbind]}
restart: on-failure
health: {check: "http://127.0.0.1:2379/health", interval: 5s, retries: 2}
config:
  ociVersion: 1.0.2
  process:
    user: {uid: 7, gid: 8}
  linux:
    resources:
      memory: {limit: 1048576}
`
	s, err := ParseSpec([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSpec(b)
	if err != nil {
		t.Fatalf("ParseSpec of what Marshal wrote: %v\n%s", err, b)
	}
	b2, err := again.Marshal()
	if err != nil || string(b) != string(b2) {
		t.Errorf("second Marshal = %s, %v; want %s", b2, err, b)
	}
	if got := again.Config.Process.User.UID; got != 7 {
		t.Errorf("uid = %d; want 7", got)
	}
	if got := *again.Config.Linux.Resources.Memory.Limit; got != 1<<20 {
		t.Errorf("memory limit = %d; want %d", got, 1<<20)
	}
	if !slices.Equal(again.Env, []string{"A=1", "B=x: y"}) {
		t.Errorf("env = %q", again.Env)
	}
}

func TestParseSpecRefuses(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown field": "name: x\ncolour: blue\n",
		"alias":         "name: &a x\nargs: [*a]\n",
		"flow nesting":  "args: " + strings.Repeat("[", 5000),
		"entry nesting": "args: " + strings.Repeat("- ", 5000) + "x",
		"wrong type":    "name: [x]\n",
		"duration":      "health: {check: 'tcp://127.0.0.1:1', interval: soon}\n",
		"negative":      "health: {check: 'tcp://127.0.0.1:1', interval: -5s}\n",
		"two documents": "name: x\n---\nname: y\n",
	} {
		if s, err := ParseSpec([]byte(doc)); !errors.Is(err, ErrBadSpec) && name != "two documents" {
			t.Errorf("%s: ParseSpec = %+v, %v; want %v", name, s, err, ErrBadSpec)
		}
	}
}

func TestReplaceArg(t *testing.T) {
	args := []string{"etcd", "--name=a", "--data-dir", "/data"}
	for _, c := range []struct {
		pair, want string
		bad        bool
	}{
		{"/data=/other", "etcd --name=a --data-dir /other", false},
		{"--name=a=--name=b=c", "etcd --name=b=c --data-dir /data", false},
		{"--missing=x", "", true},
		{"/data", "", true},
	} {
		got, err := ReplaceArg(args, c.pair)
		if (err != nil) != c.bad || strings.Join(got, " ") != c.want {
			t.Errorf("ReplaceArg(%q) = %q, %v; want %q", c.pair, got, err, c.want)
		}
	}
	if got, err := DropArg(args, "--name"); err != nil || len(got) != 3 {
		t.Errorf("DropArg(--name) = %q, %v; want it gone", got, err)
	}
}

func TestFillPrefersTheSpec(t *testing.T) {
	img := ImageConfig{Entrypoint: []string{"/bin/e"}, Cmd: []string{"c"}, Env: []string{"PATH=/x", "A=image"}, User: "web", Workdir: "/w"}
	s := Spec{Env: []string{"A=spec"}}
	s.Fill(img)
	if got := strings.Join(s.Args, " "); got != "/bin/e c" {
		t.Errorf("args = %q; want the image's", got)
	}
	if !slices.Equal(s.Env, []string{"PATH=/x", "A=spec"}) || s.User != "web" || s.Workdir != "/w" {
		t.Errorf("filled = %+v", s)
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"": 0, "7": 7, "64KiB": 64 << 10, "512m": 512 << 20, "2G": 2 << 30, "1TiB": 1 << 40} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "-1", "1.5G", "9999999999T", "1 PiB"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d; want an error", in, got)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	f.Add([]byte("name: x\nrootfs: /r\nargs: [a]\nconfig: {ociVersion: 1.0.2, linux: {namespaces: [{type: pid}]}}\n"))
	f.Add([]byte(`{"ociVersion":"1.0.2","process":{"args":["sh"]},"root":{"path":"rootfs"}}`))
	f.Add([]byte("a: &x [*x]"))
	f.Add([]byte("config: {process: null}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSpec(b)
		if err != nil {
			return
		}
		s.Name, s.Rootfs = "x", t.TempDir()
		s.Fill(ImageConfig{})
		if c, err := s.OCI(s.Rootfs); err == nil {
			Fit(c)
		}
	})
}
