package sandbox

import "strings"

// ScrubEnv returns an environment without what leads to the host's daemons,
// agents, displays and proxies.
func ScrubEnv(env []string) []string {
	out := make([]string, 0, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		upper := strings.ToUpper(name)
		switch {
		case strings.HasSuffix(upper, "_PROXY"), strings.HasPrefix(upper, "DBUS_"), strings.HasPrefix(upper, "LISTEN_FD"):
			continue
		}
		switch upper {
		case "SSH_AUTH_SOCK", "SSH_AGENT_PID", "GPG_AGENT_INFO", "DOCKER_HOST", "CONTAINER_HOST", "CONTAINERD_ADDRESS",
			"LISTEN_PID", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "PULSE_SERVER", "TMUX", "STY":
			continue
		}
		out = append(out, e)
	}
	return out
}
