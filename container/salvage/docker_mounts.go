package salvage

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts lists dockerd's standard mounts, but those the container has something
// else in place of, then the container's own, a directory before what is in it.
func (r dockerRecord) mounts() ([]specs.Mount, error) {
	own := map[string]specs.Mount{}
	for file, source := range map[string]string{"/etc/resolv.conf": r.ResolvConfPath, "/etc/hosts": r.HostsPath, "/etc/hostname": r.HostnamePath} {
		if source != "" {
			own[file] = bindMount(source, file, "rprivate", !r.host.ReadonlyRootfs)
		}
	}
	for destination, options := range r.host.Tmpfs {
		own[path.Clean(destination)] = tmpfsMount(destination, options)
	}
	for destination, point := range r.MountPoints {
		destination = path.Clean(cmp.Or(point.Destination, destination))
		own[destination] = r.mountPoint(destination, point)
	}
	_, ownDev := own["/dev"]
	var mounts []specs.Mount
	for _, m := range r.standardMounts() {
		if _, replaced := own[m.Destination]; !replaced && !(ownDev && within("/dev", m.Destination)) {
			mounts = append(mounts, m)
		}
	}
	byDepth := func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(a, "/"), strings.Count(b, "/")), cmp.Compare(a, b))
	}
	for _, destination := range slices.SortedFunc(maps.Keys(own), byDepth) {
		m := own[destination]
		if !path.IsAbs(destination) || destination == "/" || isBind(m) && !filepath.IsAbs(m.Source) {
			return nil, fmt.Errorf("mounting %q at %q: not absolute paths", m.Source, destination)
		}
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func bindMount(source, destination, propagation string, writable bool) specs.Mount {
	options := []string{"rbind"}
	if propagation != "" {
		options = append(options, propagation)
	}
	if writable {
		options = append(options, "rw")
	} else {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}

func tmpfsMount(destination, options string) specs.Mount {
	list := []string{"noexec", "nosuid", "nodev", "rprivate"}
	if options != "" {
		list = append(list, strings.Split(options, ",")...)
	}
	return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: list}
}

// mountPoint converts a bind, a volume or a tmpfs. A local volume with no source
// in its record is where dockerd keeps it.
func (r dockerRecord) mountPoint(destination string, point dockerMountPoint) specs.Mount {
	if point.Type == "tmpfs" {
		var options []string
		if o := point.Spec.TmpfsOptions; o != nil && o.SizeBytes > 0 {
			options = append(options, "size="+strconv.FormatInt(o.SizeBytes, 10))
		}
		if o := point.Spec.TmpfsOptions; o != nil && o.Mode != 0 {
			options = append(options, fmt.Sprintf("mode=%o", o.Mode&0o7777))
		}
		return tmpfsMount(destination, strings.Join(options, ","))
	}
	source := point.Source
	if source == "" && point.Name != "" && filepath.IsLocal(point.Name) && (point.Driver == "" || point.Driver == "local") {
		source = filepath.Join(r.dataRoot(), "volumes", point.Name, "_data")
	}
	return bindMount(source, destination, point.Propagation, point.RW)
}

// standardMounts is oci/defaults.go of moby, after HostConfig.
func (r dockerRecord) standardMounts() []specs.Mount {
	sys := "ro"
	if r.host.Privileged {
		sys = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", sys}},
	}
	if r.host.IpcMode == "none" {
		return mounts
	}
	mounts = append(mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
	if r.host.IpcMode == "host" {
		return append(mounts, bindMount("/dev/shm", "/dev/shm", "rprivate", true))
	}
	size := int64(64 << 20)
	if r.host.ShmSize > 0 {
		size = r.host.ShmSize
	}
	return append(mounts, specs.Mount{
		Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
		Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + strconv.FormatInt(size, 10)},
	})
}
