package salvage

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// maxPodDepth bounds how deep a manifest nests. A pod needs about ten levels.
const maxPodDepth = 64

// kubeletPod is the part of a core/v1 Pod that a recovery can use.
type kubeletPod struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name      string            `yaml:"name"`
		Namespace string            `yaml:"namespace"`
		Labels    map[string]string `yaml:"labels"`
	} `yaml:"metadata"`
	Spec struct {
		HostNetwork     bool                  `yaml:"hostNetwork"`
		HostPID         bool                  `yaml:"hostPID"`
		HostIPC         bool                  `yaml:"hostIPC"`
		Hostname        string                `yaml:"hostname"`
		RestartPolicy   string                `yaml:"restartPolicy"`
		SecurityContext kubeletSecurity       `yaml:"securityContext"`
		Containers      []kubeletPodContainer `yaml:"containers"`
		InitContainers  []struct {
			Name string `yaml:"name"`
		} `yaml:"initContainers"`
		Volumes []kubeletVolume `yaml:"volumes"`
	} `yaml:"spec"`
}

type kubeletPodContainer struct {
	Name       string   `yaml:"name"`
	Image      string   `yaml:"image"`
	Command    []string `yaml:"command"`
	Args       []string `yaml:"args"`
	WorkingDir string   `yaml:"workingDir"`
	Env        []struct {
		Name      string `yaml:"name"`
		Value     string `yaml:"value"`
		ValueFrom *struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
		} `yaml:"valueFrom"`
	} `yaml:"env"`
	EnvFrom       []any         `yaml:"envFrom"`
	LivenessProbe *kubeletProbe `yaml:"livenessProbe"`
	StartupProbe  *kubeletProbe `yaml:"startupProbe"`
	Ports         []struct {
		Name          string `yaml:"name"`
		ContainerPort int    `yaml:"containerPort"`
	} `yaml:"ports"`
	VolumeMounts    []kubeletVolumeMount `yaml:"volumeMounts"`
	SecurityContext kubeletSecurity      `yaml:"securityContext"`
	Resources       struct {
		Limits   map[string]any `yaml:"limits"`
		Requests map[string]any `yaml:"requests"`
	} `yaml:"resources"`
}

type kubeletVolumeMount struct {
	Name             string `yaml:"name"`
	MountPath        string `yaml:"mountPath"`
	SubPath          string `yaml:"subPath"`
	SubPathExpr      string `yaml:"subPathExpr"`
	ReadOnly         bool   `yaml:"readOnly"`
	MountPropagation string `yaml:"mountPropagation"`
}

type kubeletVolume struct {
	Name     string `yaml:"name"`
	HostPath *struct {
		Path string `yaml:"path"`
	} `yaml:"hostPath"`
	EmptyDir *struct {
		SizeLimit any `yaml:"sizeLimit"`
	} `yaml:"emptyDir"`
}

// kubeletSecurity is a pod's or a container's security context; the container's
// wins where both say something.
type kubeletSecurity struct {
	Privileged               *bool    `yaml:"privileged"`
	RunAsUser                *uint32  `yaml:"runAsUser"`
	RunAsGroup               *uint32  `yaml:"runAsGroup"`
	SupplementalGroups       []uint32 `yaml:"supplementalGroups"`
	FSGroup                  *uint32  `yaml:"fsGroup"`
	ReadOnlyRootFilesystem   *bool    `yaml:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool    `yaml:"allowPrivilegeEscalation"`
	SeccompProfile           *struct {
		Type             string `yaml:"type"` // Unconfined, RuntimeDefault or Localhost
		LocalhostProfile string `yaml:"localhostProfile"`
	} `yaml:"seccompProfile"`
	Capabilities struct {
		Add  []string `yaml:"add"`
		Drop []string `yaml:"drop"`
	} `yaml:"capabilities"`
}

// parsePod reads a manifest in YAML or JSON.
func parsePod(data []byte) (*kubeletPod, error) {
	pod := &kubeletPod{}
	if err := decodeYAML(data, pod); err != nil {
		return nil, fmt.Errorf("parsing pod: %w", err)
	}
	if pod.Kind != "Pod" {
		return nil, fmt.Errorf("parsing pod: kind is %q", pod.Kind)
	}
	if pod.Metadata.Name == "" || len(pod.Spec.Containers) == 0 {
		return nil, errors.New("parsing pod: no name or no containers")
	}
	for _, container := range pod.Spec.Containers {
		if container.Name == "" {
			return nil, errors.New("parsing pod: a container has no name")
		}
	}
	if pod.Metadata.Namespace == "" {
		pod.Metadata.Namespace = "default"
	}
	return pod, nil
}

// decodeYAML decodes the first document of hostile YAML. Anchors, aliases and
// tags are refused: the kubelet's files do not need them, and a few lines of
// aliases make gigabytes.
func decodeYAML(data []byte, into any) (err error) {
	defer func() { // malformed input has made the parser panic before
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed: %v", r)
		}
	}()
	if err := checkPodTokens(lexer.Tokenize(string(data))); err != nil {
		return err
	}
	return yaml.Unmarshal(data, into)
}

// checkPodTokens refuses what would make the parser, which recurses, run away.
func checkPodTokens(tokens token.Tokens) error {
	flow, line, onLine := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type { //nolint:exhaustive // only what nests or expands
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType:
			return fmt.Errorf("line %d: anchors, aliases and tags are not accepted", line)
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		case token.SequenceEntryType, token.MappingKeyType:
			onLine++
		}
		if flow > maxPodDepth || onLine > maxPodDepth || t.Position.IndentNum > 8*maxPodDepth {
			return fmt.Errorf("line %d: nested too deep", line)
		}
	}
	return nil
}
