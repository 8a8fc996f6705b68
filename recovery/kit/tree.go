package kit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
	"github.com/opencontainers/go-digest"
)

// maxYAML bounds a kit.yaml and each file whose text goes into the document, in bytes.
const maxYAML = 4 << 20

// Tree is a kit.yaml: what goes into a kit, with paths that are relative to its own directory.
//
//	name: site-a
//	fresh_for: 30d
//	sources:
//	  - {name: seed, url: https://10.0.0.9:8443/, trust: site-ca}
//	artifacts:
//	  - {name: etcdctl, file: bin/etcdctl}
//	  - {name: etcd, image: oci:images/etcd:v3.4, needs: [etcdctl]}
//	services:
//	  - {name: etcd, owner: storage-oncall, managed_by: meta-root, image: etcd, spec: services/etcd.yaml}
//	capabilities:
//	  - {name: package-store:read, service: package-store, spec: {allow: ["http:https://10.0.0.5;GET"]}}
//	names:
//	  - {name: registry.example, addresses: [10.0.0.7], observed_at: 2026-03-01T00:00:00Z}
//	  - {name: example, zone: zones/example.zone}
//	trust:
//	  - {name: site-ca, ca: site-ca.pem}
//	  - {name: registry, spki: "sha256:…"}
//	policy: [policy/access.yaml]
//	runbooks: [runbooks/etcd.yaml]
//	contacts:
//	  - {name: storage-oncall, uri: "sip:storage-oncall@10.0.0.9"}
//	revoked: ["SHA256:…"]
//	include: [collected/kit.yaml]
type Tree struct {
	Name         string           `yaml:"name"`
	FreshFor     Duration         `yaml:"fresh_for"` // 720h or 30d; without it the kit is never stale
	MinTool      string           `yaml:"min_tool"`
	Sources      []Source         `yaml:"sources"`
	Artifacts    []TreeArtifact   `yaml:"artifacts"`
	Services     []TreeService    `yaml:"services"`
	Capabilities []TreeCapability `yaml:"capabilities"`
	Names        []TreeName       `yaml:"names"`
	Trust        []TreeAnchor     `yaml:"trust"`
	Policy       []string         `yaml:"policy"`   // paths
	Runbooks     []string         `yaml:"runbooks"` // paths
	Contacts     []Contact        `yaml:"contacts"`
	Revoked      []string         `yaml:"revoked"`
	// Include is the paths of other files of this kind, such as those that kit collect writes: what their artifacts
	// and services are is taken as well.
	Include []string `yaml:"include"`

	// Dir is the directory that relative paths are taken from.
	Dir string `yaml:"-"`
}

// TreeArtifact names what is to be captured. Exactly one of File and Image is there.
type TreeArtifact struct {
	Name       string    `yaml:"name"`
	File       string    `yaml:"file"`        // path
	Image      string    `yaml:"image"`       // reference with its transport, as BuildOptions.OpenImage takes it
	MediaType  string    `yaml:"media_type"`  // of a file; application/octet-stream if absent
	CapturedAt time.Time `yaml:"captured_at"` // if absent, when the file or image was written
	Needs      []string  `yaml:"needs"`
}

// TreeService is a service whose spec is a mapping, or the path of a YAML or JSON file with one.
type TreeService struct {
	Name      string `yaml:"name"`
	Owner     string `yaml:"owner"`
	ManagedBy string `yaml:"managed_by"`
	Image     string `yaml:"image"`
	Spec      Spec   `yaml:"spec"`
}

// TreeCapability is a capability whose spec is a mapping, or the path of a file with one.
type TreeCapability struct {
	Name    string `yaml:"name"`
	Service string `yaml:"service"`
	Spec    Spec   `yaml:"spec"`
}

// TreeName is a frozen name; zone is the path of a master file.
type TreeName struct {
	Name       string    `yaml:"name"`
	Addresses  []string  `yaml:"addresses"`
	Zone       string    `yaml:"zone"`
	ObservedAt time.Time `yaml:"observed_at"` // if absent, when the zone was written, or the kit is signed
}

// TreeAnchor is a trust anchor; ca is the path of a PEM file.
type TreeAnchor struct {
	Name string        `yaml:"name"`
	CA   string        `yaml:"ca"`
	SPKI digest.Digest `yaml:"spki"`
}

// Duration is a time.Duration that may also be written in days, 30d.
type Duration time.Duration

// UnmarshalText reads 30d, or what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	var v time.Duration
	var err error
	if days, ok := strings.CutSuffix(string(b), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * 24 * time.Hour
	} else {
		v, err = time.ParseDuration(string(b))
	}
	if err == nil && v <= 0 {
		err = errors.New("want a duration above zero")
	}
	*d = Duration(v)
	return err
}

// Spec is a mapping inside of a kit.yaml, or the path of a file with one.
type Spec struct {
	path   string
	inline json.RawMessage
}

// UnmarshalYAML reads a scalar as a path, and anything else as JSON.
func (s *Spec) UnmarshalYAML(b []byte) error {
	if err := yaml.Unmarshal(b, &s.path); err == nil {
		return nil
	}
	j, err := plainJSON(b)
	s.path, s.inline = "", j
	return err
}

// read returns the specification as one JSON object.
func (s Spec) read(dir string) (json.RawMessage, error) {
	if s.path == "" {
		return s.inline, nil
	}
	b, _, err := readText(dir, s.path)
	if err != nil {
		return nil, err
	}
	j, err := yamlToJSON(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return j, nil
}

// ReadTree reads a kit.yaml. What its paths lead to is read by Build.
func ReadTree(path string) (Tree, error) {
	b, _, err := readText("", path)
	if err != nil {
		return Tree{}, fmt.Errorf("reading kit source: %w", err)
	}
	t, err := ParseTree(b)
	if err != nil {
		return Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	t.Dir = filepath.Dir(path)
	for _, inc := range t.Include {
		if err := t.include(inc); err != nil {
			return Tree{}, fmt.Errorf("including %s: %w", inc, err)
		}
	}
	t.Include = nil
	return t, nil
}

// include adds another file's artifacts and services.
func (t *Tree) include(path string) error {
	b, _, err := readText(t.Dir, path)
	if err != nil {
		return err
	}
	other, err := ParseTree(b)
	if err != nil {
		return err
	}
	if len(other.Include) > 0 {
		return fmt.Errorf("%w: an included file includes others", ErrInvalid)
	}
	dir := filepath.Dir(path)
	from := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	for _, a := range other.Artifacts {
		a.File = from(a.File)
		if transport, p, _ := strings.Cut(a.Image, ":"); transport == "oci" || transport == "docker-archive" {
			a.Image = transport + ":" + from(p)
		}
		t.Artifacts = append(t.Artifacts, a)
	}
	for _, s := range other.Services {
		s.Spec.path = from(s.Spec.path)
		t.Services = append(t.Services, s)
	}
	return nil
}

// ReadCapabilities reads the capabilities of a kit.yaml, and what their paths lead to.
func ReadCapabilities(path string) ([]Capability, error) {
	t, err := ReadTree(path)
	if err != nil {
		return nil, err
	}
	var all []Capability
	for _, c := range t.Capabilities {
		spec, err := c.Spec.read(t.Dir)
		if err != nil {
			return nil, fmt.Errorf("%s: capability %s: %w", path, c.Name, err)
		}
		all = append(all, Capability{Name: c.Name, Service: c.Service, Spec: spec})
	}
	return all, nil
}

// ParseTree reads a kit.yaml's bytes. Unknown fields, aliases and tags are errors. Errors: ErrInvalid, with the line.
func ParseTree(b []byte) (t Tree, err error) {
	defer recovered(&err)
	if err := plainYAML(b); err != nil {
		return Tree{}, err
	}
	if err := yaml.UnmarshalWithOptions(b, &t, yaml.Strict()); err != nil {
		return Tree{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}

// recovered turns a panic of the YAML library, which some malformed documents cause, into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: malformed YAML: %v", ErrInvalid, r)
	}
}

func yamlToJSON(b []byte) (j json.RawMessage, err error) {
	defer recovered(&err)
	if err := plainYAML(b); err != nil {
		return nil, err
	}
	return plainJSON(b)
}

// plainJSON writes YAML as JSON with sorted keys and no blanks.
func plainJSON(b []byte) (json.RawMessage, error) {
	var v any
	if err := yaml.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, fmt.Errorf("%w: want a mapping", ErrInvalid)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// plainYAML refuses what a small document can blow up with: aliases, tags, and nesting deeper than a parser's
// stack should have to follow.
func plainYAML(b []byte) error {
	const deep = 50
	depth, line, entries := 0, 0, 0
	tokens := lexer.Tokenize(string(b))
	for i, t := range tokens {
		if depth > 0 && i > 0 && i+1 < len(tokens) && cutWord(tokens[i-1], t, tokens[i+1]) {
			return fmt.Errorf("%w: line %d: put %.80q in quotes", ErrInvalid, t.Position.Line, tokens[i-1].Value+":"+tokens[i+1].Value)
		}
		switch t.Type {
		case token.AliasType, token.AnchorType, token.MergeKeyType, token.TagType:
			return fmt.Errorf("%w: line %d: anchors, aliases and tags are not taken", ErrInvalid, t.Position.Line)
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
			return fmt.Errorf("%w: line %d: nested too deeply", ErrInvalid, t.Position.Line)
		}
	}
	return nil
}

// cutWord says whether the library takes a word with a colon in it, inside brackets, for a key and its value: that wants
// a blank after the colon (YAML 1.2.2, 7.3.3). What was meant would be read as something else.
func cutWord(before, colon, after *token.Token) bool {
	if colon.Type != token.MappingValueType || after.Position.Offset != colon.Position.Offset+1 || after.Position.Line != colon.Position.Line {
		return false
	}
	switch before.Type {
	case token.SingleQuoteType, token.DoubleQuoteType, token.SequenceEndType, token.MappingEndType:
		return false
	}
	switch after.Type {
	case token.CollectEntryType, token.SequenceStartType, token.SequenceEndType, token.MappingStartType, token.MappingEndType, token.CommentType:
		return false
	}
	return true
}

// readText reads a small file, and says when it was written.
func readText(dir, path string) ([]byte, time.Time, error) {
	if dir != "" && !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, time.Time{}, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxYAML {
		return nil, time.Time{}, fmt.Errorf("%w: %s is not a file of at most %d bytes", ErrInvalid, path, maxYAML)
	}
	b, err := os.ReadFile(path)
	return b, st.ModTime(), err
}
