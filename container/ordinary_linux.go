package container

import (
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ordinaryCaps are containerd's default capabilities.
func ordinaryCaps() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP",
		"CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

// ordinary is what containerd gives a container (its package pkg/oci, to which a
// test compares): capabilities, filter, masked paths, mounts and device rules.
// Only what fits a host that has lost its orchestrator differs: the descriptor
// limit is the host's own, and a host with only cgroup v2 gets a cgroup namespace.
func ordinary() *specs.Spec {
	c := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: ordinaryCaps(), Permitted: ordinaryCaps(), Effective: ordinaryCaps()},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: ordinaryDevices()},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
	// Who can read how hot a processor is can tell what its neighbours do.
	throttles, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	c.Linux.MaskedPaths = append(c.Linux.MaskedPaths, throttles...)
	if cgroups.IsCgroup2UnifiedMode() {
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		setMount(c, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
	}
	c.Linux.Seccomp = seccompProfile(ordinaryCaps())
	return c
}

// ordinaryDevices are the rules for the devices that every container has
// (config-linux.md#default-devices), and none else. A minor of -1 is any.
func ordinaryDevices() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, number := range [][2]int64{
		{1, 3}, {1, 8}, {1, 7}, {5, 0}, {1, 5}, {1, 9}, // null, random, full, tty, zero, urandom
		{5, 1}, {136, -1}, {5, 2}, // console, pts/*, ptmx
	} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &number[0], Minor: &number[1], Access: "rwm"}
		if number[1] < 0 {
			rule.Minor = nil
		}
		rules = append(rules, rule)
	}
	return rules
}
