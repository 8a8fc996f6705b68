package salvage

import (
	"cmp"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (r dockerRecord) resources() *specs.LinuxResources {
	h := r.host
	resources := &specs.LinuxResources{Devices: standardDevices(h.Privileged), Memory: r.memory(), CPU: r.cpu()}
	if h.PidsLimit != nil && *h.PidsLimit > 0 {
		resources.Pids = &specs.LinuxPids{Limit: h.PidsLimit}
	}
	return resources
}

func (r dockerRecord) memory() *specs.LinuxMemory {
	h := r.host
	memory := specs.LinuxMemory{}
	if h.Memory > 0 {
		memory.Limit = &h.Memory
	}
	if h.MemoryReservation > 0 {
		memory.Reservation = &h.MemoryReservation
	}
	if h.MemorySwap != 0 { // -1 is unlimited
		memory.Swap = &h.MemorySwap
	}
	if s := h.MemorySwappiness; s != nil && *s >= 0 {
		swappiness := uint64(*s)
		memory.Swappiness = &swappiness
	}
	if d := h.OomKillDisable; d != nil && *d {
		memory.DisableOOMKiller = d
	}
	if memory == (specs.LinuxMemory{}) {
		return nil
	}
	return &memory
}

func (r dockerRecord) cpu() *specs.LinuxCPU {
	h := r.host
	cpu := specs.LinuxCPU{Cpus: h.CpusetCpus, Mems: h.CpusetMems}
	if h.CPUShares > 0 {
		shares := uint64(h.CPUShares)
		cpu.Shares = &shares
	}
	if h.NanoCPUs > 0 {
		h.CPUPeriod = 100_000 // microseconds
		h.CPUQuota = h.NanoCPUs / 10_000
	}
	if h.CPUPeriod > 0 {
		period := uint64(h.CPUPeriod)
		cpu.Period = &period
	}
	if h.CPUQuota != 0 { // -1 is unlimited
		cpu.Quota = &h.CPUQuota
	}
	if cpu == (specs.LinuxCPU{}) {
		return nil
	}
	return &cpu
}

// standardDevices is dockerd's default access: null, zero, random, urandom, tty
// and console, but not fuse. The runtime adds what every container needs.
func standardDevices(privileged bool) []specs.LinuxDeviceCgroup {
	if privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, number := range [][2]int64{{1, 3}, {1, 5}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {10, 229}} {
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: number != [2]int64{10, 229}, Type: "c", Major: &number[0], Minor: &number[1], Access: "rwm",
		})
	}
	return rules
}

// maxDevices bounds a directory given as a device.
const maxDevices = 1024

// device adds a device, or all in a directory, with the numbers they have on this
// host: like dockerd, which looks at every start. One that is not here becomes a
// bind mount, so that [Recover] says it is missing.
func (r dockerRecord) device(spec *specs.Spec, d dockerDevice) {
	source := path.Clean(d.PathOnHost)
	inside := path.Clean(cmp.Or(d.PathInContainer, d.PathOnHost))
	found := 0
	if within("/dev", source) {
		if real, err := filepath.EvalSymlinks(source); err == nil && within("/dev", real) {
			_ = filepath.WalkDir(real, func(name string, entry fs.DirEntry, err error) error {
				if err != nil || found == maxDevices {
					return fs.SkipAll
				}
				if entry.Type()&fs.ModeDevice != 0 && addDevice(spec, name, path.Join(inside, strings.TrimPrefix(name, real)), cmp.Or(d.CgroupPermissions, "rwm"), r.host.Privileged) {
					found++
				}
				return nil
			})
		}
	}
	if found == 0 && path.IsAbs(source) && path.IsAbs(inside) && inside != "/" {
		spec.Mounts = append(spec.Mounts, bindMount(source, inside, "rprivate", true))
	}
}

// addDevice reports whether name is a device.
func addDevice(spec *specs.Spec, name, inside, access string, privileged bool) bool {
	var stat unix.Stat_t
	if err := unix.Lstat(name, &stat); err != nil {
		return false
	}
	kind := "c"
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
	case unix.S_IFBLK:
		kind = "b"
	default:
		return false
	}
	major, minor := int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	mode := fs.FileMode(stat.Mode & 0o7777)
	spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
		Path: inside, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid,
	})
	if !privileged {
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access,
		})
	}
	return true
}
