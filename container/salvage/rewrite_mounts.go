package salvage

import (
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts keeps every mount whose data is here, replaces what belonged to the
// sandbox, and says of the rest that it is missing.
func (r *rewriter) mounts() {
	var kept []specs.Mount
	for _, m := range r.spec.Mounts {
		if !isBind(m) || r.bind(&m) {
			kept = append(kept, m)
		}
	}
	r.spec.Mounts = kept
}

func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func isReadOnly(m specs.Mount) bool {
	return slices.ContainsFunc(m.Options, func(o string) bool { return o == "ro" || o == "rro" })
}

// bind edits one bind mount and reports whether it stays.
func (r *rewriter) bind(m *specs.Mount) bool {
	path := "mounts[" + m.Destination + "]"
	switch m.Destination {
	case "/etc/resolv.conf", "/etc/hosts":
		if ownedByOrchestrator(m.Source) {
			return r.hostFile(path, m)
		}
	case "/etc/hostname":
		if ownedByOrchestrator(m.Source) {
			r.change(path, m.Source, "", "it was the sandbox's")
			return false
		}
	case "/dev/shm":
		if ownedByOrchestrator(m.Source) {
			r.change(path, m.Source, "tmpfs", "shared memory died with the sandbox")
			*m = specs.Mount{
				Destination: m.Destination, Type: "tmpfs", Source: "shm",
				Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
			}
			return true
		}
	}
	if terminationLog.MatchString(m.Source) {
		r.change(path, m.Source, "", "only the kubelet reads it")
		return false
	}
	source, here := m.Source, true
	if r.opts.Resolve != nil {
		source, here = r.opts.Resolve(m.Source)
	}
	if here && mountedVolume(m.Source) && r.opts.Mounted != nil && !r.opts.Mounted(source) {
		here = false
	}
	if !here {
		r.missing(path, m)
		return false
	}
	if source != m.Source {
		r.change(path, m.Source, source, "the dead host's disk is mounted there")
		m.Source = source
	}
	return true
}

// hostFile puts the host's own file in the place of the sandbox's.
func (r *rewriter) hostFile(path string, m *specs.Mount) bool {
	if r.opts.Exists == nil || !r.opts.Exists(m.Destination) {
		r.change(path, m.Source, "", "it described the dead pod network, and this host has none of its own")
		return false
	}
	r.change(path, m.Source, m.Destination, "the sandbox's described a network and a DNS that are gone: the host's, read-only")
	m.Source, m.Type, m.Options = m.Destination, "bind", []string{"rbind", "rprivate", "ro"}
	return true
}

// missing explains a mount that is dropped because its source is not here.
func (r *rewriter) missing(path string, m *specs.Mount) {
	switch {
	case strings.Contains(m.Destination, "/secrets/kubernetes.io/serviceaccount"):
		r.loud(path, m.Source, "", "the service account's token was in memory, and the API server that issues it is gone")
	case within("/var/lib/kubelet/pods", m.Source) || kubeletVolumes.MatchString(m.Source):
		r.loud(path, m.Source, "", "the volume is not here or not mounted: mount it and say where, or the service starts without it")
	case ownedByOrchestrator(m.Source):
		r.change(path, m.Source, "", "the orchestrator made it for the container's lifetime")
	case isReadOnly(*m):
		r.change(path, m.Source, "", "it is not on this host")
	default:
		r.loud(path, m.Source, "", "the data is not here: the service starts without it")
	}
}

// Files that an orchestrator makes for each container or sandbox, by where
// containerd's CRI, CRI-O and Podman, Docker and the kubelet put them, whatever
// their root directories are.
//
// Made when it is first needed: a large program, for which every command would wait.
var orchestratorFiles = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`/io\.containerd\.grpc\.v1\.cri/(sandboxes|containers)/[^/]+/` +
		`|/io\.containerd\.cri\.v1\.[^/]+/(sandboxes|containers)/[^/]+/` +
		`|/overlay-containers/[0-9a-f]+/userdata/` +
		`|/containers/[0-9a-f]{64}/(resolv\.conf|hostname|hosts|mounts/shm)$` +
		`|/pods/[^/]+/etc-hosts$`)
})

func ownedByOrchestrator(source string) bool { return orchestratorFiles().MatchString(source) }

// terminationLog matches the file the kubelet mounts for last words, by default
// at /dev/termination-log.
var terminationLog = regexp.MustCompile(`/pods/[^/]+/containers/[^/]+/[0-9a-f]+$`)

// kubeletVolumes matches a pod's volume in the kubelet's directory: 1 its plugin.
var kubeletVolumes = regexp.MustCompile(`/pods/[^/]+/(?:volumes/kubernetes\.io~([^/]+)|volume-subpaths)/`)

// mountedVolume reports whether a volume is a mount of its own on the host. Two
// plugins keep their files in the directory itself; a subPath is always bound.
func mountedVolume(source string) bool {
	match := kubeletVolumes.FindStringSubmatch(source)
	return match != nil && match[1] != "empty-dir" && match[1] != "configmap"
}
