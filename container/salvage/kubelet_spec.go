package salvage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// FromImage is the annotation on a [Kubelet] spec that names what the image must
// add, comma separated: "entrypoint" (goes before Process.Args), "cmd" (goes
// after them), "env" (is overridden by Process.Env), "cwd", "user".
const FromImage = "blackstart.from-image"

// spec converts one container. The errors say what the manifest alone cannot
// tell; the spec is usable without it.
func (p *kubeletPod) spec(c *kubeletPodContainer) (*specs.Spec, []error) {
	env, problems := p.env(c)
	vars := make(map[string]string, len(env))
	process := &specs.Process{Cwd: c.WorkingDir}
	for _, kv := range env {
		vars[kv[0]] = kv[1]
		process.Env = append(process.Env, kv[0]+"="+kv[1])
	}
	fromImage := []string{"env"}
	if len(c.Command) == 0 {
		fromImage = append(fromImage, "entrypoint")
		if len(c.Args) == 0 {
			fromImage = append(fromImage, "cmd")
		}
	}
	for _, arg := range slices.Concat(c.Command, c.Args) {
		process.Args = append(process.Args, expandVars(arg, vars))
	}
	if process.Cwd == "" {
		fromImage = append(fromImage, "cwd")
	}
	if !p.user(c, process) {
		fromImage = append(fromImage, "user")
	}
	spec := &specs.Spec{
		Version:     specs.Version,
		Process:     process,
		Root:        &specs.Root{},
		Linux:       &specs.Linux{Namespaces: p.namespaces()},
		Annotations: map[string]string{FromImage: strings.Join(fromImage, ",")},
	}
	if !p.Spec.HostNetwork {
		if spec.Hostname = p.Spec.Hostname; spec.Hostname == "" {
			spec.Hostname = p.Metadata.Name
		}
	}
	security := c.SecurityContext
	spec.Root.Readonly = isTrue(security.ReadOnlyRootFilesystem)
	process.NoNewPrivileges = security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation
	if process.Capabilities = security.capabilities(); process.Capabilities == nil {
		caps := defaultCapabilities()
		process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: slices.Clone(caps), Permitted: slices.Clone(caps)}
	}
	mounts, mountProblems := p.mounts(c)
	spec.Mounts = mounts
	resources, resourceProblems := c.limits()
	spec.Linux.Resources = resources
	problems = slices.Concat(problems, mountProblems, resourceProblems)
	for _, err := range []error{p.attend(c, spec.Annotations), p.standard(spec, isTrue(security.Privileged)), p.seccomp(c, spec)} {
		if err != nil {
			problems = append(problems, err)
		}
	}
	return spec, problems
}

func isTrue(b *bool) bool { return b != nil && *b }

// namespaces follows the kubelet: on the host's network a pod also has the
// host's name.
func (p *kubeletPod) namespaces() []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if !p.Spec.HostPID {
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if !p.Spec.HostIPC {
		list = append(list, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if !p.Spec.HostNetwork {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.UTSNamespace})
	}
	return list
}

// env returns the variables in order. A value may use those before it.
func (p *kubeletPod) env(c *kubeletPodContainer) (env [][2]string, problems []error) {
	vars := map[string]string{}
	for _, e := range c.Env {
		value := expandVars(e.Value, vars)
		if e.ValueFrom != nil {
			switch from := e.ValueFrom.FieldRef.FieldPath; from {
			case "metadata.name":
				value = p.Metadata.Name
			case "metadata.namespace":
				value = p.Metadata.Namespace
			default:
				problems = append(problems, fmt.Errorf("variable %s takes its value from the API server (%s): give it by hand", e.Name, from))
				continue
			}
		}
		vars[e.Name] = value
		env = append(env, [2]string{e.Name, value})
	}
	if len(c.EnvFrom) > 0 {
		problems = append(problems, errors.New("envFrom takes variables from the API server: give them by hand"))
	}
	return env, problems
}

// expandVars replaces $(NAME) as Kubernetes does: $$ stands for one dollar sign,
// and a reference to an unknown variable stays as it is.
func expandVars(s string, vars map[string]string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		s = after
		name, rest, closed := strings.Cut(s, ")")
		switch {
		case strings.HasPrefix(s, "$"):
			out.WriteByte('$')
			s = s[1:]
		case strings.HasPrefix(s, "(") && closed:
			if value, ok := vars[name[1:]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString("$" + name + ")")
			}
			s = rest
		default:
			out.WriteByte('$')
		}
	}
}

// user reports whether the pod names one.
func (p *kubeletPod) user(c *kubeletPodContainer, process *specs.Process) bool {
	pod, own := p.Spec.SecurityContext, c.SecurityContext
	for _, gid := range []*uint32{own.RunAsGroup, pod.RunAsGroup} {
		if gid != nil {
			process.User.GID = *gid
			break
		}
	}
	process.User.AdditionalGids = slices.Clone(pod.SupplementalGroups)
	if pod.FSGroup != nil {
		process.User.AdditionalGids = append(process.User.AdditionalGids, *pod.FSGroup)
	}
	for _, uid := range []*uint32{own.RunAsUser, pod.RunAsUser} {
		if uid != nil {
			process.User.UID = *uid
			return true
		}
	}
	return false
}

// defaultCapabilities is what containerd gives a container that asks for nothing.
func defaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// capabilities returns nil where the pod says nothing: the caller's default.
func (s kubeletSecurity) capabilities() *specs.LinuxCapabilities {
	if !isTrue(s.Privileged) && len(s.Capabilities.Add)+len(s.Capabilities.Drop) == 0 {
		return nil
	}
	all := make([]string, 0, 64)
	for _, c := range capability.ListKnown() {
		all = append(all, "CAP_"+strings.ToUpper(c.String()))
	}
	caps := defaultCapabilities()
	if isTrue(s.Privileged) || slices.Contains(s.Capabilities.Add, "ALL") {
		caps = all
	}
	if slices.Contains(s.Capabilities.Drop, "ALL") {
		caps = nil
	}
	for _, name := range s.Capabilities.Drop {
		caps = slices.DeleteFunc(caps, func(c string) bool { return c == capabilityName(name) })
	}
	for _, name := range s.Capabilities.Add {
		if c := capabilityName(name); slices.Contains(all, c) && !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	return &specs.LinuxCapabilities{Bounding: caps, Effective: slices.Clone(caps), Permitted: slices.Clone(caps)}
}

func capabilityName(name string) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
}

// mounts converts the volumes whose data is on this host: hostPath, and emptyDir
// as an empty tmpfs.
func (p *kubeletPod) mounts(c *kubeletPodContainer) (mounts []specs.Mount, problems []error) {
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.Spec.Volumes, func(v kubeletVolume) bool { return v.Name == m.Name })
		switch {
		case i < 0:
			problems = append(problems, fmt.Errorf("mount %s: no volume %q", m.MountPath, m.Name))
		case !path.IsAbs(m.MountPath):
			problems = append(problems, fmt.Errorf("mount %q: not an absolute path", m.MountPath))
		case m.SubPathExpr != "":
			problems = append(problems, fmt.Errorf("mount %s: subPathExpr is not supported: mount it by hand", m.MountPath))
		case p.Spec.Volumes[i].HostPath != nil:
			// Joined as an absolute path first, a subPath cannot climb out.
			source := path.Join(path.Clean("/"+p.Spec.Volumes[i].HostPath.Path), path.Clean("/"+m.SubPath))
			mounts = append(mounts, specs.Mount{Destination: m.MountPath, Type: "bind", Source: source, Options: m.options()})
		case p.Spec.Volumes[i].EmptyDir != nil:
			options := []string{"nosuid", "nodev", "mode=0777"}
			if limit := p.Spec.Volumes[i].EmptyDir.SizeLimit; limit != nil {
				if size, err := parseQuantity(limit); err == nil && size >= 1 {
					options = append(options, "size="+strconv.FormatInt(int64(size), 10))
				}
			}
			mounts = append(mounts, specs.Mount{Destination: m.MountPath, Type: "tmpfs", Source: "tmpfs", Options: options})
		default:
			problems = append(problems, fmt.Errorf("mount %s: the data of volume %q is not on this host: mount it by hand", m.MountPath, m.Name))
		}
	}
	return mounts, problems
}

func (m kubeletVolumeMount) options() []string {
	options := []string{"rbind"}
	switch m.MountPropagation {
	case "Bidirectional":
		options = append(options, "rshared")
	case "HostToContainer":
		options = append(options, "rslave")
	default:
		options = append(options, "rprivate")
	}
	if m.ReadOnly {
		return append(options, "ro")
	}
	return append(options, "rw")
}
