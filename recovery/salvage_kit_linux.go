package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/container/salvage"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// imageInstead makes an image the recovery container's, whatever the dead one's was.
func (s Site) imageInstead(ctx context.Context, ref string, out *Salvaged) (err error) {
	im, closeImage, err := s.openImage(ctx, ref)
	if err != nil {
		return fmt.Errorf("opening %s: %w", ref, err)
	}
	defer func() { err = errors.Join(err, closeImage()) }()
	out.Spec.Image, out.Verified = ref, true
	return out.complete(ctx, im)
}

// kitHas is the name that this host's kit has an image by, or "" where it has no
// such image, or there is no kit that may be used.
func (s Site) kitHas(ctx context.Context, si salvage.Image) string {
	im := &image.Image{Name: si.Name, Target: si.Target, Provider: si.Provider}
	m, _, err := im.Manifest(ctx)
	if err != nil {
		return ""
	}
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		if s.From.Kit.Dir != "" || !errors.Is(err, fs.ErrNotExist) {
			s.Log.Warn("the kit is not used: " + err.Error())
		}
		return ""
	}
	defer func() { _ = k.Close() }() // only read from
	for _, a := range k.Document.Artifacts {
		// A kit keeps the configuration as it is, and the layers uncompressed: so the
		// configuration is what tells that two images are the same.
		if a.Kind == kit.Image && len(a.Blobs) > 1 && a.Blobs[1].Digest == m.Config.Digest {
			return a.Name
		}
	}
	return ""
}
