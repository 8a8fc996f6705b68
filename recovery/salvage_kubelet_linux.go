package recovery

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/blackstart-project/blackstart/container/image"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// complete takes from the image what a pod's manifest leaves to it and an
// image's defaults would not bring by themselves: the program before its
// arguments, and the user.
func (v *Salvaged) complete(ctx context.Context, im *image.Image) error {
	wanted := strings.Split(v.Original.Annotations[salvage.FromImage], ",")
	delete(v.Spec.Config.Annotations, salvage.FromImage)
	program := slices.Contains(wanted, "entrypoint") && len(v.Spec.Args) > 0
	if !program && !slices.Contains(wanted, "user") {
		return nil
	}
	_, c, err := im.Manifest(ctx)
	if err != nil {
		return fmt.Errorf("reading image %s: %w", im.Name, err)
	}
	if program {
		v.Spec.Args = slices.Concat(c.Config.Entrypoint, v.Spec.Args)
	}
	if slices.Contains(wanted, "user") {
		v.imageUser(c.Config.User)
	}
	return nil
}

// imageUser makes the image's user that of the container. A group that the pod
// names goes before the user's own.
func (v *Salvaged) imageUser(user string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" || name == "root" || name == "0" {
		return // as it is, with the pod's groups
	}
	now := v.Spec.Config.Process.User
	if now.GID != 0 {
		user = name + ":" + strconv.FormatUint(uint64(now.GID), 10)
	}
	v.Spec.User = user
	if len(now.AdditionalGids) > 0 {
		v.Changes = append(v.Changes, salvage.Change{
			Path: "process.user.additionalGids", Was: fmt.Sprint(now.AdditionalGids), Loud: true,
			Why: "the image's user " + name + " is looked up with the groups of the image's own, without the pod's",
		})
	}
}
