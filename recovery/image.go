package recovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// openImage opens an image by its reference:
//
//	oci:DIR[:TAG]                  an OCI image layout
//	docker-archive:FILE[:NAME]     what docker save wrote
//	kit:NAME                       an artifact of the kit
//	sha256:HEX                     an image's manifest, from the sources
//	containerd://NAMESPACE/REF     the dead containerd's store; docker:// and podman:// likewise, without a namespace
func (s Site) openImage(ctx context.Context, ref string) (*image.Image, func() error, error) {
	transport, rest, ok := strings.Cut(ref, ":")
	if !ok || rest == "" {
		return nil, nil, badImage(ref)
	}
	switch transport {
	case "oci":
		dir, tag := splitTag(rest)
		im, err := image.OpenLayout(dir, tag)
		return closing(im, err)
	case "kit":
		return s.openSupplied(ctx, rest)
	case "sha256":
		return s.openSupplied(ctx, ref)
	case "docker-archive":
		file, name := splitTag(rest)
		im, err := image.OpenArchive(file, name, s.Host.Data)
		return closing(im, err)
	case "containerd", "docker", "podman", "crio":
		name, ok := strings.CutPrefix(rest, "//")
		if !ok {
			return nil, nil, badImage(ref)
		}
		return s.openSalvaged(ctx, salvage.Kind(transport), name)
	}
	return nil, nil, badImage(ref)
}

func badImage(ref string) error {
	return fmt.Errorf("%w: image %q: want oci:DIR[:TAG], docker-archive:FILE, kit:NAME, sha256:HEX or containerd://NAMESPACE/REF", ErrUsage, ref)
}

func closing(im *image.Image, err error) (*image.Image, func() error, error) {
	if err != nil {
		return nil, nil, err
	}
	return im, im.Close, nil
}

// splitTag cuts PATH:NAME at the first colon after the path's last directory
// that exists, so that a path may itself hold colons.
func splitTag(s string) (file, name string) {
	dir, base := filepath.Split(s)
	file, name, _ = strings.Cut(base, ":")
	if slash := strings.IndexByte(s, ':'); slash >= 0 && strings.Contains(s[slash:], "/") && !exists(s) {
		// DIR:registry/name:tag
		return s[:slash], s[slash+1:]
	}
	return dir + file, name
}

// openSalvaged opens an image of a dead store. A containerd image is named
// NAMESPACE/REF, where REF holds at least one slash of its own.
func (s Site) openSalvaged(ctx context.Context, kind salvage.Kind, name string) (*image.Image, func() error, error) {
	dead, err := s.stores(kind)
	if err != nil {
		return nil, nil, err
	}
	namespace := ""
	if kind == salvage.Containerd {
		var ok bool
		if namespace, name, ok = strings.Cut(name, "/"); !ok {
			return nil, nil, errors.Join(badImage("containerd://"+name), dead.Close())
		}
	}
	si, err := dead.LookupImage(ctx, namespace, name)
	if err != nil {
		return nil, nil, errors.Join(err, dead.Close())
	}
	return &image.Image{Name: si.Name, Target: si.Target, Provider: si.Provider}, dead.Close, nil
}

// layerStore is where unpacked layers are. What a dead process left is removed.
func (s Site) layerStore() (*image.Store, error) {
	store, leftovers, err := image.OpenStore(filepath.Join(s.Host.Data, "layers"))
	for _, l := range leftovers {
		s.Log.Info(l)
	}
	return store, err
}

// PruneLayers removes the unpacked layers that no container is made of, and
// returns their directories.
func (s Site) PruneLayers() ([]string, error) {
	store, err := s.layerStore()
	if err != nil {
		return nil, err
	}
	return store.Prune(s.Host.LayersInUse())
}

// unpack brings an image's layers into the layer store, verified.
func (s Site) unpack(ctx context.Context, im *image.Image) (*image.Unpacked, error) {
	store, err := s.layerStore()
	if err != nil {
		return nil, err
	}
	name := im.Name
	if name == "" {
		name = "image"
	}
	o := image.Options{}
	if _, own := im.Provider.(kitBlobs); !own { // which tells by itself, and more
		o.Progress = func(p image.Progress) {
			s.tell(fmt.Sprintf("unpacking %s, %d layers", name, p.Layers), p.Done, p.Total)
		}
	}
	u, err := store.Unpack(ctx, im, o)
	if errors.Is(err, unix.EPERM) && container.Nested() {
		// What a layer removes cannot be written down on an overlay, where DATA is in a
		// vacuum: such images are kept where everything goes with it.
		if store, _, err = image.OpenStore(s.Host.State + "-layers"); err == nil {
			u, err = store.Unpack(ctx, im, o)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	if arch := u.Config.Architecture; arch != "" && arch != runtime.GOARCH {
		s.Log.Warn(fmt.Sprintf("the image is for %s, this host is %s: its programs may not start", arch, runtime.GOARCH))
	}
	return u, nil
}

// imageConfig is what an unpacked image says of how to run it.
func imageConfig(u *image.Unpacked) container.ImageConfig {
	c := u.Config.Config
	img := container.ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, Workdir: c.WorkingDir, StopSignal: c.StopSignal,
	}
	for p := range c.ExposedPorts {
		img.Ports = append(img.Ports, p)
	}
	return img
}

// nameOf makes a container's name of an image reference, a directory or a
// container's name in a store: its last part, without tag or digest.
func nameOf(ref string) string {
	for _, transport := range []string{"oci:", "docker-archive:", "kit:"} {
		if rest, ok := strings.CutPrefix(ref, transport); ok {
			ref, _ = splitTag(rest)
		}
	}
	ref = strings.TrimSuffix(strings.TrimSuffix(ref, "/"), ".tar")
	if i := strings.IndexByte(ref, '@'); i > 0 {
		ref = ref[:i]
	}
	base := path.Base(ref)
	if i := strings.LastIndexByte(base, ':'); i > 0 && i < len(base)-1 {
		base = base[:i]
		if j := strings.IndexByte(base, ':'); j >= 0 {
			base = base[j+1:]
		}
	}
	return cleanName(base)
}

// cleanName puts "-" for what a container's name cannot hold.
func cleanName(s string) string {
	out := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9') || strings.ContainsRune("_.+-", r) {
			return r
		}
		return '-'
	}, s)
	out = strings.TrimLeft(out, "_.+-")
	if len(out) > 80 {
		out = out[:80]
	}
	return out
}
