package container

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Fit takes out of a configuration what this host cannot give, so that the rest
// still starts. Each returned sentence names one thing that is missing or less.
func Fit(c *specs.Spec) []string {
	var lost []string
	say := func(format string, a ...any) { lost = append(lost, fmt.Sprintf(format, a...)) }
	fitCapabilities(c, say)
	fitRlimits(c, say)
	fitNamespaced(c, say)
	fitSecurity(c, say)
	if Nested() {
		fitNested(c, say)
	}
	fitCgroup(c, say)
	return lost
}

// fitNested leaves what a user namespace cannot give: it may not make devices, nor
// mount a sysfs of a network that is not its own, nor a proc with more rights than
// the one that it sees (mount_namespaces(7)).
func fitNested(c *specs.Spec, say func(string, ...any)) {
	for i, m := range c.Mounts {
		switch m.Type {
		case "proc":
			c.Mounts[i].Options = append(slices.Clone(m.Options), "ro")
		case "sysfs":
			c.Mounts[i].Type, c.Mounts[i].Source, c.Mounts[i].Options = "bind", "/sys", []string{"bind", "nosuid", "noexec", "nodev", "ro"}
		}
	}
	c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" || m.Type == "cgroup2" })
	if r := c.Linux.Resources; r != nil {
		if r.Memory != nil || r.CPU != nil || r.Pids != nil {
			say("limits of memory, processors and processes are those of the vacuum, not of the container")
		}
		c.Linux.Resources = &specs.LinuxResources{}
	}
}

// fitCapabilities keeps the capabilities that the caller has itself: setting
// another one fails with EPERM (capabilities(7)).
func fitCapabilities(c *specs.Spec, say func(string, ...any)) {
	own, err := capability.NewPid2(0)
	if err != nil || own.Load() != nil || c.Process.Capabilities == nil {
		return
	}
	var missing []string
	for _, k := range capability.ListKnown() {
		if !own.Get(capability.PERMITTED, k) {
			missing = append(missing, "CAP_"+strings.ToUpper(k.String()))
		}
	}
	var dropped []string
	keep := func(set []string) []string {
		return slices.DeleteFunc(slices.Clone(set), func(name string) bool {
			gone := slices.Contains(missing, name)
			if gone {
				dropped = append(dropped, name)
			}
			return gone
		})
	}
	p := c.Process.Capabilities
	c.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: keep(p.Bounding), Effective: keep(p.Effective), Permitted: keep(p.Permitted),
		Inheritable: keep(p.Inheritable), Ambient: keep(p.Ambient),
	}
	slices.Sort(dropped)
	if dropped = slices.Compact(dropped); len(dropped) > 0 {
		say("this shell itself lacks %s: the container starts without", strings.Join(dropped, ", "))
	}
}

func mayRaise() bool {
	own, err := capability.NewPid2(0)
	return err == nil && own.Load() == nil && own.Get(capability.EFFECTIVE, capability.CAP_SYS_RESOURCE)
}

// fitRlimits lowers limits that the caller may not raise (setrlimit(2)), and the
// out-of-memory score likewise (proc_pid_oom_score_adj(5)).
func fitRlimits(c *specs.Spec, say func(string, ...any)) {
	seen := map[string]bool{}
	c.Process.Rlimits = slices.DeleteFunc(slices.Clone(c.Process.Rlimits), func(l specs.POSIXRlimit) bool {
		_, known := rlimits[l.Type]
		bad := !known || seen[l.Type]
		if bad {
			say("limit %s is unknown or given twice: ignored", l.Type)
		}
		seen[l.Type] = true
		return bad
	})
	if mayRaise() {
		return
	}
	for i, l := range c.Process.Rlimits {
		var own unix.Rlimit
		if unix.Getrlimit(rlimits[l.Type], &own) != nil || l.Hard <= own.Max {
			continue
		}
		say("%s cannot be raised to %d without CAP_SYS_RESOURCE: it stays at %d", l.Type, l.Hard, own.Max)
		c.Process.Rlimits[i].Hard, c.Process.Rlimits[i].Soft = own.Max, min(l.Soft, own.Max)
	}
	if adj := c.Process.OOMScoreAdj; adj != nil {
		var own int
		b, err := os.ReadFile("/proc/self/oom_score_adj")
		if err != nil {
			return
		}
		if _, err := fmt.Sscan(string(b), &own); err == nil && *adj < own {
			say("oom_score_adj cannot be lowered to %d without CAP_SYS_RESOURCE: it stays at %d", *adj, own)
			c.Process.OOMScoreAdj = &own
		}
	}
}

// fitNamespaced drops settings of namespaces that the container shares with the
// host: libcontainer refuses them, because they would change the host.
func fitNamespaced(c *specs.Spec, say func(string, ...any)) {
	has := func(t specs.LinuxNamespaceType) bool {
		return slices.ContainsFunc(c.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == t })
	}
	for key := range c.Linux.Sysctl {
		dotted := strings.ReplaceAll(key, "/", ".")
		shared := ""
		switch {
		case strings.HasPrefix(dotted, "net.") && !has(specs.NetworkNamespace):
			shared = "network"
		case (strings.HasPrefix(dotted, "kernel.msg") || strings.HasPrefix(dotted, "kernel.sem") || strings.HasPrefix(dotted, "kernel.shm") || strings.HasPrefix(dotted, "fs.mqueue.")) && !has(specs.IPCNamespace):
			shared = "IPC"
		}
		if shared != "" {
			say("sysctl %s is the host's, whose %s namespace the container shares: not set", key, shared)
			delete(c.Linux.Sysctl, key)
		}
	}
	if !has(specs.UTSNamespace) && (c.Hostname != "" || c.Domainname != "") {
		say("the host's own host name is kept, not changed to %s", c.Hostname)
		c.Hostname, c.Domainname = "", ""
	}
}

// fitSecurity drops filters and labels that this kernel does not know.
func fitSecurity(c *specs.Spec, say func(string, ...any)) {
	if c.Linux.Seccomp != nil && (!seccomp.Enabled || unix.Prctl(unix.PR_GET_SECCOMP, 0, 0, 0, 0) != nil) {
		say("no seccomp filter here: the container may make every system call")
		c.Linux.Seccomp = nil
	}
	if p := c.Process.ApparmorProfile; p != "" && p != "unconfined" {
		if !AppArmorLoaded(p) {
			say("AppArmor profile %s is not loaded: the container runs without", p)
			c.Process.ApparmorProfile = ""
		}
	}
	if c.Process.SelinuxLabel != "" || c.Linux.MountLabel != "" {
		if !SELinux() {
			say("SELinux is off: label %s is not set", c.Process.SelinuxLabel)
			c.Process.SelinuxLabel, c.Linux.MountLabel = "", ""
		}
	}
	if c.Linux.IntelRdt != nil {
		say("Intel RDT settings are not carried over")
		c.Linux.IntelRdt = nil
	}
}

// AppArmorLoaded says whether the kernel knows the profile (apparmor(7)).
func AppArmorLoaded(profile string) bool {
	b, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
	return err == nil && slices.ContainsFunc(strings.Split(string(b), "\n"), func(l string) bool { return strings.HasPrefix(l, profile+" (") })
}

// SELinux says whether this kernel enforces or permits SELinux labels (selinux(8)).
func SELinux() bool { return exists("/sys/fs/selinux/enforce") }

// fitCgroup drops limits whose controller is not there.
func fitCgroup(c *specs.Spec, say func(string, ...any)) {
	r := c.Linux.Resources
	if r == nil {
		return
	}
	v2 := cgroups.IsCgroup2UnifiedMode()
	have := func(controller string) bool {
		if v2 {
			b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
			return err == nil && slices.Contains(strings.Fields(string(b)), controller)
		}
		_, err := cgroups.FindCgroupMountpoint("", controller)
		return err == nil
	}
	if r.Memory != nil && !have("memory") {
		say("no memory controller: the memory limit is not set")
		r.Memory = nil
	}
	if r.CPU != nil && !have("cpu") {
		say("no cpu controller: the processor limit is not set")
		r.CPU.Quota, r.CPU.Period, r.CPU.Shares = nil, nil, nil
	}
	if r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "") && !have("cpuset") {
		say("no cpuset controller: the container may run on every processor")
		r.CPU.Cpus, r.CPU.Mems = "", ""
	}
	if r.CPU != nil && v2 && (r.CPU.RealtimeRuntime != nil || r.CPU.RealtimePeriod != nil) {
		say("cgroup v2 has no real-time budget: it is not set")
		r.CPU.RealtimeRuntime, r.CPU.RealtimePeriod = nil, nil
	}
	if r.Pids != nil && !have("pids") {
		say("no pids controller: the limit of processes is not set")
		r.Pids = nil
	}
	if len(r.HugepageLimits) > 0 && !have("hugetlb") {
		say("no hugetlb controller: huge page limits are not set")
		r.HugepageLimits = nil
	}
	if len(r.Unified) > 0 && !v2 {
		say("settings for cgroup v2 are left out on this cgroup v1 host")
		r.Unified = nil
	}
	if m := r.Memory; m != nil && v2 && (m.KernelTCP != nil || m.Swappiness != nil) {
		say("limits of TCP memory and swappiness are of cgroup v1 only: they are not set")
		m.KernelTCP, m.Swappiness = nil, nil
	}
	if m := r.Memory; m != nil && m.Swap != nil && !v2 && !exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes") {
		say("swap is not accounted here: the swap limit is not set")
		m.Swap = nil
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
