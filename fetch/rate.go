package fetch

import (
	"context"
	"sync"
	"time"
)

const bucketDepth = 50 * time.Millisecond // of the rate may come at once after a pause

// bucket gives out bytes at a rate, in the order in which they are asked for.
type bucket struct {
	perSecond int64

	mu   sync.Mutex
	free time.Time // when all that was given out is paid for
}

// take waits until n bytes are there, or ctx ends. A nil bucket has no limit.
func (b *bucket) take(ctx context.Context, n int) error {
	if b == nil {
		return ctx.Err()
	}
	price := time.Duration(float64(n) / float64(b.perSecond) * float64(time.Second))
	now := time.Now()
	b.mu.Lock()
	if oldest := now.Add(-bucketDepth); b.free.Before(oldest) {
		b.free = oldest
	}
	b.free = b.free.Add(price)
	wait := b.free.Sub(now)
	b.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		b.free = b.free.Add(-price) // it was not used
		b.mu.Unlock()
		return ctx.Err()
	}
}
