package container

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	_ "github.com/opencontainers/cgroups/devices" // without it device rules are refused at start
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimits maps the runtime specification's names to setrlimit(2)'s numbers.
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// libConfig converts a runtime configuration to libcontainer's. bundle is the
// directory in which runc exec will look for config.json.
func libConfig(name, bundle string, c *specs.Spec) (*configs.Config, error) {
	if c.Root == nil || c.Process == nil || c.Linux == nil {
		return nil, fmt.Errorf("%w: root, process and linux are needed in a runtime configuration", ErrBadSpec)
	}
	conf, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: name, Spec: c})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	if conf.Seccomp != nil && !hasX32() {
		conf.Seccomp.Architectures = slices.DeleteFunc(conf.Seccomp.Architectures, func(a string) bool { return a == "x32" })
	}
	if Nested() {
		// No devices can be made there; a rule that forbids some would take a program
		// in the kernel, which a user namespace may not load.
		conf.Cgroups.Devices = []*devices.Rule{{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "rwm", Allow: true}}
	}
	conf.Labels = slices.DeleteFunc(conf.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") })
	conf.Labels = append(conf.Labels, "bundle="+bundle)
	return conf, nil
}

// hasX32 says whether the kernel takes system calls by the numbers of x32, 64-bit
// registers with 32-bit pointers (syscall(2)). Few do; without them rules for
// x32 forbid nothing, and take libseccomp more time than all others.
func hasX32() bool {
	const x32Bit = 0x40000000
	if runtime.GOARCH != "amd64" {
		return false
	}
	_, _, errno := unix.RawSyscall(unix.SYS_GETPID|x32Bit, 0, 0, 0)
	return errno != unix.ENOSYS
}

// libProcess converts what specconv leaves out: args, environment, user and
// limits (config.md#process of the runtime specification).
func libProcess(p *specs.Process, init bool) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, UID: int(p.User.UID), GID: int(p.User.GID), Cwd: p.Cwd,
		Label: p.SelinuxLabel, NoNewPrivileges: &p.NoNewPrivileges, AppArmorProfile: p.ApparmorProfile,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority, Init: init, LogLevel: "3", // logrus's warning level and above
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if caps := p.Capabilities; caps != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Permitted: caps.Permitted,
			Inheritable: caps.Inheritable, Ambient: caps.Ambient,
		}
	}
	for _, l := range p.Rlimits {
		n, ok := rlimits[l.Type]
		if !ok {
			return nil, fmt.Errorf("%w: unknown limit %q", ErrBadSpec, l.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: n, Hard: l.Hard, Soft: l.Soft})
	}
	if size := p.ConsoleSize; size != nil {
		lp.ConsoleHeight, lp.ConsoleWidth = uint16(size.Height), uint16(size.Width)
	}
	return lp, nil
}
