package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// Features tries what a recovery on this host needs and gives the answers in
// the order in which an operator reads them. Everything is tried for real and
// undone: no mount, cgroup, namespace or file stays. It needs no privilege; what
// may not be tried is unknown. It never blocks on a daemon for more than a second.
func Features(ctx context.Context, o FeatureOptions) []Feature {
	o.StateDir, o.DataDir = cmp.Or(o.StateDir, DefaultState), cmp.Or(o.DataDir, DefaultData)
	return slices.Concat(
		[]Feature{kernelVersion(), rootUser()},
		capabilityFeatures(),
		namespaceFeatures(),
		cgroupFeatures(),
		[]Feature{systemdDriver(ctx)},
		[]Feature{overlayFeature(o.DataDir), mountAPI()},
		seccompFeatures(),
		[]Feature{pidfd(), processIDs(), procVisible(), securityModule(), nftables()},
		directoryFeatures("state", o.StateDir, 100<<20, 1000),
		directoryFeatures("data", o.DataDir, 2<<30, 10000),
		[]Feature{mountFlags(o.DataDir), memory(), clock(o.TimeFloor, o.Now)},
	)
}

func kernelVersion() Feature {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Feature{Name: "kernel", Have: Unknown, Need: Optional, Detail: err.Error()}
	}
	return Feature{
		Name: "kernel", Have: Yes, Need: Optional,
		Detail: unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:]),
	}
}

func rootUser() Feature {
	f := Feature{Name: "root", Have: answer(os.Geteuid() == 0), Need: Required, Detail: fmt.Sprintf("effective user %d", os.Geteuid())}
	return f.missing("no container can be started; run this as root")
}

func capabilityFeatures() []Feature {
	held, err := effective()
	one := func(name string, need Need, c capability.Cap, means string) Feature {
		f := Feature{Name: name, Have: Unknown, Need: need}
		if err != nil {
			f.Detail = err.Error()
			return f.missing(means)
		}
		f.Have, f.Detail = answer(held.Get(capability.EFFECTIVE, c)), "CAP_"+strings.ToUpper(c.String())
		return f.missing(means)
	}
	all := Feature{Name: "capabilities", Have: Unknown, Need: Degrades}
	if err != nil {
		all.Detail = err.Error()
	} else if known, err := capability.ListSupported(); err != nil {
		all.Detail = err.Error()
	} else {
		var gone []string
		for _, c := range known {
			if !held.Get(capability.EFFECTIVE, c) {
				gone = append(gone, "CAP_"+strings.ToUpper(c.String()))
			}
		}
		all.Have, all.Detail = answer(len(gone) == 0), "all"
		if len(gone) > 0 {
			all.Detail = "missing " + strings.Join(gone, ", ")
			if len(gone) == len(known) {
				all.Detail = "none"
			}
		}
	}
	return []Feature{
		one("administer", Required, capability.CAP_SYS_ADMIN, "nothing can be mounted or put into a namespace; start from a full root shell, not from inside a container"),
		one("raise-limits", Degrades, capability.CAP_SYS_RESOURCE, "rlimits above this shell's hard limits are lowered to them; raise ulimit -Hn before, if the service needs many files"),
		one("trace", Degrades, capability.CAP_SYS_PTRACE, "other users' processes cannot be seen into: a live twin may be missed; look with ps and ss yourself"),
		all.missing("a container that asks for these runs without them"),
	}
}

func effective() (capability.Capabilities, error) {
	held, err := capability.NewPid2(0)
	if err != nil {
		return nil, fmt.Errorf("reading capabilities: %w", err)
	}
	if err := held.Load(); err != nil {
		return nil, fmt.Errorf("reading capabilities: %w", err)
	}
	return held, nil
}

func namespaceFeatures() []Feature {
	var found []Feature
	for _, ns := range []struct {
		name  string
		flag  uintptr
		need  Need
		means string
	}{
		{"mount", unix.CLONE_NEWNS, Required, "no container can be started"},
		{"pid", unix.CLONE_NEWPID, Required, "no container can be started"},
		{"ipc", unix.CLONE_NEWIPC, Required, "no container can be started"},
		{"uts", unix.CLONE_NEWUTS, Required, "no container can be started"},
		{"network", unix.CLONE_NEWNET, Optional, "only the host's network can be used: no --net none, no sandbox, no rehearsal here"},
		{"cgroup", unix.CLONE_NEWCGROUP, Optional, "containers see the host's cgroup paths; harmless to most services"},
		{"user", unix.CLONE_NEWUSER, Optional, "no sandbox without root"},
	} {
		f := Feature{Name: ns.name + "-namespace", Need: ns.need}
		switch err := cloneInto(ns.flag); {
		case err == nil:
			f.Have, f.Detail = Yes, "made and left"
		default:
			f.Have, f.Detail = No, err.Error()
		}
		found = append(found, f.missing(ns.means))
	}
	return found
}

// cloneInto makes a child in a new namespace that ends at once: the program it
// shall execute has no name. Only that error tells that the clone worked; the
// kernel's clone(2) never gives it.
func cloneInto(flag uintptr) error {
	_, err := syscall.ForkExec("", []string{""}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flag}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func processIDs() Feature {
	f := Feature{Name: "process-ids", Have: Unknown, Need: Degrades}
	limit, err := sysctl("kernel/pid_max")
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	load, err := os.ReadFile("/proc/loadavg") // "0.1 0.2 0.3 RUNNING/TOTAL LAST"
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	_, total, _ := strings.Cut(string(load), "/")
	total, _, _ = strings.Cut(total, " ")
	used, err := strconv.ParseUint(total, 10, 64)
	if err != nil {
		f.Detail = "unreadable /proc/loadavg"
		return f
	}
	f.Have, f.Detail = answer(used+1000 <= limit), fmt.Sprintf("%d of %d used", used, limit)
	return f.missing("forks are about to fail; end what leaks processes, or raise kernel.pid_max")
}

// procVisible asks for a /proc that shows every process, as the twin check needs.
func procVisible() Feature {
	f := Feature{Name: "proc", Have: Unknown, Need: Degrades}
	var fs unix.Statfs_t
	if err := unix.Statfs("/proc", &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		f.Have, f.Need, f.Detail = No, Required, "no proc filesystem on /proc"
		return f.missing("no container can be started; mount -t proc proc /proc")
	}
	dir, err := os.Open("/proc/self")
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	defer dir.Close()
	m := mountsOf(&proc{dir: dir}).at("/proc")
	if m == nil {
		f.Detail = "not in the mount table"
		return f
	}
	hide := "off"
	for o := range strings.SplitSeq(m.VFSOptions, ",") {
		if v, ok := strings.CutPrefix(o, "hidepid="); ok {
			hide = v
		}
	}
	f.Detail = "hidepid=" + hide
	f.Have = answer(hide == "off" || hide == "0" || os.Geteuid() == 0)
	return f.missing("other users' processes are hidden: a live twin may be missed; run this as root")
}

// securityModule tells of a module that confines containers. None is no defect.
func securityModule() Feature {
	f := Feature{Name: "security-module", Have: No, Need: Optional, Detail: "neither AppArmor nor SELinux"}
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(b), "Y") {
		f.Have, f.Detail = Yes, "AppArmor enabled"
		f.Means = "recovery containers run without a profile of the orchestrator's unless it is loaded"
	}
	if b, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil {
		f.Have, f.Detail = Yes, "SELinux permissive"
		if strings.HasPrefix(string(b), "1") {
			f.Detail = "SELinux enforcing"
			f.Means = "a service may be refused its own data by label; look for avc: denied in the audit log, and setenforce 0 if it must"
		}
	}
	return f
}

func memory() Feature {
	f := Feature{Name: "memory", Have: Unknown, Need: Degrades, Detail: "no MemAvailable in /proc/meminfo"}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemAvailable:" {
			continue
		}
		if kib, err := strconv.ParseUint(fields[1], 10, 54); err == nil {
			f.Have, f.Detail = answer(kib >= 256<<10), size(kib<<10)+" available"
		}
	}
	return f.missing("a service may be killed as soon as it loads its data; end what is not needed")
}

// clock compares the host's clock with the latest time known to have passed.
func clock(floor, now time.Time) Feature {
	f := Feature{Name: "clock", Have: Unknown, Need: Degrades, Detail: "reads " + now.UTC().Format(time.RFC3339)}
	if floor.IsZero() || now.IsZero() {
		f.Detail = "nothing to compare it with"
		return f
	}
	f.Have = answer(!now.Before(floor))
	if f.Have == No {
		f.Detail += ", " + floor.Sub(now).Round(time.Second).String() + " behind the latest time known to have passed, " + floor.UTC().Format(time.RFC3339)
	}
	return f.missing("valid certificates look not yet valid, and logs and leases are dated wrongly; set it: date -u -s")
}

func sysctl(name string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

// size is a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 1<<30:
		return strconv.FormatFloat(float64(n)/(1<<30), 'f', 1, 64) + " GiB"
	case n >= 1<<20:
		return strconv.FormatUint(n>>20, 10) + " MiB"
	}
	return strconv.FormatUint(n>>10, 10) + " KiB"
}
