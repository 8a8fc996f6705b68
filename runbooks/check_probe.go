package runbooks

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// probe checks what a probe looks at. What a variable decides is checked when its value is known.
func (c checker) probe(p *Probe) {
	at := p.get(string(p.Kind()))
	if p.Kind() == LogProbe && p.Contains == "" {
		c.at(at, "log needs contains: the text to find in it")
	}
	if p.Kind() == ExecProbe || strings.Contains(p.Target(), "${") {
		return
	}
	if problem := p.problem(); problem != "" {
		c.at(at, "%s", problem)
	}
}

// problem says what is wrong with a probe's target, all variables replaced.
func (p *Probe) problem() string {
	switch t := p.Target(); p.Kind() {
	case TCPProbe:
		if !addrPort(t) {
			return "want IP:PORT: a name may not resolve when this is needed"
		}
	case HTTPProbe:
		return urlProblem(t)
	case DNSProbe:
		if !dnsQuestion(t) {
			return "want NAME [TYPE] @IP[:PORT]"
		}
	case FileProbe, UnixProbe:
		if !strings.HasPrefix(t, "/") {
			return "want an absolute path"
		}
	case LogProbe:
		if strings.Contains(t, "/") && !strings.HasPrefix(t, "/") {
			return "want a container's name or an absolute path"
		}
	case ExecProbe:
	}
	return ""
}

func urlProblem(s string) string {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		return "want http://IP:PORT/PATH or https://IP:PORT/PATH"
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		return "want an IP address in the URL: a name may not resolve when this is needed"
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "want a port from 1 to 65535"
		}
	}
	return ""
}

// dnsQuestion says whether s is NAME [TYPE] @IP[:PORT].
func dnsQuestion(s string) bool {
	f := strings.Fields(s)
	if len(f) < 2 || len(f) > 3 || strings.HasPrefix(f[0], "@") {
		return false
	}
	server, ok := strings.CutPrefix(f[len(f)-1], "@")
	if !ok || (len(f) == 3 && strings.Trim(f[1], "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") != "") {
		return false
	}
	_, err := netip.ParseAddr(server)
	return err == nil || addrPort(server)
}

// checkProblem says what is wrong with http://…, tcp://…, unix:///… or exec:….
func checkProblem(s string) string {
	const want = "want http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND"
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "http", "https":
		return urlProblem(s)
	case "tcp":
		if addrPort(strings.TrimPrefix(rest, "//")) {
			return ""
		}
	case "unix":
		if strings.HasPrefix(rest, "///") {
			return ""
		}
	case "exec":
		if strings.TrimSpace(rest) != "" {
			return ""
		}
	}
	return want
}
