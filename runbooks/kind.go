package runbooks

// Kind is what a step does, and the key it is written under.
type Kind string

// The kinds of steps.
const (
	Run       Kind = "run"
	Fetch     Kind = "fetch"
	Container Kind = "container"
	Stop      Kind = "stop"
	DNS       Kind = "dns"
	Cert      Kind = "cert"
	WaitFor   Kind = "wait_for"
	Confirm   Kind = "confirm"
	Handoff   Kind = "handoff"
	Note      Kind = "note"
)

// Kind is what the step does.
func (s *Step) Kind() Kind { return Kind(oneOf(s)) }

// Text is what stands after the kind's key: commands, a name, a question. It is empty for wait_for.
func (s *Step) Text() string {
	for _, t := range []string{s.Run, s.Fetch, s.Container, s.Stop, s.DNS, s.Cert, s.Confirm, s.Handoff, s.Note} {
		if t != "" {
			return t
		}
	}
	return ""
}

// ProbeKind is what a probe looks at, and the key it is written under.
type ProbeKind string

// The kinds of probes.
const (
	TCPProbe  ProbeKind = "tcp"
	HTTPProbe ProbeKind = "http"
	DNSProbe  ProbeKind = "dns"
	ExecProbe ProbeKind = "exec"
	FileProbe ProbeKind = "file"
	LogProbe  ProbeKind = "log"
	UnixProbe ProbeKind = "unix"
)

// Kind is what the probe looks at.
func (p *Probe) Kind() ProbeKind { return ProbeKind(oneOf(p)) }

// Target is what stands after the kind's key: an address, a URL, a path, a command.
func (p *Probe) Target() string {
	for _, t := range []string{p.TCP, p.HTTP, p.DNS, p.Exec, p.File, p.Log, p.Unix} {
		if t != "" {
			return t
		}
	}
	return ""
}
