package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// stores opens what dead orchestrators left below the site's root; kind "" is
// every kind.
func (s Site) stores(kind salvage.Kind) (*salvage.Host, error) {
	h, problems, err := s.find(kind)
	for _, p := range problems {
		s.Log.Warn("passed over", "store", p.Store, "what", p.What, "error", p.Err)
	}
	return h, err
}

// find is stores, and says what was passed over.
func (s Site) find(kind salvage.Kind) (*salvage.Host, []salvage.Problem, error) {
	found, problems := salvage.Find(s.Root)
	if len(found) == 0 && s.Root != "/" {
		found, problems = salvage.OpenPath(s.Root)
	}
	h := &salvage.Host{}
	for _, st := range found {
		if kind == "" || st.Kind() == kind || (kind == salvage.CRIO && st.Kind() == salvage.Podman) {
			h.Stores = append(h.Stores, st)
		} else if err := st.Close(); err != nil {
			s.Log.Warn("closing store", "path", st.Path(), "error", err)
		}
	}
	if len(h.Stores) == 0 {
		return nil, problems, fmt.Errorf("%w: no store of containerd, Docker, Podman, CRI-O or a kubelet below %s", salvage.ErrNotFound, s.Root)
	}
	return h, problems, nil
}

// Salvageable is what the dead stores hold.
type Salvageable struct {
	Containers []salvage.Container `json:"containers"`
	Images     []salvage.Image     `json:"images"`
	Problems   []string            `json:"problems"`
}

// SalvageList lists every store. A store or record that cannot be read is in
// Problems; where there is nothing else, the error is ErrIncomplete.
func (s Site) SalvageList(ctx context.Context) (Salvageable, error) {
	all := Salvageable{Containers: []salvage.Container{}, Images: []salvage.Image{}, Problems: []string{}}
	dead, problems, err := s.find("")
	for _, p := range problems {
		all.Problems = append(all.Problems, p.String())
	}
	if err != nil {
		return all, err
	}
	l := dead.List(ctx)
	for _, p := range l.Problems {
		all.Problems = append(all.Problems, p.String())
	}
	all.Containers = append(all.Containers, l.Containers...)
	all.Images = append(all.Images, l.Images...)
	err = dead.Close()
	if len(all.Containers)+len(all.Images) == 0 && len(all.Problems) > 0 {
		err = errors.Join(fmt.Errorf("listing stores: %w: nothing in them can be read", salvage.ErrIncomplete), err)
	}
	return all, err
}

// SalvageOptions say how a dead container is to be brought back.
type SalvageOptions struct {
	Name     string // of the recovery container; empty takes the dead one's
	Net      string // host, none, or keep: what the orchestrator gave it; empty is host
	Clean    bool   // leave out what the container wrote outside its volumes
	NoVerify bool   // use the dead snapshots as they are
	Image    string // in place of the dead one: a reference with its transport
}

// Salvaged is a dead container ready to be run again.
type Salvaged struct {
	Container  salvage.Container `json:"container"`
	Spec       container.Spec    `json:"spec"`
	Changes    []salvage.Change  `json:"changes"`
	Verified   bool              `json:"verified"`   // the image's bytes will have been, or were, checked
	Unverified []string          `json:"unverified"` // layers that nothing vouches for
	Notes      []string          `json:"notes"`
	Original   *specs.Spec       `json:"-"`
}

// Salvage finds a dead container and makes the recovery specification of it.
func (s Site) Salvage(ctx context.Context, name string, o SalvageOptions) (_ Salvaged, err error) {
	dead, err := s.stores("")
	if err != nil {
		return Salvaged{}, err
	}
	defer func() { err = errors.Join(err, dead.Close()) }()
	store, found, err := dead.Lookup(ctx, name)
	if err != nil {
		return Salvaged{}, err
	}
	orig, err := store.Spec(ctx, found)
	if err != nil {
		return Salvaged{}, fmt.Errorf("reading the specification of %s: %w", found.Name, err)
	}
	if o.Name == "" {
		o.Name = cleanName(path.Base(found.Name))
	}
	root := "/"
	if exists(filepath.Join(s.Root, "var/lib")) || exists(filepath.Join(s.Root, "etc")) {
		root = s.Root
	}
	now, changes := salvage.Recover(orig, salvage.RewriteOptions{
		Cgroup: container.CgroupPath(o.Name), Network: salvage.Network(o.Net), Resolve: salvage.ResolveIn(root), Exists: exists,
		Mounted: container.Mounted, AppArmorLoaded: container.AppArmorLoaded, SELinux: container.SELinux(),
	})
	out := Salvaged{Container: found, Changes: changes, Original: orig}
	out.Spec = document(o.Name, found, now, orig.Annotations)
	out.attend(orig.Annotations)
	err = s.rootOf(ctx, dead, store, found, o, &out)
	return out, err
}

// ociStopSignal is where Podman and CRI-O put the signal that asks for an orderly
// end, a name or number (conversion.md of the OCI image specification).
const ociStopSignal = "org.opencontainers.image.stopSignal"

// document splits a rewritten configuration into the words an operator edits and
// the rest.
func document(name string, found salvage.Container, now *specs.Spec, notes map[string]string) container.Spec {
	s := container.Spec{Name: name, From: string(found.Store) + ":" + found.ID, Net: "host"}
	if found.Namespace != "" {
		s.From = string(found.Store) + ":" + found.Namespace + "/" + found.ID
	}
	if !container.HostNet(now) {
		s.Net = "" // as Config says
	}
	if now.Process != nil {
		s.Args, s.Env, s.Workdir = now.Process.Args, now.Process.Env, now.Process.Cwd
		now.Process.Args, now.Process.Env, now.Process.Cwd = nil, nil, ""
	}
	now.Mounts = slices.DeleteFunc(now.Mounts, func(m specs.Mount) bool {
		if m.Type != "bind" && !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			return false
		}
		b := container.Mount{Source: m.Source, Target: m.Destination}
		for _, o := range m.Options {
			switch o {
			case "ro":
				b.ReadOnly = true
			case "rw":
			default:
				b.Options = append(b.Options, o)
			}
		}
		s.Mounts = append(s.Mounts, b)
		return true
	})
	if now.Root != nil {
		s.ReadOnly, now.Root = now.Root.Readonly, nil
	}
	s.User = notes[salvage.AnnotationUser]
	s.Seccomp = notes[salvage.AnnotationSeccomp]
	s.StopSignal = firstOf(notes[salvage.AnnotationStopSignal], notes[ociStopSignal])
	if p := notes[salvage.AnnotationPorts]; p != "" {
		s.Ports = strings.Split(p, ",")
	}
	conf := container.OCI(*now)
	s.Config = &conf
	return s
}

// rootOf decides what the recovery container's root filesystem is made of: the
// image, unpacked anew from verified blobs; else the dead snapshots in place.
func (s Site) rootOf(ctx context.Context, dead *salvage.Host, store salvage.Store, found salvage.Container, o SalvageOptions, out *Salvaged) error {
	fs, fsErr := store.Rootfs(ctx, found)
	if fsErr == nil {
		out.needShell(append(slices.Clone(fs.Layers), fs.Upper))
	}
	if fsErr == nil && !o.Clean && fs.Upper != "" && !emptyDir(fs.Upper) {
		out.Spec.Layers = append(out.Spec.Layers, fs.Upper)
		out.Notes = append(out.Notes, "what the container wrote outside its volumes is seen through a new writable layer: changes stay in the recovery container and do not go back")
	}
	if o.Image != "" {
		return s.imageInstead(ctx, o.Image, out)
	}
	if !o.NoVerify {
		im, err := dead.LookupImage(ctx, found.Namespace, found.Image)
		if err == nil {
			if name := s.kitHas(ctx, im); name != "" {
				out.Notes = append(out.Notes, "the kit has this image: it is used, as "+name+", rather than the dead store's copy")
				return s.imageInstead(ctx, "kit:"+name, out)
			}
		}
		switch {
		case err == nil && (im.Store == salvage.Containerd || fsErr != nil):
			out.Spec.Image, out.Verified = imageRef(im), true
			return out.complete(ctx, &image.Image{Name: im.Name, Target: im.Target, Provider: im.Provider})
		case fsErr != nil:
			return fmt.Errorf("finding the root filesystem of %s: %w", found.Name, errors.Join(fsErr, err))
		case err != nil:
			out.Notes = append(out.Notes, "the image cannot be unpacked anew: "+err.Error())
		}
		if v, ok := store.(salvage.Verifier); ok {
			if err := v.VerifyRootfs(ctx, found, func(done, total int64) { s.tell("verifying the dead image in place", done, total) }); err == nil {
				out.Verified = true
			} else if ctx.Err() != nil || errors.Is(err, salvage.ErrVerification) {
				return fmt.Errorf("verifying the dead image of %s: %w", found.Name, err)
			} else {
				out.Notes = append(out.Notes, "the dead image is damaged or cannot be verified: "+err.Error())
			}
		}
	}
	if fsErr != nil {
		return fmt.Errorf("finding the root filesystem of %s: %w", found.Name, fsErr)
	}
	if len(fs.Layers) == 0 && fs.Upper == "" {
		return fmt.Errorf("%w: %s has neither an image nor a snapshot", salvage.ErrIncomplete, found.Name)
	}
	out.Spec.Layers = slices.Concat(fs.Layers, out.Spec.Layers)
	if !out.Verified {
		out.Unverified = fs.Layers
	}
	return nil
}

func imageRef(im salvage.Image) string {
	if im.Namespace != "" {
		return string(im.Store) + "://" + im.Namespace + "/" + im.Name
	}
	return string(im.Store) + "://" + im.Name
}

func emptyDir(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	return err != nil && len(names) == 0
}

// Diff is the unified difference between the dead container's configuration and
// the one its recovery specification stands for.
func (v Salvaged) Diff() (string, error) {
	now, err := v.merged()
	if err != nil {
		return "", err
	}
	return salvage.Diff(v.Original, now)
}

// merged puts the document's words back into the configuration.
func (v Salvaged) merged() (*specs.Spec, error) {
	b, err := json.Marshal(specs.Spec(*v.Spec.Config))
	if err != nil {
		return nil, err
	}
	now := &specs.Spec{}
	if err := json.Unmarshal(b, now); err != nil {
		return nil, err
	}
	if now.Process != nil {
		now.Process.Args, now.Process.Env, now.Process.Cwd = v.Spec.Args, v.Spec.Env, v.Spec.Workdir
	}
	now.Root = v.Original.Root
	v.annotate(now)
	for _, m := range v.Spec.Mounts {
		opts := m.Options
		if m.ReadOnly {
			opts = append(slices.Clone(opts), "ro")
		}
		now.Mounts = append(now.Mounts, specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: opts})
	}
	// In the order of the original, so that only what differs shows.
	at := func(m specs.Mount) int {
		i := slices.IndexFunc(v.Original.Mounts, func(o specs.Mount) bool { return o.Destination == m.Destination })
		if i < 0 {
			i = len(v.Original.Mounts)
		}
		return i
	}
	slices.SortStableFunc(now.Mounts, func(a, b specs.Mount) int { return at(a) - at(b) })
	return now, nil
}

// Export writes the image of a dead container, or an image by its name, to an
// OCI layout (oci:DIR[:TAG]) or a docker-archive (docker-archive:FILE).
func (s Site) Export(ctx context.Context, name, to string) (err error) {
	dead, err := s.stores("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dead.Close()) }()
	namespace, ref := "", name
	if _, found, err := dead.Lookup(ctx, name); err == nil {
		namespace, ref = found.Namespace, found.Image
	} else if !errors.Is(err, salvage.ErrNotFound) {
		return err
	}
	si, err := dead.LookupImage(ctx, namespace, ref)
	if err != nil {
		return fmt.Errorf("finding image %s: %w", ref, err)
	}
	im := &image.Image{Name: si.Name, Target: si.Target, Provider: si.Provider}
	return writeImage(ctx, im, to)
}

// writeImage writes an image to an OCI layout or a docker-archive.
func writeImage(ctx context.Context, im *image.Image, to string) error {
	transport, dst, _ := strings.Cut(to, ":")
	switch {
	case transport == "oci" && dst != "":
		dir, tag := splitTag(dst)
		if tag == "" {
			tag = "latest"
		}
		return image.WriteLayout(ctx, im, dir, tag)
	case transport == "docker-archive" && dst != "":
		return writeArchive(ctx, im, dst)
	}
	return fmt.Errorf("%w: %q: want oci:DIR[:TAG] or docker-archive:FILE", ErrUsage, to)
}

// writeArchive writes to a new file, which is there whole or not at all.
func writeArchive(ctx context.Context, im *image.Image, file string) error {
	if exists(file) {
		return fmt.Errorf("%w: %s exists already", ErrUsage, file)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("writing archive: %w", err)
	}
	err = image.WriteArchive(ctx, im, f, im.Name)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing archive: %w", err), os.Remove(f.Name()))
	}
	return nil
}
