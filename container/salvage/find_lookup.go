package salvage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Host is all the stores of one host.
type Host struct{ Stores []Store }

// Close closes every store.
func (h *Host) Close() error {
	var errs []error
	for _, store := range h.Stores {
		errs = append(errs, store.Close())
	}
	return errors.Join(errs...)
}

// List returns what every store lists, the stores in their order. A store that
// cannot be listed is a Problem. Containerd's record of a Docker container counts
// only where Docker has none.
func (h *Host) List(ctx context.Context) Listing {
	var all Listing
	for _, store := range h.Stores {
		listing, err := store.List(ctx)
		if err != nil {
			all.Problems = append(all.Problems, Problem{Store: store.Kind(), What: store.Path(), Err: err})
		}
		all.Containers = append(all.Containers, listing.Containers...)
		all.Images = append(all.Images, listing.Images...)
		all.Problems = append(all.Problems, listing.Problems...)
	}
	docker := map[string]Container{}
	for _, c := range all.Containers {
		if c.Store == Docker {
			docker[c.ID] = c
		}
	}
	all.Containers = slices.DeleteFunc(all.Containers, func(c Container) bool {
		twin, ok := docker[c.ID]
		return ok && c.Store == Containerd && supersedes(twin, c)
	})
	return all
}

// match is how well a name fits a container, the best first.
type match int

const (
	matchExact  match = iota // id or name
	matchPrefix              // of an id
	matchPart                // a pod's or a container's name alone
	matchNone
)

// minPrefix is how many characters of an id are enough.
const minPrefix = 4

// candidate is a container a name may stand for.
type candidate struct {
	store     Store
	container Container
}

// Lookup finds the one container a name stands for: an id or a name as it was
// recorded, POD/CONTAINER, the start of an id (4 characters or more), or a pod's
// or container's name alone. KIND: and NAMESPACE/ (containerd's or the pod's)
// before it narrow the search. The best kind of match wins; among several
// attempts at the same container the latest; a static pod's manifest counts only
// where no store has the container itself, and containerd's record of a Docker
// container only where Docker has none. A sandbox is found by its id alone.
//
// It returns [ErrNotFound], or [ErrAmbiguous] with the candidates. A store that
// cannot be listed is passed over, and named in the error if nothing is found.
func (h *Host) Lookup(ctx context.Context, name string) (Store, Container, error) {
	kind, rest := splitKind(name)
	var found [matchNone][]candidate
	var unreadable []error
	for _, store := range h.Stores {
		if kind != "" && kind != store.Kind() && (kind != CRIO && kind != Podman || store.Kind() != CRIO && store.Kind() != Podman) {
			continue
		}
		listing, err := store.List(ctx)
		if err != nil {
			unreadable = append(unreadable, err)
			continue
		}
		for _, c := range listing.Containers {
			if kind != "" && c.Store != kind {
				continue
			}
			if m := matches(c, rest); m < matchNone {
				found[m] = append(found[m], candidate{store, c})
			}
		}
	}
	for _, candidates := range found {
		switch candidates = settle(candidates); len(candidates) {
		case 0:
		case 1:
			return candidates[0].store, candidates[0].container, nil
		default:
			return nil, Container{}, ambiguous(name, candidates)
		}
	}
	return nil, Container{}, errors.Join(append([]error{fmt.Errorf("container %s: %w", name, ErrNotFound)}, unreadable...)...)
}

// splitKind takes KIND: off a name.
func splitKind(name string) (Kind, string) {
	kind, rest, ok := strings.Cut(name, ":")
	if ok && slices.Contains([]Kind{Containerd, Docker, Podman, CRIO, Kubelet}, Kind(kind)) {
		return Kind(kind), rest
	}
	return "", name
}

func matches(c Container, name string) match {
	best := matchOne(c, name)
	for _, namespace := range []string{c.Namespace, c.PodNamespace} {
		if rest, ok := strings.CutPrefix(name, namespace+"/"); ok && namespace != "" {
			best = min(best, matchOne(c, rest))
		}
	}
	return best
}

func matchOne(c Container, name string) match {
	switch {
	case name == "":
		return matchNone
	case c.ID == name, c.Name == name && !c.Sandbox:
		return matchExact
	case len(name) >= minPrefix && strings.HasPrefix(c.ID, name):
		return matchPrefix
	case c.Pod != "" && !c.Sandbox && (c.Pod == name || strings.TrimPrefix(c.Name, c.Pod+"/") == name):
		return matchPart
	default:
		return matchNone
	}
}

// settle drops the candidates that another one stands for as well.
func settle(candidates []candidate) []candidate {
	dropped := func(a candidate) bool {
		return slices.ContainsFunc(candidates, func(b candidate) bool { return supersedes(b.container, a.container) })
	}
	var kept []candidate
	for _, c := range candidates {
		if !dropped(c) {
			kept = append(kept, c)
		}
	}
	return kept
}

func supersedes(a, b Container) bool {
	switch {
	case a.Store != Kubelet && b.Store == Kubelet:
		return true
	case a.Store == Docker && b.Store == Containerd && a.ID == b.ID:
		return true
	case a.Store == b.Store && a.StorePath == b.StorePath && a.Namespace == b.Namespace && a.ID != b.ID:
		return a.Pod != "" && a.PodNamespace == b.PodNamespace && a.Name == b.Name && a.Created.After(b.Created)
	default:
		return false
	}
}

func ambiguous(name string, candidates []candidate) error {
	list := make([]string, len(candidates))
	for i, c := range candidates {
		namespace := c.container.Namespace
		if namespace != "" {
			namespace += "/"
		}
		list[i] = fmt.Sprintf("%s:%s%s (%s)", c.container.Store, namespace, c.container.ID, c.container.Name)
	}
	return fmt.Errorf("container %s: %w: %s", name, ErrAmbiguous, strings.Join(list, ", "))
}

// LookupImage finds an image whose blobs are all present in one of the stores.
// Short references are read as Docker does: nginx is docker.io/library/nginx:latest.
// "" as namespace means any. It returns [ErrNotFound], or [ErrIncomplete] for an
// image that is named but no longer whole.
func (h *Host) LookupImage(ctx context.Context, namespace, name string) (Image, error) {
	want := normalise(name)
	failed := fmt.Errorf("image %s: %w", name, ErrNotFound)
	for _, store := range h.Stores {
		listing, err := store.List(ctx)
		if err != nil {
			continue // Lookup and the listing say so
		}
		for _, image := range listing.Images {
			if namespace != "" && image.Namespace != "" && image.Namespace != namespace || normalise(image.Name) != want {
				continue
			}
			whole, err := store.Image(ctx, image.Namespace, image.Name)
			if err == nil {
				return whole, nil
			}
			failed = fmt.Errorf("image %s in %s: %w", name, store.Path(), err)
		}
	}
	return Image{}, failed
}
