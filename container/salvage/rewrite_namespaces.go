package salvage

import (
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces lets go of the dead sandbox: its network becomes the host's, and
// what it shared becomes private.
func (r *rewriter) namespaces() {
	linux := r.spec.Linux
	var kept []specs.LinuxNamespace
	for _, ns := range linux.Namespaces {
		path := "linux.namespaces[" + string(ns.Type) + "]"
		switch {
		case ns.Type == specs.NetworkNamespace:
			if !r.network(path, &ns) {
				continue
			}
		case ns.Type == specs.UserNamespace && len(linux.UIDMappings) == 0:
			r.loud(path, orFresh(ns.Path), "", "the spec has no id mappings of its own: root inside is root on this host")
			continue
		case ns.Path != "":
			r.change(path, ns.Path, "private", "it was shared with a sandbox or another container")
			ns.Path = ""
		}
		kept = append(kept, ns)
	}
	if r.opts.Network == NetworkNone && !hasNamespace(kept, specs.NetworkNamespace) {
		kept = append(kept, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		r.change("linux.namespaces[network]", "host", "private", "no network was asked for")
	}
	linux.Namespaces = kept
	if !hasNamespace(kept, specs.UserNamespace) {
		linux.UIDMappings, linux.GIDMappings = nil, nil
	}
}

// network reports whether the container keeps a network namespace.
func (r *rewriter) network(path string, ns *specs.LinuxNamespace) bool {
	switch r.opts.Network {
	case NetworkNone:
		if ns.Path != "" {
			r.change(path, ns.Path, "private", "no network was asked for")
			ns.Path = ""
		}
		return true
	case NetworkKeep:
		if ns.Path == "" || r.opts.Exists != nil && r.opts.Exists(ns.Path) {
			return true
		}
		r.loud(path, ns.Path, "host", "the namespace to keep no longer exists: the container uses the host's addresses")
		return false
	default:
		r.change(path, orFresh(ns.Path), "host", "nothing is left that would connect the container's own network")
		return false
	}
}

func orFresh(path string) string {
	if path == "" {
		return "private"
	}
	return path
}

func hasNamespace(list []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(list, func(ns specs.LinuxNamespace) bool { return ns.Type == kind })
}

// hostname keeps the name the container had, which clustered services know
// themselves by. In a pod the sandbox held it; HOSTNAME is set to the same.
func (r *rewriter) hostname() {
	spec := r.spec
	if !hasNamespace(spec.Linux.Namespaces, specs.UTSNamespace) {
		if spec.Hostname+spec.Domainname != "" {
			r.change("hostname", spec.Hostname, "", "the container shares the host's name and must not change it")
			spec.Hostname, spec.Domainname = "", ""
		}
		return
	}
	if spec.Hostname != "" {
		return
	}
	name := spec.Annotations["io.kubernetes.cri.sandbox-name"]
	if spec.Process != nil {
		for _, kv := range spec.Process.Env {
			if value, ok := strings.CutPrefix(kv, "HOSTNAME="); ok {
				name = value
			}
		}
	}
	if name != "" {
		spec.Hostname = name
		r.change("hostname", "", name, "the dead sandbox held the name")
	}
}

// sysctls drops those of a network namespace the container no longer has: the
// runtime refuses to set the host's.
func (r *rewriter) sysctls() {
	linux := r.spec.Linux
	if hasNamespace(linux.Namespaces, specs.NetworkNamespace) {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(linux.Sysctl)) {
		if strings.HasPrefix(key, "net.") {
			r.change("linux.sysctl["+key+"]", linux.Sysctl[key], "", "on the host's network it would change the host")
			delete(linux.Sysctl, key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(linux.NetDevices)) {
		r.change("linux.netDevices["+name+"]", name, "", "the device stays in the host's network")
	}
	linux.NetDevices = nil
}
