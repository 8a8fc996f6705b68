package container

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestOrdinary compares with what containerd's library makes today.
func TestOrdinary(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), "x")
	want, err := oci.GenerateSpecWithPlatform(ctx, nil, "linux/"+runtime.GOARCH, &containers.Container{ID: "x"}, oci.WithDefaultUnixDevices)
	if err != nil {
		t.Fatal(err)
	}
	got := ordinary()
	// What differs on purpose: see ordinary.
	want.Process.Rlimits, want.Root, want.Linux.CgroupsPath, got.Linux.Seccomp = nil, nil, "", nil
	if cgroups.IsCgroup2UnifiedMode() {
		got.Mounts = slices.DeleteFunc(got.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
		got.Linux.Namespaces = slices.DeleteFunc(got.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	}
	if got, want := text(t, got), text(t, want); got != want {
		t.Errorf("ordinary() = %s; want %s", got, want)
	}
}

// TestSeccompProfile compares rule by rule with containerd's profile, without
// capabilities, with each of them, and with all.
func TestSeccompProfile(t *testing.T) {
	sets := [][]string{nil, ordinaryCaps(), capabilities.KnownCapabilities()}
	for _, name := range capabilities.KnownCapabilities() {
		sets = append(sets, []string{name})
	}
	for _, caps := range sets {
		want := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
		got := seccompProfile(caps)
		if !slices.Equal(got.Architectures, want.Architectures) || got.DefaultAction != want.DefaultAction {
			t.Errorf("seccompProfile(%v) = %v, %v; want %v, %v", caps, got.Architectures, got.DefaultAction, want.Architectures, want.DefaultAction)
		}
		gotRules, wantRules := rules(t, got), rules(t, want)
		for _, rule := range wantRules {
			if !slices.Contains(gotRules, rule) {
				t.Errorf("seccompProfile(%v) lacks %s", caps, rule)
			}
		}
		for _, rule := range gotRules {
			if !slices.Contains(wantRules, rule) {
				t.Errorf("seccompProfile(%v) has %s; want what containerd has", caps, rule)
			}
		}
	}
}

// rules are a profile's, one for each name.
func rules(t *testing.T, p *specs.LinuxSeccomp) []string {
	t.Helper()
	var all []string
	for _, call := range p.Syscalls {
		errno := "default"
		if call.ErrnoRet != nil {
			errno = fmt.Sprint(*call.ErrnoRet)
		}
		for _, name := range call.Names {
			all = append(all, fmt.Sprintf("%s %v %s %+v", name, call.Action, errno, call.Args))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
