package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows is the picture of the program: who may import whom, inside the module.
// A package that is not named may import no other one.
const arrows = `
cmd/blackstart -> recovery recovery/access recovery/drill recovery/graph recovery/journal recovery/kit recovery/names certs container container/image container/salvage fetch sandbox runbooks
recovery       -> certs container container/image container/salvage fetch sandbox runbooks recovery/access recovery/graph recovery/journal recovery/kit recovery/names
recovery/drill -> recovery sandbox runbooks
`

// modules are all third-party modules that the binary links, and nothing else.
const modules = `
aead.dev/minisign
filippo.io/age
filippo.io/edwards25519
filippo.io/hpke
github.com/cilium/ebpf
github.com/containerd/console
github.com/containerd/containerd/v2
github.com/containerd/continuity
github.com/containerd/errdefs
github.com/containerd/log
github.com/containerd/platforms
github.com/coreos/go-systemd/v22
github.com/cyphar/filepath-securejoin
github.com/goccy/go-yaml
github.com/godbus/dbus/v5
github.com/klauspost/compress
github.com/google/nftables
github.com/miekg/dns
github.com/mdlayher/netlink
github.com/mdlayher/socket
github.com/moby/sys/capability
github.com/moby/sys/devices
github.com/moby/sys/mountinfo
github.com/moby/sys/user
github.com/moby/sys/userns
github.com/mrunalp/fileutils
github.com/opencontainers/cgroups
github.com/opencontainers/go-digest
github.com/opencontainers/image-spec
github.com/opencontainers/runc
github.com/opencontainers/runtime-spec
github.com/opencontainers/selinux
github.com/rogpeppe/go-internal
github.com/seccomp/libseccomp-golang
github.com/sirupsen/logrus
github.com/urfave/cli/v2
github.com/vbatts/tar-split
github.com/vishvananda/netlink
github.com/vishvananda/netns
github.com/xrash/smetrics
golang.org/x/crypto
golang.org/x/net
golang.org/x/sync
golang.org/x/sys
golang.org/x/term
google.golang.org/protobuf
software.sslmate.com/src/go-pkcs12
`

const module = "github.com/blackstart-project/blackstart"

func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-tags", buildTags}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %q: %v", args, err)
	}
	return strings.Fields(strings.ReplaceAll(string(out), "[", " "))
}

func TestArrows(t *testing.T) {
	allowed := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(arrows), "\n") {
		from, to, _ := strings.Cut(line, "->")
		allowed[strings.TrimSpace(from)] = strings.Fields(to)
	}
	for _, pkg := range goList(t, module+"/...") {
		from := strings.TrimPrefix(pkg, module+"/")
		for _, imp := range goList(t, "-f", `{{join .Imports "\n"}}`, pkg) {
			to, ours := strings.CutPrefix(imp, module+"/")
			if ours && !slices.Contains(allowed[from], to) {
				t.Errorf("%s imports %s; want only %v", from, to, allowed[from])
			}
		}
	}
}

func TestModules(t *testing.T) {
	got := goList(t, "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}`, ".")
	slices.Sort(got)
	got = slices.Compact(got)
	want := strings.Fields(modules)
	for _, m := range got {
		if !slices.Contains(want, m) {
			t.Errorf("linked module %s is not in the list", m)
		}
	}
	for _, m := range want {
		if !slices.Contains(got, m) {
			t.Errorf("listed module %s is not linked", m)
		}
	}
}

// TestBinary holds the budget of an emergency binary.
func TestBinary(t *testing.T) {
	const budget = 25 << 20
	fi, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Size() > budget {
		t.Errorf("binary has %d bytes; want at most %d", fi.Size(), budget)
	}
	out, err := exec.Command("ldd", binary).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "not a dynamic executable") {
		t.Errorf("ldd says %q; want a static binary", out)
	}
	if out, err := exec.Command(binary, "init").CombinedOutput(); err == nil || !strings.Contains(string(out), `no command "init"`) {
		t.Errorf("blackstart init = %v, %q; want a usage error, not libcontainer's second half", err, out)
	}
}
