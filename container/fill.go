package container

import (
	"slices"
)

// ImageConfig is what an image says of how to run it.
type ImageConfig struct {
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	Workdir    string
	StopSignal string
	Ports      []string // "2379/tcp"
}

// defaultPath is what containerd gives a container whose image names no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Fill makes the specification whole: what neither it nor its Config says comes
// from the image. Afterwards Args, Env, User and Workdir are what will run.
func (s *Spec) Fill(img ImageConfig) {
	var env []string
	if s.Config != nil && s.Config.Process != nil {
		p := s.Config.Process
		if len(s.Args) == 0 {
			s.Args = slices.Clone(p.Args)
		}
		env = p.Env
		if s.Workdir == "" && p.Cwd != "" {
			s.Workdir = p.Cwd
		}
	} else if s.User == "" {
		s.User = img.User
	}
	if len(s.Args) == 0 {
		s.Args = slices.Concat(img.Entrypoint, img.Cmd)
	}
	if env == nil {
		env = mergeEnv([]string{defaultPath}, img.Env)
	}
	s.Env = mergeEnv(env, s.Env)
	if s.Workdir == "" {
		s.Workdir = img.Workdir
	}
	if s.StopSignal == "" {
		s.StopSignal = img.StopSignal
	}
	if len(s.Ports) == 0 {
		s.Ports = slices.Sorted(slices.Values(img.Ports))
	}
	s.Ports = slices.Compact(s.Ports)
}
