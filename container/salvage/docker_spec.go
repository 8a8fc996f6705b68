package salvage

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/devices"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// spec converts the record as dockerd does (daemon/oci_linux.go and oci/ of
// moby), for the daemon's default configuration.
func (r dockerRecord) spec(id string) (*specs.Spec, error) {
	if r.hostErr != nil {
		return nil, fmt.Errorf("%w: %w", ErrIncomplete, r.hostErr)
	}
	if r.Path == "" {
		return nil, fmt.Errorf("no command is recorded: %w", ErrIncomplete)
	}
	mounts, err := r.mounts()
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Readonly: r.host.ReadonlyRootfs},
		Mounts:      mounts,
		Annotations: r.annotations(),
		Linux: &specs.Linux{
			Namespaces:    r.namespaces(),
			Resources:     r.resources(),
			Sysctl:        r.sysctls(),
			MountLabel:    r.MountLabel,
			CgroupsPath:   path.Join(cmp.Or(r.host.CgroupParent, "/docker"), id),
			MaskedPaths:   r.maskedPaths(),
			ReadonlyPaths: r.readonlyPaths(),
		},
	}
	if r.host.UTSMode != "host" {
		spec.Hostname, spec.Domainname = r.Config.Hostname, r.Config.Domainname
	}
	if r.host.Privileged {
		all, err := devices.HostDevices()
		if err != nil {
			return nil, fmt.Errorf("listing devices: %w", err)
		}
		for _, d := range all {
			spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
				Type: string(d.Type), Path: d.Path, Major: d.Major, Minor: d.Minor, FileMode: &d.FileMode, UID: &d.Uid, GID: &d.Gid,
			})
		}
	}
	for _, device := range r.host.Devices {
		if !r.host.Privileged || device.PathOnHost != device.PathInContainer { // else it is there
			r.device(spec, device)
		}
	}
	spec.Process = r.process()
	if profile := r.seccompProfile(); profile != "" {
		// One that cannot be read is no reason to run without any: see annotations.
		spec.Linux.Seccomp, err = dockerFilter(profile, spec.Process.Capabilities.Bounding)
		if err != nil {
			spec.Annotations[AnnotationSeccomp] = seccompDefault
		}
	}
	return spec, nil
}

// seccompDefault is the value of [AnnotationSeccomp].
const seccompDefault = "default"

// seccompProfile returns the container's own profile, or "" for none.
func (r dockerRecord) seccompProfile() string {
	if profile := r.securityOpt("seccomp"); strings.HasPrefix(strings.TrimSpace(profile), "{") && !r.host.Privileged {
		return profile
	}
	return ""
}

func (r dockerRecord) process() *specs.Process {
	process := &specs.Process{
		Terminal:        r.Config.Tty,
		Args:            append([]string{r.Path}, r.Args...),
		Env:             r.env(),
		Cwd:             cmp.Or(r.Config.WorkingDir, "/"),
		NoNewPrivileges: r.NoNewPrivileges || r.securityOpt("no-new-privileges") == "true",
		SelinuxLabel:    r.ProcessLabel,
		OOMScoreAdj:     &r.host.OomScoreAdj,
	}
	user, _ := numericUser(r.Config.User)
	process.User = user
	for _, group := range r.host.GroupAdd {
		if gid, err := strconv.ParseUint(group, 10, 32); err == nil {
			process.User.AdditionalGids = append(process.User.AdditionalGids, uint32(gid))
		}
	}
	caps := r.capabilities()
	process.Capabilities = &specs.LinuxCapabilities{Bounding: caps}
	if name, _, _ := strings.Cut(r.Config.User, ":"); name == "" || name == "root" || strings.Trim(name, "0") == "" {
		// Another user than root loses these in execve(2).
		process.Capabilities.Effective, process.Capabilities.Permitted = slices.Clone(caps), slices.Clone(caps)
	}
	if profile := cmp.Or(r.securityOpt("apparmor"), r.AppArmorProfile); profile != "unconfined" && !r.host.Privileged {
		process.ApparmorProfile = profile
	}
	for _, limit := range r.host.Ulimits {
		process.Rlimits = append(process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(limit.Name), Hard: uint64(limit.Hard), Soft: uint64(limit.Soft), // -1 is unlimited
		})
	}
	return process
}

// env puts what dockerd always sets before the container's own.
func (r dockerRecord) env() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + r.Config.Hostname}
	if r.Config.Tty {
		env = append(env, "TERM=xterm")
	}
	for _, kv := range r.Config.Env {
		name, _, assigned := strings.Cut(kv, "=")
		i := slices.IndexFunc(env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		switch {
		case !assigned && i >= 0:
			env = slices.Delete(env, i, i+1) // NAME alone takes it away
		case !assigned:
		case i >= 0:
			env[i] = kv
		default:
			env = append(env, kv)
		}
	}
	return env
}

// numericUser reads "", "UID" and "UID:GID". A user id alone has group 0.
func numericUser(user string) (specs.User, bool) {
	if user == "" {
		return specs.User{}, true
	}
	name, group, hasGroup := strings.Cut(user, ":")
	uid, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return specs.User{}, false
	}
	if !hasGroup {
		return specs.User{UID: uint32(uid)}, true
	}
	gid, err := strconv.ParseUint(group, 10, 31)
	return specs.User{UID: uint32(uid), GID: uint32(gid)}, err == nil
}

func (r dockerRecord) capabilities() []string {
	security := kubeletSecurity{Privileged: &r.host.Privileged}
	if !r.host.Privileged {
		security.Capabilities.Add, security.Capabilities.Drop = upper(r.host.CapAdd), upper(r.host.CapDrop)
	}
	if caps := security.capabilities(); caps != nil {
		return caps.Bounding
	}
	return defaultCapabilities()
}

func upper(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToUpper(s)
	}
	return out
}

// securityOpt returns the value of NAME=VALUE or the old NAME:VALUE; of NAME
// alone it is "true".
func (r dockerRecord) securityOpt(name string) string {
	for _, opt := range r.host.SecurityOpt {
		key, value := opt, "true"
		if i := strings.IndexAny(opt, "=:"); i >= 0 {
			key, value = opt[:i], opt[i+1:]
		}
		if key == name {
			return value
		}
	}
	return ""
}

func (r dockerRecord) namespaces() []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, ns := range []struct {
		kind    specs.LinuxNamespaceType
		private bool
	}{
		{specs.NetworkNamespace, r.host.NetworkMode != "host"},
		{specs.UTSNamespace, r.host.UTSMode != "host"},
		{specs.PIDNamespace, r.host.PidMode != "host"},
		{specs.IPCNamespace, r.host.IpcMode != "host"},
		{specs.CgroupNamespace, r.host.CgroupnsMode == "private"},
	} {
		if ns.private {
			list = append(list, specs.LinuxNamespace{Type: ns.kind})
		}
	}
	return list
}

// sysctls adds dockerd's own for a private network: any user may use low ports
// and ping there.
func (r dockerRecord) sysctls() map[string]string {
	sysctls := map[string]string{}
	if r.host.NetworkMode != "host" {
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(sysctls, r.host.Sysctls)
	if len(sysctls) == 0 {
		return nil
	}
	return sysctls
}

// annotations holds what a spec has no field for.
func (r dockerRecord) annotations() map[string]string {
	notes := map[string]string{}
	if _, ok := numericUser(r.Config.User); !ok {
		notes[AnnotationUser] = r.Config.User
	}
	ports := map[string]bool{}
	for port := range r.Config.ExposedPorts {
		ports[port] = true
	}
	for port := range r.host.PortBindings {
		ports[port] = true
	}
	if len(ports) > 0 {
		notes[AnnotationPorts] = strings.Join(slices.Sorted(maps.Keys(ports)), ",")
	}
	restartNote(notes, r.host.RestartPolicy.Name, r.host.RestartPolicy.MaximumRetryCount)
	healthNotes(notes, r.Config.Healthcheck, r.Config.Shell)
	if r.Config.StopSignal != "" {
		notes[AnnotationStopSignal] = r.Config.StopSignal
	}
	if !r.host.Privileged && r.securityOpt("seccomp") != "unconfined" && r.seccompProfile() == "" {
		notes[AnnotationSeccomp] = seccompDefault
	}
	return notes
}

// maskedPaths falls back on what dockerd hides where the record does not say.
func (r dockerRecord) maskedPaths() []string {
	switch {
	case r.host.Privileged:
		return nil
	case r.host.MaskedPaths != nil:
		return *r.host.MaskedPaths
	default:
		return []string{
			"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
		}
	}
}

func (r dockerRecord) readonlyPaths() []string {
	switch {
	case r.host.Privileged:
		return nil
	case r.host.ReadonlyPaths != nil:
		return *r.host.ReadonlyPaths
	default:
		return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
}
