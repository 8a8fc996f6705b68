package runbooks

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Command is what a person types to do a step by hand, in a shell that has the variables; "" where nothing is to
// be typed.
func (s *Step) Command() string {
	w := s.With
	if w == nil {
		w = &With{}
	}
	switch s.Kind() {
	case Run:
		return w.around(strings.TrimRight(s.Run, "\n"))
	case Fetch:
		c := line("blackstart", "fetch", "get").flag("o", w.To).is("unpack", w.Unpack).add(s.Fetch)
		if w.Mode != "" {
			return c.String() + "\n" + line("chmod", w.Mode, w.To).String()
		}
		return c.String()
	case Container:
		return w.start(s.Container)
	case Stop:
		c := line("blackstart", "stop").flag("timeout", duration(w.Grace)).add(s.Stop).String()
		if w.Remove {
			c += "\n" + line("blackstart", "rm", s.Stop).String()
		}
		return c
	case DNS:
		return s.dnsCommand(w)
	case Cert:
		c := line("blackstart", "certs", "issue").flag("service", s.Cert).flags("dns", w.Names).flags("ip", w.Addresses).flags("uri", w.URIs)
		return c.flag("for", duration(w.For)).flag("o", w.To).String()
	case WaitFor:
		return s.WaitFor.Command()
	case Handoff:
		return line("blackstart", "handoff").flag("until", w.Until).flag("timeout", duration(s.Timeout)).flag("grace", duration(w.Grace)).is("stop-first", w.StopFirst).add(s.Handoff).String()
	case Confirm, Note:
	}
	return ""
}

func (s *Step) dnsCommand(w *With) string {
	c := line("blackstart", "dns", s.DNS)
	switch s.DNS {
	case "serve":
		c = c.is("kit", w.Zone == "").flags("listen", w.Listen).flag("mode", w.Answers).flag("zone", w.Zone).flags("upstream", w.Upstream)
		return c.flags("override", pairs(w.Overrides)).String()
	case "takeover":
		for _, l := range w.Listen {
			host, _, err := net.SplitHostPort(l)
			if err != nil {
				host = l // a variable
			}
			c = c.add(host)
		}
		if len(w.Listen) == 0 {
			c = c.add("127.0.0.1")
		}
	}
	return c.String()
}

// around puts a script where and with what it is to run.
func (w *With) around(script string) string {
	var before []string
	if w.Dir != "" {
		before = append(before, line("cd", w.Dir).String())
	}
	for _, kv := range pairs(w.Env) {
		k, v, _ := strings.Cut(kv, "=")
		before = append(before, "export "+k+"="+shellQuote(v))
	}
	if len(before) == 0 {
		return script
	}
	// In parentheses, so that the shell it is typed into keeps its own.
	return "(\n" + strings.Join(append(before, script), "\n") + "\n)"
}

// start is the command that starts a container.
func (w *With) start(name string) string {
	c := line("blackstart", "run").is("detach", true)
	switch {
	case w.Salvage != "":
		c = line("blackstart", "salvage", "run").flag("root", w.Root).flag("image", w.Image)
	case w.Spec != "":
		c = c.flag("spec", w.Spec)
	case w.Image != "":
		c = c.flag("image", w.Image)
	case w.Rootfs != "":
		c = c.flag("rootfs", w.Rootfs)
	default:
		c = c.flag("spec", "kit:"+name)
	}
	c = c.flag("name", name).flag("net", w.Net).flags("env", pairs(w.Env)).flags("mount", w.Mounts)
	c = c.flags("replace-arg", w.ReplaceArgs).flags("drop-arg", w.DropArgs).flags("arg", w.Args)
	c = c.flag("user", w.User).flag("workdir", w.Workdir)
	if w.Memory > 0 {
		c = c.flag("memory", w.Memory.String())
	}
	if w.CPUs > 0 {
		c = c.flag("cpus", strconv.FormatFloat(w.CPUs, 'g', -1, 64))
	}
	c = c.flag("restart", w.Restart).flag("health-check", w.Health)
	if w.Salvage != "" {
		c = c.add(w.Salvage)
	}
	if len(w.Command) > 0 {
		c = append(c.add("--"), line(w.Command...)...)
	}
	return c.String()
}

// Command is what a person types to see whether a probe is true, in a shell that has the variables; "" where there
// is no usual program for it.
func (p *Probe) Command() string {
	found := func(c cmdline) string {
		if p.Contains == "" {
			return c.String()
		}
		return c.String() + " | " + line("grep", "-F", "--", p.Contains).String()
	}
	switch p.Kind() {
	case HTTPProbe:
		c := line("curl", "-sS", "--max-time", "5")
		if p.Status != 0 {
			c = c.add("-i")
		} else {
			c = c.add("-f")
		}
		return found(c.add(p.HTTP))
	case ExecProbe:
		s := strings.TrimRight(p.Exec, "\n")
		if p.Contains == "" {
			return s
		}
		return "(\n" + s + "\n) | " + line("grep", "-F", "--", p.Contains).String()
	case FileProbe:
		if p.Contains != "" {
			return line("grep", "-F", "--", p.Contains, p.File).String()
		}
		return line("ls", "-l", p.File).String()
	case LogProbe:
		if strings.HasPrefix(p.Log, "/") {
			return line("grep", "-F", "--", p.Contains, p.Log).String()
		}
		return found(line("blackstart", "logs", p.Log))
	case DNSProbe:
		return found(append(line("blackstart", "dns", "query"), line(strings.Fields(p.DNS)...)...))
	case TCPProbe, UnixProbe:
	}
	return ""
}

// cmdline is a command's words.
type cmdline []string

func line(words ...string) cmdline { return slices.Clone(words) }

func (c cmdline) add(word string) cmdline { return append(c, word) }

func (c cmdline) flag(name, value string) cmdline {
	switch {
	case value == "":
		return c
	case len(name) == 1:
		return append(c, "-"+name, value)
	}
	return append(c, "--"+name, value)
}

func (c cmdline) flags(name string, values []string) cmdline {
	for _, v := range values {
		// A value that begins with a dash would read as a flag.
		c = append(c, "--"+name+"="+v)
	}
	return c
}

func (c cmdline) is(name string, on bool) cmdline {
	if on {
		return append(c, "--"+name)
	}
	return c
}

// String quotes the words, and breaks a long command after each few of them.
func (c cmdline) String() string {
	var out strings.Builder
	width := 0
	for i, w := range c {
		q := shellQuote(w)
		if i > 0 {
			if width+len(q) > 78 && strings.HasPrefix(w, "-") {
				out.WriteString(" \\\n    ")
				width = 4
			} else {
				out.WriteByte(' ')
				width++
			}
		}
		out.WriteString(q)
		width += len(q)
	}
	return out.String()
}

// pairs are a mapping's K=V, sorted.
func pairs(m map[string]string) []string {
	all := make([]string, 0, len(m))
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return all
}

func duration(d Duration) string {
	if d == 0 {
		return ""
	}
	return time.Duration(d).String() // the flags know no days
}
