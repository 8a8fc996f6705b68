package container

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// hierarchies are the mounted cgroup filesystems.
type hierarchies struct {
	v2    string            // mount point of the unified one, or ""
	v1    map[string]string // controller to mount point
	roots []string          // every mount point once, in mount order
}

func cgroupMounts() (hierarchies, error) {
	h := hierarchies{v1: map[string]string{}}
	dir, err := os.Open("/proc/self")
	if err != nil {
		return h, fmt.Errorf("reading mounts: %w", err)
	}
	defer dir.Close()
	for _, m := range mountsOf(&proc{dir: dir}) {
		switch m.FSType {
		case "cgroup2":
			h.v2 = m.Mountpoint
		case "cgroup":
			for o := range strings.SplitSeq(m.VFSOptions, ",") {
				h.v1[o] = m.Mountpoint
			}
		default:
			continue
		}
		if !slices.Contains(h.roots, m.Mountpoint) {
			h.roots = append(h.roots, m.Mountpoint)
		}
	}
	return h, nil
}

// limiter is a controller with the file by which it limits in v1.
type limiter struct{ name, file, means string }

func limiters() []limiter {
	return []limiter{
		{"memory", "memory.limit_in_bytes", "--memory is left out: a service may take all memory"},
		{"cpu", "cpu.cfs_quota_us", "--cpus is left out"},
		{"pids", "pids.max", "--pids is left out: a fork bomb is not contained"},
		{"cpuset", "cpuset.cpus", "containers cannot be bound to processors"},
	}
}

// cgroupFeatures makes a cgroup in every hierarchy, looks which controllers
// reach it, and removes it again.
func cgroupFeatures() []Feature {
	version := Feature{Name: "cgroups", Need: Degrades, Have: Unknown}
	h, err := cgroupMounts()
	if err != nil {
		version.Detail = err.Error()
		return []Feature{version}
	}
	version.Have = answer(len(h.roots) > 0)
	switch {
	case len(h.roots) == 0:
		version.Detail = "no cgroup filesystem is mounted"
	case h.v2 == "":
		version.Detail = "v1"
	case slices.ContainsFunc(limiters(), func(l limiter) bool { return h.v1[l.name] != "" }):
		version.Detail = "hybrid: controllers in v1, v2 on " + h.v2
	default:
		version.Detail = "v2 on " + h.v2
	}
	version = version.missing("containers have no limits and stopping one may leave processes; mount -t cgroup2 none /sys/fs/cgroup")
	if version.Have != Yes {
		return []Feature{version}
	}
	made, create := h.try()
	found := []Feature{version, create.missing("containers start outside of any cgroup of their own: no limits, and stopping one may leave processes")}
	for _, l := range limiters() {
		f := Feature{Name: l.name + "-controller", Need: Degrades}
		f.Have, f.Detail = h.controller(l, made)
		found = append(found, f.missing(l.means))
	}
	return append(found, h.devices())
}

// try makes and removes a cgroup of a name of its own in every hierarchy and
// lists the files that were in it, by hierarchy.
func (h hierarchies) try() (made map[string][]string, f Feature) {
	f = Feature{Name: "cgroup-create", Need: Degrades, Have: Yes, Detail: "made and removed in " + strings.Join(h.roots, ", ")}
	made = map[string][]string{}
	for _, root := range h.roots {
		dir := filepath.Join(root, "blackstart-doctor-"+strconv.Itoa(os.Getpid()))
		if err := unix.Mkdir(dir, 0o755); err != nil {
			f.Have, f.Detail = No, fmt.Sprintf("%s: %v", root, err)
			continue
		}
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			made[root] = append(made[root], e.Name())
		}
		if rm := unix.Rmdir(dir); rm != nil {
			f.Have, f.Detail = No, fmt.Sprintf("%s: %v; remove it", dir, rm)
		} else if err != nil {
			f.Have, f.Detail = Unknown, err.Error()
		}
	}
	return made, f
}

// controller says whether a container's cgroup can be limited by a controller.
// In v2 one that is not yet handed down can be, if the root may be written.
func (h hierarchies) controller(l limiter, made map[string][]string) (Answer, string) {
	if root := h.v1[l.name]; root != "" {
		if files, ok := made[root]; ok {
			return answer(slices.Contains(files, l.file)), "v1 on " + root
		}
		return Unknown, "v1 on " + root + ", where no cgroup could be made"
	}
	if h.v2 == "" {
		return No, "not mounted"
	}
	offered, err := os.ReadFile(filepath.Join(h.v2, "cgroup.controllers"))
	if err != nil {
		return Unknown, err.Error()
	}
	if !slices.Contains(strings.Fields(string(offered)), l.name) {
		return No, "not offered by " + h.v2
	}
	control := filepath.Join(h.v2, "cgroup.subtree_control")
	down, err := os.ReadFile(control)
	if err == nil && slices.Contains(strings.Fields(string(down)), l.name) {
		return Yes, "v2 on " + h.v2
	}
	if err := unix.Access(control, unix.W_OK); err != nil {
		return No, fmt.Sprintf("v2, not handed down, and %s: %v", control, err)
	}
	return Yes, "v2 on " + h.v2 + ", handed down at the first start"
}

// devices are limited by a controller in v1 and by a BPF program in v2, which is
// loaded and let go here.
func (h hierarchies) devices() Feature {
	f := Feature{Name: "device-rules", Need: Degrades, Have: Yes, Detail: "v1 on " + h.v1["devices"]}
	if h.v1["devices"] == "" {
		f.Detail = "v2, by BPF"
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type:         ebpf.CGroupDevice,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
			License:      "Apache",
		})
		if err == nil {
			err = prog.Close()
		}
		if err != nil {
			f.Have, f.Detail = No, "BPF: "+oneLine([]byte(err.Error()))
		}
	}
	return f.missing("containers may open every device their user may")
}

// systemdDriver asks systemd itself, on its private socket, and never for long:
// one that hangs would hang every container with that driver.
func systemdDriver(ctx context.Context) Feature {
	f := Feature{Name: "systemd", Have: No, Need: Optional, Detail: "not the host's init"}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return f
	}
	f.Have, f.Detail = Yes, "answers"
	if err := askSystemd(ctx, "/run/systemd/private"); err != nil {
		f.Have, f.Detail = No, err.Error()
		if os.Geteuid() != 0 {
			f.Have = Unknown
		}
	}
	return f.missing("containers use the cgroup filesystem directly, as by default; do not ask for the systemd driver")
}

// askSystemd makes the first step of D-Bus's authentication (D-Bus
// specification, Authentication Protocol).
func askSystemd(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("asking systemd: %w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("asking systemd: %w", err)
	}
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := conn.Write([]byte("\x00AUTH EXTERNAL " + uid + "\r\n")); err != nil {
		return fmt.Errorf("asking systemd: %w", err)
	}
	reply := make([]byte, 256)
	n, err := conn.Read(reply)
	if err != nil {
		return fmt.Errorf("asking systemd: %w", err)
	}
	if !bytes.HasPrefix(reply[:n], []byte("OK")) {
		return fmt.Errorf("asking systemd: it answered %q", oneLine(reply[:n]))
	}
	return nil
}
