package salvage

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hooks removes them all: they are the orchestrator's programs, and one that is
// missing or waits for its daemon stops the start.
func (r *rewriter) hooks() {
	hooks := r.spec.Hooks
	if hooks == nil {
		return
	}
	for _, stage := range []struct {
		name string
		list []specs.Hook
	}{
		//lint:ignore SA1019 deprecated, and what Docker and NVIDIA write
		{"prestart", hooks.Prestart},
		{"createRuntime", hooks.CreateRuntime},
		{"createContainer", hooks.CreateContainer},
		{"startContainer", hooks.StartContainer},
		{"poststart", hooks.Poststart},
		{"poststop", hooks.Poststop},
	} {
		for i, hook := range stage.list {
			path := "hooks." + stage.name + "[" + strconv.Itoa(i) + "]"
			if strings.Contains(hook.Path, "nvidia") {
				r.loud(path, hook.Path, "", "hooks belong to the orchestrator; this one made the GPU usable inside")
			} else {
				r.change(path, hook.Path, "", "hooks belong to the orchestrator and may wait for its daemon")
			}
		}
	}
	r.spec.Hooks = nil
}

func (r *rewriter) process() {
	process := r.spec.Process
	if process == nil {
		return
	}
	if process.Terminal {
		process.Terminal, process.ConsoleSize = false, nil
		r.change("process.terminal", "true", "false", "a detached recovery container writes to a log")
	}
	process.Env = slices.DeleteFunc(process.Env, func(kv string) bool {
		name, value, _ := strings.Cut(kv, "=")
		switch name {
		case "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID":
			r.change("process.env["+name+"]", value, "", "no service manager is listening or passes sockets")
			return true
		}
		return false
	})
}

// labels drops what this host's security modules do not know, as the start
// would fail.
func (r *rewriter) labels() {
	if process := r.spec.Process; process != nil {
		if profile := process.ApparmorProfile; profile != "" && profile != "unconfined" &&
			(r.opts.AppArmorLoaded == nil || !r.opts.AppArmorLoaded(profile)) {
			process.ApparmorProfile = ""
			r.change("process.apparmorProfile", profile, "", "the profile is not loaded on this host")
		}
		if process.SelinuxLabel != "" && !r.opts.SELinux {
			r.change("process.selinuxLabel", process.SelinuxLabel, "", "SELinux is off on this host")
			process.SelinuxLabel = ""
		}
	}
	if linux := r.spec.Linux; linux.MountLabel != "" && !r.opts.SELinux {
		r.change("linux.mountLabel", linux.MountLabel, "", "SELinux is off on this host")
		linux.MountLabel = ""
	}
}

// cgroup gives the container a place of its own: below an orchestrator's cgroup
// the returning orchestrator would kill it as a stray.
func (r *rewriter) cgroup() {
	linux := r.spec.Linux
	if now := r.opts.Cgroup; linux.CgroupsPath != now {
		why := "the orchestrator's cgroup is its own to clean up"
		if strings.Count(linux.CgroupsPath, ":") == 2 {
			why = "slice:prefix:name needs systemd to answer on D-Bus"
		}
		r.change("linux.cgroupsPath", linux.CgroupsPath, now, why)
		linux.CgroupsPath = now
	}
	if linux.IntelRdt != nil {
		linux.IntelRdt = nil
		r.change("linux.intelRdt", "set", "", "cache allocation is not worth a failed start")
	}
}

// seccomp drops the rules that ask an agent of the orchestrator.
func (r *rewriter) seccomp() {
	seccomp := r.spec.Linux.Seccomp
	if seccomp == nil || seccomp.ListenerPath == "" {
		return
	}
	r.loud("linux.seccomp.listenerPath", seccomp.ListenerPath, "", "the agent that judged system calls is gone: the profile's default applies to them")
	seccomp.ListenerPath, seccomp.ListenerMetadata = "", ""
	seccomp.Syscalls = slices.DeleteFunc(seccomp.Syscalls, func(s specs.LinuxSyscall) bool { return s.Action == specs.ActNotify })
	if seccomp.DefaultAction == specs.ActNotify {
		seccomp.DefaultAction = specs.ActErrno
	}
}
