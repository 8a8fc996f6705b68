package recovery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/container/salvage"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// Collected is what a collection gathered.
type Collected struct {
	File     string             `json:"file"` // the kit.yaml
	Services []CollectedService `json:"services"`
	Problems []string           `json:"problems"`
}

// CollectedService is one running container.
type CollectedService struct {
	Name  string `json:"name"`
	Store string `json:"store"`
	Image string `json:"image"` // of the artifact
}

// CollectOptions says what is gathered.
type CollectOptions struct {
	Dir   string   // a kit source tree, made if need be
	Names []string // of containers; none: every one that runs
}

// collectedHeader begins a kit.yaml that may be written anew.
const collectedHeader = "# Collected by blackstart kit collect, which writes this file anew each time."

// Collect writes the specifications and images of this host's containers as a
// source for a kit: kit.yaml, services/NAME.yaml and an OCI layout, images. One
// that cannot be had is a problem, and keeps no other from it.
func (s Site) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	c := collection{site: s, dir: o.Dir, at: s.now().UTC().Truncate(time.Second), images: map[string]string{}}
	c.out.File = filepath.Join(o.Dir, "kit.yaml")
	if b, err := os.ReadFile(c.out.File); err == nil && !bytes.HasPrefix(b, []byte(collectedHeader)) {
		return Collected{}, fmt.Errorf("%w: %s was written by hand: collect into another directory, and include its kit.yaml there", ErrUsage, c.out.File)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return Collected{}, fmt.Errorf("collecting: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(o.Dir, "services"), 0o755); err != nil {
		return Collected{}, fmt.Errorf("collecting: %w", err)
	}
	all, err := s.SalvageList(ctx)
	if err != nil {
		return Collected{}, err
	}
	c.out.Problems, c.out.Services = append([]string{}, all.Problems...), []CollectedService{}
	wanted, err := s.wanted(ctx, all.Containers, o.Names)
	if err != nil {
		return Collected{}, err
	}
	for _, found := range wanted {
		if err := c.add(ctx, found); err != nil {
			if ctx.Err() != nil {
				return c.out, ctx.Err()
			}
			c.out.Problems = append(c.out.Problems, fmt.Sprintf("%s: %v", found.Name, err))
		}
	}
	if err := c.write(); err != nil {
		return c.out, err
	}
	if len(c.out.Services) == 0 {
		return c.out, fmt.Errorf("collecting: %w: no container runs on this host that an orchestrator has a record of", salvage.ErrNotFound)
	}
	return c.out, nil
}

// wanted are the containers that were named, or all that run.
func (s Site) wanted(ctx context.Context, all []salvage.Container, names []string) (_ []salvage.Container, err error) {
	if len(names) == 0 {
		groups, err := cgroups()
		if err != nil {
			return nil, err
		}
		dead, err := s.stores("")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, dead.Close()) }()
		var running []salvage.Container
		for _, found := range all {
			// A static pod's container is in the runtime's store as well, while it runs.
			if !found.Sandbox && found.Store != salvage.Kubelet && (groups.runs(found.ID) || groups.has(cgroupOf(ctx, dead, found))) {
				running = append(running, found)
			}
		}
		return running, nil
	}
	var wanted []salvage.Container
	for _, name := range names {
		i := slices.IndexFunc(all, func(f salvage.Container) bool { return f.Name == name || f.ID == name })
		if i < 0 {
			return nil, fmt.Errorf("container %s: %w", name, salvage.ErrNotFound)
		}
		wanted = append(wanted, all[i])
	}
	return wanted, nil
}

// groupPaths are the control groups that have processes.
type groupPaths []string

// cgroups reads the group of every process (proc_pid_cgroup(5)).
func cgroups() (groupPaths, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, err
	}
	var paths groupPaths
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the process has ended
		}
		for l := range strings.Lines(string(b)) {
			if _, p, ok := strings.Cut(strings.TrimSpace(l), ":/"); ok {
				paths = append(paths, p)
			}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// runs tells whether a container has a process: every engine ends the name of its
// group with the container's id, alone, after a dash or colon, or before .scope.
func (g groupPaths) runs(id string) bool {
	for _, p := range g {
		for part := range strings.SplitSeq(p, "/") {
			part = strings.TrimSuffix(part, ".scope")
			if part == id || strings.HasSuffix(part, "-"+id) || strings.HasSuffix(part, ":"+id) {
				return true
			}
		}
	}
	return false
}

// has tells whether there is a process in a group, or below it.
func (g groupPaths) has(path string) bool {
	path = strings.Trim(path, "/")
	return path != "" && slices.ContainsFunc(g, func(p string) bool { return p == path || strings.HasPrefix(p, path+"/") })
}

// cgroupOf is the group that a container was given by its specification, "" where
// that is not known.
func cgroupOf(ctx context.Context, dead *salvage.Host, found salvage.Container) string {
	store, found, err := dead.Lookup(ctx, found.ID)
	if err != nil {
		return ""
	}
	spec, err := store.Spec(ctx, found)
	if err != nil || spec.Linux == nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// collection is a collection in the making.
type collection struct {
	site   Site
	dir    string
	at     time.Time
	images map[string]string // store, namespace and reference, to the artifact
	out    Collected
	yaml   struct{ artifacts, services strings.Builder }
}

// add gathers one container.
func (c *collection) add(ctx context.Context, found salvage.Container) error {
	var taken []string
	for _, svc := range c.out.Services {
		taken = append(taken, svc.Name)
	}
	name := free(cleanName(strings.ReplaceAll(found.Name, "/", "-")), taken)
	v, err := c.site.Salvage(ctx, found.ID, SalvageOptions{Name: name, Clean: true, NoVerify: true})
	if err != nil {
		return err
	}
	key := string(found.Store) + " " + found.Namespace + " " + found.Image
	artifact, ok := c.images[key]
	if !ok {
		artifact = free(nameOf(found.Image), slices.Collect(maps.Values(c.images)))
		c.site.tell("collecting image "+found.Image, 0, 0)
		if err := c.site.Export(ctx, found.ID, "oci:"+filepath.Join(c.dir, "images")+":"+artifact); err != nil {
			return err
		}
		c.images[key] = artifact
		fmt.Fprintf(&c.yaml.artifacts, "  - {name: %s, image: %s, captured_at: %s}\n", quoted(artifact), quoted("oci:images:"+artifact), c.at.Format(time.RFC3339))
	}
	spec := v.Spec
	spec.Image, spec.Layers = "kit:"+artifact, nil
	doc, err := spec.Marshal()
	if err != nil {
		return err
	}
	file := filepath.Join("services", spec.Name+".yaml")
	if _, err := writeFile(filepath.Join(c.dir, file), bytes.NewReader(doc)); err != nil {
		return err
	}
	fmt.Fprintf(&c.yaml.services, "  - {name: %s, image: %s, managed_by: %s, spec: %s}\n", quoted(spec.Name), quoted(artifact), quoted(string(found.Store)), quoted(file))
	c.out.Services = append(c.out.Services, CollectedService{spec.Name, string(found.Store), artifact})
	return nil
}

// free is a name for a kit that is not taken.
func free(name string, taken []string) string {
	if !kit.ValidName(name) {
		name = "unnamed"
	}
	for i, n := 2, name; ; i++ {
		if !slices.Contains(taken, n) {
			return n
		}
		n = fmt.Sprintf("%s-%d", name, i)
	}
}

// quoted is a string for YAML, of which JSON's are a part.
func quoted(s string) string {
	b, _ := json.Marshal(s) // a string cannot fail
	return string(b)
}

// write writes the kit.yaml.
func (c *collection) write() error {
	host, err := os.Hostname()
	if err != nil || !kit.ValidName(host) {
		host = "host"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n# Add sources, trust and runbooks in a kit.yaml of your own, with include: [PATH OF THIS ONE].\nname: %s\n", collectedHeader, quoted(host))
	if c.yaml.services.Len() > 0 {
		fmt.Fprintf(&b, "artifacts:\n%sservices:\n%s", c.yaml.artifacts.String(), c.yaml.services.String())
	}
	_, err = writeFile(c.out.File, strings.NewReader(b.String()))
	return err
}
