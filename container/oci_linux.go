package container

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/devices"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// OCI makes the runtime configuration of a filled specification whose root
// filesystem is the directory rootfs. What the host cannot give is still in it.
func (s Spec) OCI(rootfs string) (*specs.Spec, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if len(s.Args) == 0 {
		return nil, fmt.Errorf("%w: no command: neither the image nor the specification names one; give it after --", ErrBadSpec)
	}
	c, err := s.base()
	if err != nil {
		return nil, err
	}
	c.Root = &specs.Root{Path: rootfs, Readonly: s.ReadOnly}
	c.Process.Args, c.Process.Env = s.Args, s.Env
	c.Process.Terminal = s.Terminal
	if s.Workdir != "" {
		c.Process.Cwd = s.Workdir
	}
	if c.Process.Cwd == "" {
		c.Process.Cwd = "/"
	}
	c.Linux.CgroupsPath = CgroupPath(s.Name)
	if s.User != "" {
		if err := setUser(c, rootfs, s.User); err != nil {
			return nil, err
		}
	}
	s.network(c)
	if err := s.limits(c); err != nil {
		return nil, err
	}
	if s.Privileged {
		privileged(c)
	}
	if err := s.capabilities(c); err != nil {
		return nil, err
	}
	if err := s.devices(c); err != nil {
		return nil, err
	}
	if s.Seccomp == "default" && c.Linux.Seccomp == nil && !s.Privileged {
		c.Linux.Seccomp = seccompProfile(bounding(c))
	}
	for _, m := range s.Mounts {
		setMount(c, m.oci())
	}
	return c, nil
}

// base is Config made safe to edit, or what containerd gives a container.
func (s Spec) base() (*specs.Spec, error) {
	if s.Config == nil {
		return ordinary(), nil
	}
	b, err := json.Marshal(specs.Spec(*s.Config))
	if err != nil {
		return nil, fmt.Errorf("copying runtime configuration: %w", err)
	}
	c := &specs.Spec{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("copying runtime configuration: %w", err)
	}
	if c.Process == nil {
		c.Process = &specs.Process{}
	}
	if c.Linux == nil {
		c.Linux = &specs.Linux{}
	}
	if c.Linux.Resources == nil {
		c.Linux.Resources = &specs.LinuxResources{}
	}
	if c.Version == "" {
		c.Version = specs.Version
	}
	// Without one of its own, what is mounted for it would stay on this host.
	if !slices.ContainsFunc(c.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.MountNamespace})
	}
	return c, nil
}

// network joins the host's network or makes one with nothing but a loopback.
func (s Spec) network(c *specs.Spec) {
	net := s.Net
	if net == "" && s.Config != nil {
		return
	}
	c.Linux.Namespaces = slices.DeleteFunc(c.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if net == "none" {
		c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
		return
	}
	if s.Rootfs != "" {
		return // its own files are the operator's: no mount point is made there
	}
	for _, f := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if real, err := filepath.EvalSymlinks(f); err == nil && !mounted(c, f) {
			setMount(c, specs.Mount{Destination: f, Type: "bind", Source: real, Options: []string{"bind", "ro"}})
		}
	}
}

// HostNet says whether the configuration shares the host's network.
func HostNet(c *specs.Spec) bool {
	return c.Linux == nil || !slices.ContainsFunc(c.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
}

func (s Spec) limits(c *specs.Spec) error {
	r := c.Linux.Resources
	if s.Memory != "" {
		n, err := ParseSize(s.Memory)
		if err != nil {
			return err
		}
		r.Memory = &specs.LinuxMemory{Limit: &n}
	}
	if s.CPUs > 0 {
		period := uint64(100000)
		quota := int64(s.CPUs * float64(period))
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		r.CPU.Quota, r.CPU.Period = &quota, &period
	}
	if s.PIDs > 0 {
		r.Pids = &specs.LinuxPids{Limit: &s.PIDs}
	}
	return nil
}

// privileged gives all that the caller has: every capability, every device, no
// filter and nothing masked.
func privileged(c *specs.Spec) {
	all := capabilities.KnownCapabilities()
	c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	c.Process.NoNewPrivileges = false
	c.Process.ApparmorProfile, c.Process.SelinuxLabel = "", ""
	c.Linux.Seccomp, c.Linux.MaskedPaths, c.Linux.ReadonlyPaths = nil, nil, nil
	c.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for i, m := range c.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			c.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
	if devs, err := devices.HostDevices(); err == nil {
		for _, d := range devs {
			c.Linux.Devices = append(c.Linux.Devices, ociDevice(d))
		}
	}
}

func ociDevice(d *config.Device) specs.LinuxDevice {
	return specs.LinuxDevice{
		Type: string(d.Type), Path: d.Path, Major: d.Major, Minor: d.Minor, FileMode: &d.FileMode, UID: &d.Uid, GID: &d.Gid,
	}
}

func bounding(c *specs.Spec) []string {
	if c.Process.Capabilities == nil {
		return nil
	}
	return c.Process.Capabilities.Bounding
}

// capabilities applies drops, then additions, to the sets a process starts with.
func (s Spec) capabilities(c *specs.Spec) error {
	if len(s.CapAdd)+len(s.CapDrop) == 0 {
		return nil
	}
	if c.Process.Capabilities == nil {
		c.Process.Capabilities = &specs.LinuxCapabilities{}
	}
	have := slices.Clone(c.Process.Capabilities.Bounding)
	known := capabilities.KnownCapabilities()
	for _, name := range s.CapDrop {
		caps, err := namedCaps(name, known)
		if err != nil {
			return err
		}
		have = slices.DeleteFunc(have, func(h string) bool { return slices.Contains(caps, h) })
	}
	for _, name := range s.CapAdd {
		caps, err := namedCaps(name, known)
		if err != nil {
			return err
		}
		have = append(have, caps...)
	}
	slices.Sort(have)
	have = slices.Compact(have)
	// Ambient and inheritable sets would hand the capabilities to programs that
	// did not ask for them, and log warnings where the bounding set lacks one.
	c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have}
	if c.Linux.Seccomp != nil && s.Config == nil {
		c.Linux.Seccomp = seccompProfile(bounding(c)) // the profile opens calls that go with a capability
	}
	return nil
}

func namedCaps(name string, known []string) ([]string, error) {
	if strings.EqualFold(name, "all") {
		return known, nil
	}
	n := strings.ToUpper(name)
	if !strings.HasPrefix(n, "CAP_") {
		n = "CAP_" + n
	}
	if !slices.Contains(known, n) {
		return nil, fmt.Errorf("%w: unknown capability %q", ErrBadSpec, name)
	}
	return []string{n}, nil
}

// devices adds host devices, each /dev/SRC[:/dev/DST[:rwm]].
func (s Spec) devices(c *specs.Spec) error {
	for _, d := range s.Devices {
		parts := strings.Split(d, ":")
		access := "rwm"
		if len(parts) == 3 {
			access = parts[2]
		}
		if len(parts) > 3 || strings.Trim(access, "rwm") != "" {
			return fmt.Errorf("%w: device %q is not /dev/SRC[:/dev/DST[:rwm]]", ErrBadSpec, d)
		}
		found, err := devices.DeviceFromPath(parts[0], access)
		if err != nil {
			return fmt.Errorf("%w: device %s: %w", ErrBadSpec, parts[0], err)
		}
		dev := ociDevice(found)
		if len(parts) > 1 {
			dev.Path = parts[1]
		}
		c.Linux.Devices = append(c.Linux.Devices, dev)
		c.Linux.Resources.Devices = append(c.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: dev.Type, Major: &dev.Major, Minor: &dev.Minor, Access: access,
		})
	}
	return nil
}

func (m Mount) oci() specs.Mount {
	opts := slices.Clone(m.Options)
	if !slices.Contains(opts, "bind") && !slices.Contains(opts, "rbind") {
		opts = append(opts, "rbind")
	}
	if m.ReadOnly {
		opts = append(opts, "ro")
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: opts}
}

func mounted(c *specs.Spec, target string) bool {
	return slices.ContainsFunc(c.Mounts, func(m specs.Mount) bool { return filepath.Clean(m.Destination) == target })
}

// setMount puts m in the place of what was mounted on the same target.
func setMount(c *specs.Spec, m specs.Mount) {
	target := filepath.Clean(m.Destination)
	c.Mounts = slices.DeleteFunc(c.Mounts, func(o specs.Mount) bool { return filepath.Clean(o.Destination) == target })
	c.Mounts = append(c.Mounts, m)
}

// DataDirs lists the host directories and files that the configuration may
// write to: what a live twin would be writing as well.
func DataDirs(c *specs.Spec) []string {
	var dirs []string
	for _, m := range c.Mounts {
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if !bind || slices.Contains(m.Options, "ro") || strings.HasPrefix(m.Source, "/dev") || strings.HasPrefix(m.Source, "/sys") || strings.HasPrefix(m.Source, "/proc") {
			continue
		}
		if fi, err := os.Stat(m.Source); err == nil && (fi.IsDir() || fi.Mode().IsRegular()) && m.Source != "/" {
			dirs = append(dirs, m.Source)
		}
	}
	return dirs
}
