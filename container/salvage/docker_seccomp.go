package salvage

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// dockerSeccomp is a profile given with --security-opt, in Docker's own form
// (profiles/seccomp of moby): a runtime spec's, with conditions.
type dockerSeccomp struct {
	specs.LinuxSeccomp
	ArchMap []struct {
		Arch     specs.Arch   `json:"architecture"`
		SubArchs []specs.Arch `json:"subArchitectures"`
	} `json:"archMap"`
	Syscalls []struct {
		specs.LinuxSyscall
		Name     string            `json:"name"` // in place of names, before Docker 1.13
		Includes dockerSeccompWhen `json:"includes"`
		Excludes dockerSeccompWhen `json:"excludes"`
	} `json:"syscalls"`
}

// dockerSeccompWhen is a condition on the host and the container.
type dockerSeccompWhen struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// dockerFilter settles a profile's conditions for this host, as dockerd does at
// every start. It returns nil without error for a profile that filters nothing.
func dockerFilter(profile string, caps []string) (*specs.LinuxSeccomp, error) {
	var p dockerSeccomp
	if err := json.Unmarshal([]byte(profile), &p); err != nil {
		return nil, fmt.Errorf("reading seccomp profile: %w", err)
	}
	if p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return nil, nil
	}
	var release unix.Utsname
	if err := unix.Uname(&release); err != nil {
		return nil, fmt.Errorf("reading kernel version: %w", err)
	}
	kernel := unix.ByteSliceToString(release.Release[:])
	filter := p.LinuxSeccomp
	for _, arch := range p.ArchMap {
		if arch.Arch == seccompArch() {
			filter.Architectures = append([]specs.Arch{arch.Arch}, arch.SubArchs...)
		}
	}
	filter.Syscalls = nil
	for _, call := range p.Syscalls {
		in, out := call.Includes, call.Excludes
		given := func(name string) bool { return slices.Contains(caps, name) }
		if slices.Contains(out.Arches, runtime.GOARCH) || slices.ContainsFunc(out.Caps, given) || out.MinKernel != "" && kernelSince(kernel, out.MinKernel) {
			continue
		}
		lacks := func(name string) bool { return !given(name) }
		if len(in.Arches) > 0 && !slices.Contains(in.Arches, runtime.GOARCH) || slices.ContainsFunc(in.Caps, lacks) || in.MinKernel != "" && !kernelSince(kernel, in.MinKernel) {
			continue
		}
		if call.Name != "" {
			call.Names = []string{call.Name}
		}
		filter.Syscalls = append(filter.Syscalls, call.LinuxSyscall)
	}
	return &filter, nil
}

// seccompArch is libseccomp's name for the machine.
func seccompArch() specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64
	case "arm64":
		return specs.ArchAARCH64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "s390x":
		return specs.ArchS390X
	case "riscv64":
		return specs.ArchRISCV64
	default:
		return specs.Arch("")
	}
}

// kernelSince compares MAJOR.MINOR of a release with the least that is wanted.
func kernelSince(release, least string) bool {
	var have, want [2]int
	for text, version := range map[string]*[2]int{release: &have, least: &want} {
		if n, _ := fmt.Sscanf(text, "%d.%d", &version[0], &version[1]); n != 2 {
			return false
		}
	}
	return slices.Compare(have[:], want[:]) >= 0
}
