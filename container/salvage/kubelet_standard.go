package salvage

import (
	"fmt"
	"path"
	"slices"

	"github.com/moby/sys/devices"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// standard adds what containerd's CRI plugin gives every container that the
// kubelet asks for (container_create_linux.go there): mounts, but those the pod
// has something else in place of, device rules and hidden paths. A privileged
// one has nothing hidden and every device of this host.
func (p *kubeletPod) standard(spec *specs.Spec, privileged bool) error {
	spec.Mounts = slices.Concat(standardMounts(spec.Mounts, privileged, p.Spec.HostIPC), spec.Mounts)
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: privileged, Access: "rwm"}} // the runtime adds what every container has
	if !privileged {
		spec.Linux.MaskedPaths = []string{
			"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		}
		spec.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
		return nil
	}
	all, err := devices.HostDevices()
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	for _, d := range all {
		spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
			Type: string(d.Type), Path: d.Path, Major: d.Major, Minor: d.Minor, FileMode: &d.FileMode, UID: &d.Uid, GID: &d.Gid,
		})
	}
	return nil
}

func standardMounts(own []specs.Mount, privileged, hostIPC bool) []specs.Mount {
	sys := "ro"
	if privileged {
		sys = "rw"
	}
	shm := specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}
	if hostIPC {
		shm = bindMount("/dev/shm", "/dev/shm", "rprivate", true)
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", sys}},
		shm,
	}
	return slices.DeleteFunc(mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(own, func(o specs.Mount) bool { return within(path.Clean(o.Destination), m.Destination) })
	})
}

// seccomp decides the filter: none unless the pod asks for one, as with the
// kubelet. Its own profiles are not read: the default stands in for them.
func (p *kubeletPod) seccomp(c *kubeletPodContainer, spec *specs.Spec) error {
	profile := c.SecurityContext.SeccompProfile
	if profile == nil {
		profile = p.Spec.SecurityContext.SeccompProfile
	}
	if profile == nil || profile.Type == "Unconfined" || isTrue(c.SecurityContext.Privileged) {
		return nil
	}
	spec.Annotations[AnnotationSeccomp] = seccompDefault
	if profile.Type != "RuntimeDefault" {
		return fmt.Errorf("seccomp profile %s %s is not read: the default one is applied", profile.Type, profile.LocalhostProfile)
	}
	return nil
}
