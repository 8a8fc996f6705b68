package graph

import (
	"cmp"
	"slices"
)

// jumpstarts are recovery containers that together break every loop: one after the other that which brings most back.
// It is nil where there is no loop, or where more than ten are needed. It ends the tide.
func (k *knots) jumpstarts(t *tide, components [][]int32) []string {
	const most = 10
	var out []string
	var room trialRoom
	x := k.x
	for work := 3_000_000; ; components = k.components() {
		all := slices.Concat(components...)
		if len(all) == 0 {
			return out
		}
		if len(out) == most {
			return nil
		}
		slices.SortStableFunc(all, func(a, b int32) int {
			return cmp.Compare(len(k.in.of(b)), len(k.in.of(a)))
		})
		best, count := int32(-1), 0
		for _, v := range all {
			if best >= 0 && work < 0 {
				break
			}
			n, cost := x.trial(t, nil, k.services[v], &room)
			if work -= cost; n > count {
				best, count = k.services[v], n
			}
		}
		out = append(out, x.name(best))
		t.wave[best] = 1
		t.order = append(t.order, best)
		x.spread(t, len(t.order)-1)
		k = newKnots(x, t)
	}
}
