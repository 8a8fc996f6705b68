package salvage

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/rogpeppe/go-internal/diff"
)

// Network says what becomes of a container's network namespace.
type Network string

// The networks of a recovery container.
const (
	NetworkHost Network = "host" // the host's own, the default: the pod network is gone
	NetworkNone Network = "none" // a fresh namespace with nothing in it
	NetworkKeep Network = "keep" // the recorded one, if it still exists, else the host's
)

// RewriteOptions is what [Recover] must know of the host. It asks nothing of the
// kernel or the disk by itself.
type RewriteOptions struct {
	Cgroup  string  // the recovery container's own, absolute
	Network Network // "" is NetworkHost
	// Resolve maps a path as the dead host had it to where it is now, and
	// reports whether it is there. See [ResolveIn].
	Resolve func(path string) (string, bool)
	// Exists reports whether a path of this very host exists.
	Exists func(path string) bool
	// Mounted reports whether something is mounted right at a path that Resolve
	// returned: a network volume leaves an empty directory behind.
	Mounted func(path string) bool
	// AppArmorLoaded reports whether the kernel has a profile of this name.
	AppArmorLoaded func(profile string) bool
	SELinux        bool // this host enforces or permits SELinux labels
}

// Change is one edit that [Recover] made.
type Change struct {
	Path string `json:"path"`          // what was edited, such as linux.cgroupsPath or mounts[/data]
	Was  string `json:"was,omitempty"` // empty: it was not there
	Now  string `json:"now,omitempty"` // empty: removed, or left to the default
	Why  string `json:"why"`
	Loud bool   `json:"loud,omitempty"` // the service may miss data or configuration
}

func (c Change) String() string {
	return fmt.Sprintf("%s: %s -> %s: %s", c.Path, cmp.Or(c.Was, "(none)"), cmp.Or(c.Now, "(none)"), c.Why)
}

// ResolveIn returns a Resolve for a host whose disk is mounted at root. Symbolic
// links are followed as if root were "/". What only a running kernel has (/dev,
// /proc, /sys, its modules) is always this host's. root "/" changes no path.
func ResolveIn(root string) func(path string) (string, bool) {
	return func(path string) (string, bool) {
		if root != "/" && root != "" && !kernelPath(path) {
			inside, err := beneath(root, path)
			if err != nil {
				return "", false
			}
			path = inside
		}
		_, err := os.Stat(path)
		return path, err == nil
	}
}

func kernelPath(path string) bool {
	return slices.ContainsFunc([]string{"/dev", "/proc", "/sys", "/run/udev", "/lib/modules", "/usr/lib/modules"}, func(dir string) bool {
		return within(dir, path)
	})
}

// within reports whether path is dir or below it.
func within(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}

// Recover turns an orchestrator's spec into one that starts on a host without
// the orchestrator: no network plugin, no sandbox, no hooks, no systemd. It
// returns a new spec and every edit, in the order made; orig stays as it is.
//
// Kept on purpose: limits, capabilities, seccomp, rlimits, devices, annotations,
// environment and every mount whose data is here. Root is left to the caller,
// and so is what the runtime cannot grant on this host.
func Recover(orig *specs.Spec, opts RewriteOptions) (*specs.Spec, []Change) {
	r := rewriter{spec: copySpec(orig), opts: opts}
	if r.spec.Linux == nil {
		r.spec.Linux = &specs.Linux{}
	}
	r.hooks()
	r.process()
	r.namespaces()
	r.hostname()
	r.sysctls()
	r.labels()
	r.cgroup()
	r.seccomp()
	r.mounts()
	return r.spec, r.changes
}

// copySpec copies deeply. A spec's Linux parts are plain data: JSON has all of
// it and cannot fail. The other systems' parts are left out.
func copySpec(orig *specs.Spec) *specs.Spec {
	spec := &specs.Spec{}
	if orig == nil {
		return spec
	}
	plain := *orig
	plain.Windows, plain.Solaris, plain.VM, plain.ZOS, plain.FreeBSD = nil, nil, nil, nil, nil
	data, _ := json.Marshal(plain)
	_ = json.Unmarshal(data, spec)
	return spec
}

type rewriter struct {
	spec    *specs.Spec
	opts    RewriteOptions
	changes []Change
}

func (r *rewriter) change(path, was, now, why string) {
	r.changes = append(r.changes, Change{Path: path, Was: was, Now: now, Why: why})
}

func (r *rewriter) loud(path, was, now, why string) {
	r.changes = append(r.changes, Change{Path: path, Was: was, Now: now, Why: why, Loud: true})
}

// Diff shows two specs as a unified diff of their indented JSON, three lines
// around each change; "" if they are the same.
func Diff(a, b any) (string, error) {
	var texts [2]bytes.Buffer
	for i, value := range []any{a, b} {
		encoder := json.NewEncoder(&texts[i])
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(value); err != nil {
			return "", fmt.Errorf("comparing specs: %w", err)
		}
	}
	return string(diff.Diff("recorded", texts[0].Bytes(), "recovery", texts[1].Bytes())), nil
}
