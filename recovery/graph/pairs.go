package graph

import (
	"context"
	"fmt"
	"math/bits"
)

// maxPairs bounds the services of which every pair is simulated.
const maxPairs = 2000

// alone is what a loss does by itself: what falls, and what never comes back.
type alone struct{ fell, stuck bitmap }

// pairs are every two of the services named, of all if none is, and what each does alone.
func (x *index) pairs(ctx context.Context, names []string) ([]loss, map[int32]alone, error) {
	of, err := x.find(names, "")
	if err != nil {
		return nil, nil, err
	}
	if len(of) > maxPairs {
		return nil, nil, fmt.Errorf("%w: pairs of %d services: at most %d are simulated, so name them with --among", ErrInvalid, len(of), maxPairs)
	}
	s := newStorm(x)
	takes := make([]int64, x.n())
	each := make(map[int32]alone, len(of))
	var out []loss
	for i, v := range of {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		s.fall([]int32{v}, running)
		s.recover(takes)
		a := alone{newBitmap(x.n()), newBitmap(x.n())}
		for _, d := range s.down {
			a.fell.set(d)
		}
		for _, d := range s.lost() {
			a.stuck.set(d)
		}
		each[v] = a
		for _, w := range of[:i] {
			out = append(out, loss{lost: []int32{w, v}, pair: true})
		}
	}
	return out, each, nil
}

// worse says whether a pair takes down more, or leaves more stuck, than the two do alone.
func (o *outcome) worse(each map[int32]alone) bool {
	a, b := each[o.lost[0]], each[o.lost[1]]
	return int(o.down) > a.fell.either(b.fell) || int(o.stuck) > a.stuck.either(b.stuck)
}

// bitmap is a set of small numbers.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) set(i int32) { b[i/64] |= 1 << (i % 64) }

// either is how many are in one of two sets of the same size, or in both.
func (b bitmap) either(o bitmap) int {
	n := 0
	for i := range b {
		n += bits.OnesCount64(b[i] | o[i])
	}
	return n
}
