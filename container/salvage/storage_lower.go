package salvage

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// overlayLowers reads what an overlay driver (Docker's or containers/storage's)
// keeps beside a layer: DRIVER/ID/lower, l/LINK:l/LINK…, the topmost first, where
// DRIVER/l/LINK is a symbolic link to ../LAYER/diff. It returns the layers' names,
// the lowest first. known tells a layer's name from others.
func overlayLowers(root, driver, id string, known func(string) bool) ([]string, error) {
	if !known(id) {
		return nil, fmt.Errorf("record of layer %.80q: %w", id, ErrIncomplete)
	}
	data, err := readBounded(root, filepath.Join(driver, id, "lower"), maxConfig)
	if err != nil {
		return nil, fmt.Errorf("layers below %s: %w: %w", id, ErrIncomplete, err)
	}
	var ids []string
	for link := range strings.SplitSeq(strings.TrimSpace(string(data)), ":") {
		dir, err := beneath(root, filepath.Join(driver, link))
		lower := filepath.Base(filepath.Dir(dir))
		if err != nil || !known(lower) || len(ids) == maxLayers {
			return nil, fmt.Errorf("layers below %s: %.80q is none: %w", id, link, ErrIncomplete)
		}
		ids = append(ids, lower)
	}
	slices.Reverse(ids)
	return ids, nil
}
