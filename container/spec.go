package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxSpec bounds a specification file, in bytes.
const maxSpec = 4 << 20

// Spec is a container as an operator writes it. The flags of `run`, the document
// that `salvage show` prints and a kit's service use these same words.
//
// Config is the OCI runtime configuration to start from; nil stands for what
// containerd gives an ordinary container. Every other field overrides it.
type Spec struct {
	Name       string   `yaml:"name,omitempty" json:"name,omitempty"`
	From       string   `yaml:"from,omitempty" json:"from,omitempty"`         // where it was salvaged, for people to read
	Image      string   `yaml:"image,omitempty" json:"image,omitempty"`       // image reference with its transport
	Rootfs     string   `yaml:"rootfs,omitempty" json:"rootfs,omitempty"`     // a directory, used as it is
	Layers     []string `yaml:"layers,omitempty" json:"layers,omitempty"`     // read-only directories below a new writable layer, the lowest first
	Args       []string `yaml:"args,omitempty" json:"args,omitempty"`         // the whole command line
	Env        []string `yaml:"env,omitempty" json:"env,omitempty"`           // K=V, over what the image or Config sets
	User       string   `yaml:"user,omitempty" json:"user,omitempty"`         // user[:group], names or numbers, resolved in the rootfs
	Workdir    string   `yaml:"workdir,omitempty" json:"workdir,omitempty"`   // absolute
	Net        string   `yaml:"net,omitempty" json:"net,omitempty"`           // host or none
	Mounts     []Mount  `yaml:"mounts,omitempty" json:"mounts,omitempty"`     // bind mounts of the host
	Devices    []string `yaml:"devices,omitempty" json:"devices,omitempty"`   // /dev/SRC[:/dev/DST[:rwm]]
	Memory     string   `yaml:"memory,omitempty" json:"memory,omitempty"`     // bytes, with KiB, MiB or GiB
	CPUs       float64  `yaml:"cpus,omitempty" json:"cpus,omitempty"`         // processors' worth of time
	PIDs       int64    `yaml:"pids,omitempty" json:"pids,omitempty"`         // processes and threads
	CapAdd     []string `yaml:"cap_add,omitempty" json:"cap_add,omitempty"`   // NAME or CAP_NAME, or ALL
	CapDrop    []string `yaml:"cap_drop,omitempty" json:"cap_drop,omitempty"` // likewise, applied first
	ReadOnly   bool     `yaml:"read_only,omitempty" json:"read_only,omitempty"`
	Privileged bool     `yaml:"privileged,omitempty" json:"privileged,omitempty"`
	Seccomp    string   `yaml:"seccomp,omitempty" json:"seccomp,omitempty"` // "default": containerd's profile, where Config has none
	Restart    Restart  `yaml:"restart,omitempty" json:"restart,omitempty"`
	Health     *Health  `yaml:"health,omitempty" json:"health,omitempty"`
	StopSignal string   `yaml:"stop_signal,omitempty" json:"stop_signal,omitempty"`
	LogMax     string   `yaml:"log_max,omitempty" json:"log_max,omitempty"` // bytes of log kept, default 64MiB
	Config     *OCI     `yaml:"config,omitempty" json:"config,omitempty"`
	Ports      []string `yaml:"ports,omitempty" json:"ports,omitempty"` // "2379/tcp": what the image says it listens on, for the twin check
	Terminal   bool     `yaml:"-" json:"terminal,omitempty"`
}

// Mount binds a file or directory of the host into the container.
type Mount struct {
	Source   string   `yaml:"source" json:"source"`
	Target   string   `yaml:"target" json:"target"`
	ReadOnly bool     `yaml:"read_only,omitempty" json:"read_only,omitempty"`
	Options  []string `yaml:"options,omitempty" json:"options,omitempty"` // further options of mount(8)
}

// ParseMount reads SRC:DST[:ro|rw].
func ParseMount(s string) (Mount, error) {
	parts := strings.Split(s, ":")
	m := Mount{}
	switch {
	case len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw"):
		m.ReadOnly = parts[2] == "ro"
	case len(parts) != 2:
		return Mount{}, fmt.Errorf("%w: mount %q is not SRC:DST[:ro]", ErrBadSpec, s)
	}
	m.Source, m.Target = parts[0], parts[1]
	return m, m.check()
}

func (m Mount) check() error {
	if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) {
		return fmt.Errorf("%w: mount %s:%s needs two absolute paths", ErrBadSpec, m.Source, m.Target)
	}
	return nil
}

// Restart says when the supervisor starts a container again.
type Restart string

// The restart policies. The empty one is RestartNo.
const (
	RestartNo        Restart = "no"
	RestartOnFailure Restart = "on-failure"
	RestartAlways    Restart = "always"
)

// Health is a check the supervisor repeats while the container runs. A
// container that fails Retries checks in a row is unhealthy; with a restart
// policy it is then stopped and started again.
type Health struct {
	Check    string   `yaml:"check" json:"check"` // http://IP:PORT/PATH, tcp://IP:PORT, unix:///PATH or exec:COMMAND (inside the container)
	Interval Duration `yaml:"interval,omitempty" json:"interval,omitempty"`
	Timeout  Duration `yaml:"timeout,omitempty" json:"timeout,omitempty"`
	Retries  int      `yaml:"retries,omitempty" json:"retries,omitempty"`
	Start    Duration `yaml:"start,omitempty" json:"start,omitempty"` // failures within this time of the start do not count
}

func (h Health) withDefaults() Health {
	if h.Interval <= 0 {
		h.Interval = Duration(10 * time.Second)
	}
	if h.Timeout <= 0 {
		h.Timeout = Duration(5 * time.Second)
	}
	if h.Retries <= 0 {
		h.Retries = 3
	}
	return h
}

// Duration is a time.Duration written as text, "90s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil && v < 0 {
		err = errors.New("negative duration")
	}
	*d = Duration(v)
	return err
}

// OCI is an OCI runtime configuration inside a YAML document.
type OCI specs.Spec

// MarshalYAML writes the configuration under its JSON names.
func (o OCI) MarshalYAML() ([]byte, error) {
	b, err := json.Marshal(specs.Spec(o))
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(b)
}

// UnmarshalYAML reads the configuration under its JSON names.
func (o *OCI) UnmarshalYAML(b []byte) error {
	j, err := yaml.YAMLToJSON(b)
	if err != nil {
		return err
	}
	return json.Unmarshal(j, (*specs.Spec)(o))
}

// ReadSpec reads a specification: an OCI config.json, or a recovery spec in
// YAML or JSON. Unknown fields of a recovery spec are errors; a config.json may
// carry any, as the runtime specification allows.
func ReadSpec(r io.Reader) (Spec, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSpec+1))
	if err != nil {
		return Spec{}, fmt.Errorf("reading specification: %w", err)
	}
	if len(b) > maxSpec {
		return Spec{}, fmt.Errorf("%w: larger than %d bytes", ErrBadSpec, maxSpec)
	}
	return ParseSpec(b)
}

// ParseSpec is ReadSpec of bytes.
func ParseSpec(b []byte) (_ Spec, err error) {
	// The YAML library panics on some malformed documents.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: malformed YAML: %v", ErrBadSpec, r)
		}
	}()
	if runtimeConfig(b) {
		var c OCI
		if err := json.Unmarshal(b, &c); err != nil {
			return Spec{}, fmt.Errorf("%w: reading it as an OCI config.json: %w", ErrBadSpec, err)
		}
		if c.Version == "" {
			return Spec{}, fmt.Errorf("%w: an OCI config.json without ociVersion", ErrBadSpec)
		}
		return Spec{Config: &c}, nil
	}
	if err := plainYAML(string(b)); err != nil {
		return Spec{}, err
	}
	var s Spec
	if err := yaml.UnmarshalWithOptions(b, &s, yaml.Strict()); err != nil {
		return Spec{}, fmt.Errorf("%w: %w", ErrBadSpec, err)
	}
	return s, nil
}

// runtimeConfig says whether b is an OCI config.json, whole or with a mistake in
// it: no recovery spec has one of these fields.
func runtimeConfig(b []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(b, &fields) != nil {
		return false
	}
	for _, own := range []string{"ociVersion", "process", "root", "linux"} {
		if _, ok := fields[own]; ok {
			return true
		}
	}
	return false
}

// plainYAML refuses what a small document can blow up with: aliases, and nesting
// deeper than a parser's stack should have to follow.
func plainYAML(doc string) error {
	const deep = 100
	depth, line, entries := 0, 0, 0
	for _, t := range lexer.Tokenize(doc) {
		switch t.Type {
		case token.AliasType, token.AnchorType, token.MergeKeyType, token.TagType:
			return fmt.Errorf("%w: line %d: anchors, aliases and tags are not taken", ErrBadSpec, t.Position.Line)
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Line != line {
				line, entries = t.Position.Line, 0
			}
			entries++
		}
		if depth > deep || entries > deep || t.Position.IndentNum > 20*deep {
			return fmt.Errorf("%w: line %d: nested too deeply", ErrBadSpec, t.Position.Line)
		}
	}
	return nil
}

// ReadSpecFile is ReadSpec of a file. A relative rootfs is taken from the
// file's directory, as the runtime specification says of a bundle.
func ReadSpecFile(path string) (Spec, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Spec{}, fmt.Errorf("%w: %w", ErrBadSpec, err)
	} else if err != nil {
		return Spec{}, fmt.Errorf("reading specification: %w", err)
	}
	defer f.Close()
	s, err := ReadSpec(f)
	if err != nil {
		return Spec{}, fmt.Errorf("%s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Spec{}, err
	}
	if s.Rootfs == "" && s.Image == "" && len(s.Layers) == 0 && s.Config != nil && s.Config.Root != nil {
		s.Rootfs = s.Config.Root.Path
		s.ReadOnly = s.ReadOnly || s.Config.Root.Readonly
	}
	if s.Rootfs != "" && !filepath.IsAbs(s.Rootfs) {
		s.Rootfs = filepath.Join(dir, s.Rootfs)
	}
	return s, nil
}

// Marshal writes the specification as the YAML that ParseSpec reads.
func (s Spec) Marshal() ([]byte, error) {
	return yaml.MarshalWithOptions(s, yaml.IndentSequence(true), yaml.UseLiteralStyleIfMultiline(true))
}

// Check says what is wrong with the specification before anything is touched.
func (s Spec) Check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s", ErrBadSpec, fmt.Sprintf(format, a...))
	}
	if !ValidName(s.Name) {
		return bad("name %q may hold letters, digits and _ . + - only, at most 100", s.Name)
	}
	roots := 0
	for _, set := range []bool{s.Image != "", s.Rootfs != "", len(s.Layers) > 0} {
		if set {
			roots++
		}
	}
	if roots == 0 {
		return bad("no root filesystem: give an image or a rootfs directory")
	}
	if s.Rootfs != "" && (s.Image != "" || len(s.Layers) > 0) {
		return bad("a rootfs directory and an image exclude each other")
	}
	if s.Workdir != "" && !filepath.IsAbs(s.Workdir) {
		return bad("working directory %q is not absolute", s.Workdir)
	}
	if s.Net != "" && s.Net != "host" && s.Net != "none" {
		return bad("net %q is not host or none", s.Net)
	}
	if s.Seccomp != "" && s.Seccomp != "default" {
		return bad("seccomp %q is not default; a profile of your own goes into config", s.Seccomp)
	}
	if !slices.Contains([]Restart{"", RestartNo, RestartOnFailure, RestartAlways}, s.Restart) {
		return bad("restart %q is not no, on-failure or always", s.Restart)
	}
	for _, e := range s.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.ContainsRune(e, 0) {
			return bad("environment %q is not K=V", e)
		}
	}
	if slices.ContainsFunc(s.Args, func(a string) bool { return strings.ContainsRune(a, 0) }) {
		return bad("an argument holds a zero byte")
	}
	for _, m := range s.Mounts {
		if err := m.check(); err != nil {
			return err
		}
	}
	if s.CPUs < 0 || s.PIDs < 0 {
		return bad("a limit is negative")
	}
	for _, size := range []string{s.Memory, s.LogMax} {
		if _, err := ParseSize(size); err != nil {
			return err
		}
	}
	if s.Health != nil {
		if _, err := ParseProbe(s.Health.Check); err != nil {
			return fmt.Errorf("%w: health check: %w", ErrBadSpec, err)
		}
	}
	return nil
}

// ParseSize reads a number of bytes: 1024, 512MiB, 2G. The empty string is 0.
// K, M and G mean powers of 1024, with or without iB.
func ParseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRightFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	shift, ok := map[string]uint{"": 0, "b": 0, "k": 10, "kib": 10, "m": 20, "mib": 20, "g": 30, "gib": 30, "t": 40, "tib": 40}[strings.ToLower(s[len(digits):])]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 || n > (1<<62)>>shift {
		return 0, fmt.Errorf("%w: size %q is not a number with KiB, MiB or GiB", ErrBadSpec, s)
	}
	return n << shift, nil
}
