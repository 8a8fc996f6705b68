package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Partition cuts every host of a from every host of b: whatever one sends the
// other is lost without a word, on connections that are open too. Partitions
// add up. Traffic of programs that were given raw sockets and write the address
// of a third host into it is cut as that host's.
//
// After an error some pairs may be cut and others not; another call tries again.
func (f *Fabric) Partition(ctx context.Context, a, b []int) error {
	f.cutting.Lock()
	defer f.cutting.Unlock()
	next := maps.Clone(f.cut)
	for _, i := range a {
		for _, j := range b {
			if i < 0 || j < 0 || i >= len(f.worlds) || j >= len(f.worlds) || i == j {
				return fmt.Errorf("%w: a partition between host %d and host %d of %d", ErrBadOptions, i, j, len(f.worlds))
			}
			next[[2]int{min(i, j), max(i, j)}] = true
		}
	}
	if err := f.apply(ctx, next); err != nil {
		return fmt.Errorf("partitioning: %w", err)
	}
	return nil
}

// Heal ends every partition. Connections that were open and have not timed out
// go on.
func (f *Fabric) Heal(ctx context.Context) error {
	f.cutting.Lock()
	defer f.cutting.Unlock()
	if err := f.apply(ctx, map[[2]int]bool{}); err != nil {
		return fmt.Errorf("healing the partitions: %w", err)
	}
	return nil
}

// apply tells every host whose neighbours change. One that is gone needs no rules.
func (f *Fabric) apply(ctx context.Context, next map[[2]int]bool) error {
	f.cut = next
	var wg sync.WaitGroup
	failed := make([]error, len(f.worlds))
	for i, w := range f.worlds {
		wg.Go(func() {
			if err := w.setCut(ctx, cutFrom(next, i)); err != nil && !errors.Is(err, ErrGone) {
				failed[i] = fmt.Errorf("host %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(failed...)
}

// setCut says which hosts this one is cut from.
func (w *World) setCut(ctx context.Context, hosts []int) error {
	w.ruling.Lock()
	defer w.ruling.Unlock()
	w.mu.Lock()
	same := slices.Equal(w.rules.Cut, hosts)
	w.mu.Unlock()
	if same {
		return nil
	}
	return w.change(ctx, func(r *ruleset) {
		given := r.Rules[len(cutRules(r.Cut)):]
		r.Cut, r.Rules = hosts, append(cutRules(hosts), given...)
	})
}

// cutFrom lists the hosts that one is cut from, in order.
func cutFrom(cut map[[2]int]bool, host int) []int {
	var l []int
	for pair := range cut {
		switch host {
		case pair[0]:
			l = append(l, pair[1])
		case pair[1]:
			l = append(l, pair[0])
		}
	}
	slices.Sort(l)
	return l
}

// cutRules say that nothing comes back from hosts that are cut off, whatever the
// dark is like.
func cutRules(cut []int) []Rule {
	var l []Rule
	for _, host := range cut {
		for _, a := range addressesOf(host) {
			l = append(l, Rule{Proto: "tcp", To: a, Mode: ModeDrop}, Rule{Proto: "udp", To: a, Mode: ModeDrop})
		}
	}
	return l
}

// checkSegmentRules refuses rules that name the address of another host, for they
// would not hold there.
func checkSegmentRules(rules []Rule, peers []int) error {
	for _, r := range rules {
		for _, host := range peers {
			for _, a := range addressesOf(host) {
				if r.To == a {
					return fmt.Errorf("%w: the rule %+v is about another host of the segment; partition them instead", ErrBadOptions, r)
				}
			}
		}
	}
	return nil
}
