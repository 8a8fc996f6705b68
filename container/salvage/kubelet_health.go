package salvage

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// kubeletProbe is a core/v1 Probe.
type kubeletProbe struct {
	Exec *struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
	HTTPGet *struct {
		Host   string `yaml:"host"`
		Path   string `yaml:"path"`
		Port   any    `yaml:"port"` // a number or the name of one
		Scheme string `yaml:"scheme"`
	} `yaml:"httpGet"`
	TCPSocket *struct {
		Host string `yaml:"host"`
		Port any    `yaml:"port"`
	} `yaml:"tcpSocket"`
	InitialDelaySeconds int `yaml:"initialDelaySeconds"`
	PeriodSeconds       int `yaml:"periodSeconds"`
	TimeoutSeconds      int `yaml:"timeoutSeconds"`
	FailureThreshold    int `yaml:"failureThreshold"`
}

// Words of an [AnnotationHealth] in place of a command.
const (
	healthHTTP = "HTTP" // and a URL
	healthTCP  = "TCP"  // and IP:PORT
)

// Defaults of a probe (kubernetes.io: Configure Liveness, Readiness and Startup Probes).
const (
	probePeriod  = 10
	probeTimeout = 1
	probeRetries = 3
)

// attend adds the restart policy and the liveness probe to the annotations.
func (p *kubeletPod) attend(c *kubeletPodContainer, notes map[string]string) error {
	switch p.Spec.RestartPolicy {
	case "", "Always":
		restartNote(notes, "always", 0)
	case "OnFailure":
		restartNote(notes, "on-failure", 0)
	}
	if c.LivenessProbe == nil {
		return nil
	}
	check, err := c.LivenessProbe.check(c)
	if err != nil {
		return fmt.Errorf("its liveness probe is left out: %w", err)
	}
	start := seconds(c.LivenessProbe.InitialDelaySeconds, 0)
	if s := c.StartupProbe; s != nil {
		start += seconds(s.InitialDelaySeconds, 0) + time.Duration(min(max(cmp.Or(s.FailureThreshold, probeRetries), 0), 1000))*seconds(s.PeriodSeconds, probePeriod)
	}
	timing := healthTiming{
		Interval: seconds(c.LivenessProbe.PeriodSeconds, probePeriod).String(), Timeout: seconds(c.LivenessProbe.TimeoutSeconds, probeTimeout).String(),
		Retries: min(max(cmp.Or(c.LivenessProbe.FailureThreshold, probeRetries), 1), 1000),
	}
	if start > 0 {
		timing.Start = start.String()
	}
	noteHealth(notes, check, timing)
	return nil
}

// seconds is a number of a manifest, or what stands for none.
func seconds(n, absent int) time.Duration {
	if n <= 0 {
		n = absent
	}
	return time.Duration(min(n, 24*60*60)) * time.Second
}

// check is the probe as an [AnnotationHealth]. Where it names no host, the kubelet
// asks the pod's address; a recovery container has the host's own.
func (h *kubeletProbe) check(c *kubeletPodContainer) ([]string, error) {
	at := func(host string, port any) (string, error) {
		number, err := c.port(port)
		if err != nil {
			return "", err
		}
		if host = cmp.Or(host, "127.0.0.1"); host == "localhost" {
			host = "127.0.0.1"
		}
		if _, err := netip.ParseAddr(host); err != nil {
			return "", fmt.Errorf("host %.80q is no address", host)
		}
		return net.JoinHostPort(host, strconv.Itoa(number)), nil
	}
	switch {
	case h.Exec != nil && len(h.Exec.Command) > 0:
		return append([]string{"CMD"}, h.Exec.Command...), nil
	case h.HTTPGet != nil:
		if h.HTTPGet.Scheme != "" && h.HTTPGet.Scheme != "HTTP" {
			return nil, fmt.Errorf("it speaks %.20q: give another with --health-check", h.HTTPGet.Scheme)
		}
		address, err := at(h.HTTPGet.Host, h.HTTPGet.Port)
		if err != nil {
			return nil, err
		}
		target, err := url.Parse("http://" + address + cmp.Or(h.HTTPGet.Path, "/"))
		if err != nil || target.Host != address {
			return nil, fmt.Errorf("path %.80q cannot be asked for", h.HTTPGet.Path)
		}
		return []string{healthHTTP, target.String()}, nil
	case h.TCPSocket != nil:
		address, err := at(h.TCPSocket.Host, h.TCPSocket.Port)
		return []string{healthTCP, address}, err
	}
	return nil, errors.New("it is none of exec, httpGet and tcpSocket")
}

// port is the number of a port that may be given by its name.
func (c *kubeletPodContainer) port(p any) (int, error) {
	n, err := strconv.Atoi(fmt.Sprint(p))
	if err != nil {
		for _, named := range c.Ports {
			if named.Name != "" && named.Name == fmt.Sprint(p) {
				n, err = named.ContainerPort, nil
			}
		}
	}
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %.40q is none", fmt.Sprint(p))
	}
	return n, nil
}

// healthTiming is what [AnnotationHealthTiming] holds.
type healthTiming struct {
	Interval string `json:"interval"`
	Timeout  string `json:"timeout"`
	Retries  int    `json:"retries"`
	Start    string `json:"start,omitempty"`
}

func noteHealth(notes map[string]string, check []string, timing healthTiming) {
	for name, value := range map[string]any{AnnotationHealth: check, AnnotationHealthTiming: timing} {
		data, _ := json.Marshal(value) // strings and numbers cannot fail
		notes[name] = string(data)
	}
}
