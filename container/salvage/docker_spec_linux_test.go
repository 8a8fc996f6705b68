package salvage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// checkDockerSpec compares with what dockerd gave to runc.
func checkDockerSpec(t *testing.T, name string, got, want *specs.Spec) {
	t.Helper()
	compare := func(what string, got, want any) {
		t.Helper()
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if !bytes.Equal(g, w) {
			t.Errorf("%s = %s; want %s", what, g, w)
		}
	}
	notes := map[string]string{
		AnnotationPorts: "2379/tcp", AnnotationHealth: `["CMD","/bin/busybox","true"]`, AnnotationStopSignal: "SIGINT",
		AnnotationHealthTiming: `{"interval":"30s","timeout":"30s","retries":3}`,
	}
	user := want.Process.User
	switch name {
	case "/shop":
		notes[AnnotationRestart] = "on-failure:3"
		notes[AnnotationSeccomp] = "default"
	case "/named":
		notes[AnnotationUser] = "app"
		user = specs.User{}
	case "/root":
		notes[AnnotationSeccomp] = "default"
	case "/filtered":
		compare("seccomp", got.Linux.Seccomp, want.Linux.Seccomp)
		if n := len(got.Linux.Seccomp.Syscalls); n != 4 {
			t.Errorf("seccomp has %d rules; want the 4 whose conditions hold", n)
		}
	}
	compare("annotations", got.Annotations, notes)
	got.Process.User.AdditionalGids, user.AdditionalGids = nil, nil
	compare("process.user", got.Process.User, user)
	compare("process.args", got.Process.Args, want.Process.Args)
	compare("process.cwd", got.Process.Cwd, want.Process.Cwd)
	slices.Sort(got.Process.Env)
	slices.Sort(want.Process.Env)
	compare("process.env", got.Process.Env, want.Process.Env)
	compare("process.rlimits", got.Process.Rlimits, want.Process.Rlimits)
	compare("process.noNewPrivileges", got.Process.NoNewPrivileges, want.Process.NoNewPrivileges)
	compare("process.oomScoreAdj", got.Process.OOMScoreAdj, want.Process.OOMScoreAdj)
	if name == "/priv" { // dockerd 20.10 knows none of these; a later one gives them
		for _, set := range []*[]string{&got.Process.Capabilities.Bounding, &got.Process.Capabilities.Effective, &got.Process.Capabilities.Permitted} {
			*set = slices.DeleteFunc(*set, func(c string) bool { return c == "CAP_BPF" || c == "CAP_PERFMON" || c == "CAP_CHECKPOINT_RESTORE" })
		}
	}
	for _, set := range [][2][]string{
		{got.Process.Capabilities.Bounding, want.Process.Capabilities.Bounding},
		{got.Process.Capabilities.Effective, want.Process.Capabilities.Effective},
		{got.Process.Capabilities.Permitted, want.Process.Capabilities.Permitted},
	} {
		slices.Sort(set[0])
		slices.Sort(set[1])
		compare("process.capabilities", set[0], set[1])
	}
	compare("root.readonly", got.Root.Readonly, want.Root.Readonly)
	compare("hostname", got.Hostname, want.Hostname)
	namespaces := func(s *specs.Spec) (list []string) {
		for _, ns := range s.Linux.Namespaces {
			// dockerd makes the network of its own ahead of the container, and the
			// host's is a path.
			if ns.Type != specs.NetworkNamespace {
				list = append(list, string(ns.Type))
			}
		}
		slices.Sort(list)
		return list
	}
	compare("namespaces", namespaces(got), namespaces(want))
	compare("a network namespace", hasNamespace(got.Linux.Namespaces, specs.NetworkNamespace), name != "/shop")
	compare("sysctl", got.Linux.Sysctl, want.Linux.Sysctl)
	slices.Sort(got.Linux.MaskedPaths)
	slices.Sort(want.Linux.MaskedPaths)
	compare("maskedPaths", got.Linux.MaskedPaths, want.Linux.MaskedPaths)
	compare("readonlyPaths", got.Linux.ReadonlyPaths, want.Linux.ReadonlyPaths)
	compare("devices", len(got.Linux.Devices), len(want.Linux.Devices))
	compare("cgroupsPath", got.Linux.CgroupsPath, want.Linux.CgroupsPath)
	for _, r := range []*specs.LinuxResources{got.Linux.Resources, want.Linux.Resources} {
		if r.Memory == nil || *r.Memory == (specs.LinuxMemory{}) {
			r.Memory = &specs.LinuxMemory{}
		}
		if r.CPU == nil {
			r.CPU = &specs.LinuxCPU{}
		}
		if r.Pids != nil && (r.Pids.Limit == nil || *r.Pids.Limit <= 0) {
			r.Pids = nil
		}
		if r.CPU.Shares != nil && *r.CPU.Shares == 0 { // unset
			r.CPU.Shares = nil
		}
		if r.Memory.DisableOOMKiller != nil && !*r.Memory.DisableOOMKiller {
			r.Memory.DisableOOMKiller = nil
		}
	}
	compare("resources.memory", got.Linux.Resources.Memory, want.Linux.Resources.Memory)
	compare("resources.cpu", got.Linux.Resources.CPU, want.Linux.Resources.CPU)
	compare("resources.pids", got.Linux.Resources.Pids, want.Linux.Resources.Pids)
	rules := func(s *specs.Spec) (list []string) {
		for _, rule := range s.Linux.Resources.Devices {
			data, _ := json.Marshal(rule)
			list = append(list, string(data))
		}
		slices.Sort(list)
		return list
	}
	compare("resources.devices", rules(got), rules(want))
	compareMounts(t, got.Mounts, want.Mounts)
}

func compareMounts(t *testing.T, got, want []specs.Mount) {
	t.Helper()
	table := func(mounts []specs.Mount) map[string]string {
		rows := map[string]string{}
		for _, m := range mounts {
			options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "rw" })
			slices.Sort(options)
			if m.Destination == "/dev/shm" {
				// dockerd mounts shared memory ahead of the container and binds it.
				m.Type, m.Source, options = "", "", nil
			}
			rows[m.Destination] = fmt.Sprint(m.Type, " ", m.Source, " ", options)
		}
		return rows
	}
	if g, w := table(got), table(want); !maps.Equal(g, w) {
		t.Errorf("mounts = %v\nwant %v", g, w)
	}
}

// seccompProfile has a rule for each kind of condition.
const seccompProfile = `{
	"defaultAction": "SCMP_ACT_ALLOW",
	"archMap": [
		{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
		{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
	],
	"syscalls": [
		{"names": ["reboot", "kexec_load"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {}, "excludes": {"caps": ["CAP_SYS_BOOT"]}},
		{"name": "add_key", "action": "SCMP_ACT_ERRNO", "args": [], "includes": {}, "excludes": {}},
		{"names": ["settimeofday"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {"caps": ["CAP_SYS_TIME"]}, "excludes": {}},
		{"names": ["stime"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {"caps": ["CAP_SYS_BOOT"]}, "excludes": {}},
		{"names": ["adjtimex"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {}, "excludes": {"caps": ["CAP_SYS_TIME"]}},
		{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}], "includes": {"minKernel": "4.8"}, "excludes": {"arches": ["s390", "s390x"]}},
		{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {"minKernel": "99.1"}, "excludes": {}},
		{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "args": [], "includes": {"arches": ["s390x"]}, "excludes": {}}
	]
}`
