package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	breakAfter = 3 // failures in a row, after which an upstream is left alone
	breakFirst = time.Second
	breakMost  = 15 * time.Second
)

// upstreams are the servers that are asked, in the order they were given.
type upstreams struct {
	list    []*upstream
	timeout time.Duration
}

// An upstream is one of them with its circuit breaker.
type upstream struct {
	addr netip.AddrPort

	mu       sync.Mutex
	failures int
	pause    time.Duration
	until    time.Time // left alone until then; zero for closed
	probing  bool

	answers, failed, denials, spoofed atomic.Uint64
}

func newUpstreams(addrs []netip.AddrPort, timeout time.Duration) *upstreams {
	u := &upstreams{timeout: timeout}
	for _, a := range addrs {
		u.list = append(u.list, &upstream{addr: a})
	}
	return u
}

// Errors of asking upstream, as the client is told.
var (
	errTimeout = errors.New("upstream did not answer in time")
	errDenied  = errors.New("upstream denies it")
	errLeft    = errors.New("upstream has failed lately")
)

// reason is the text for the client, without addresses of this network.
func reason(err error) string {
	for _, known := range [...]error{errOverload, errDenied, errLeft, errTimeout} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	var r rcodeError
	if errors.As(err, &r) {
		return r.Error()
	}
	return "upstream cannot be reached"
}

// rcodeError is an answer that is none.
type rcodeError int

func (r rcodeError) Error() string { return "upstream answers " + dns.RcodeToString[int(r)] }

// take says whether the upstream may be asked now. An open breaker lets one query through when its pause is over.
func (u *upstream) take(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until.IsZero() {
		return true
	}
	if u.probing || now.Before(u.until) {
		return false
	}
	u.probing = true
	return true
}

// result tells the breaker how it went. Answers of any kind count for the upstream: it is there.
func (u *upstream) result(ok bool, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ok {
		u.failures, u.pause, u.until, u.probing = 0, 0, time.Time{}, false
		return
	}
	if u.failures++; u.failures < breakAfter {
		return
	}
	if u.until.IsZero() || u.probing {
		u.pause = min(max(2*u.pause, breakFirst), breakMost)
		u.until, u.probing = now.Add(u.pause), false
	}
}

// release ends a probe that neither failed nor succeeded.
func (u *upstream) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.probing = false
}

// open says whether the breaker is open.
func (u *upstream) open() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.until.IsZero()
}

// ask returns the first answer that is one and that is credible. The next upstream is asked when one fails, and also
// when it is silent for half of the timeout. The limit bounds the whole.
func (u *upstreams) ask(ctx context.Context, q *query, limit time.Duration, credible func(*dns.Msg) bool) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		m   *dns.Msg
		err error
	}
	results := make(chan result, len(u.list))
	var asking sync.WaitGroup
	defer func() { cancel(); asking.Wait() }()
	next, running := 0, 0
	start := func() {
		for next < len(u.list) {
			one := u.list[next]
			next++
			if !one.take(time.Now()) {
				continue
			}
			running++
			asking.Go(func() {
				m, err := one.ask(ctx, q, u.timeout)
				results <- result{m, err}
			})
			return
		}
	}
	err := errLeft
	start()
	hedge := time.NewTimer(u.timeout / 2)
	defer hedge.Stop()
	for running > 0 {
		select {
		case r := <-results:
			running--
			if r.err == nil && credible(r.m) {
				return r.m, nil
			}
			if r.err == nil {
				r.err = errDenied
			}
			if !errors.Is(err, errDenied) {
				err = r.err
			}
			start()
		case <-hedge.C:
			start()
			hedge.Reset(u.timeout / 2)
		}
	}
	return nil, err
}

// ask asks one upstream and tells its breaker.
func (u *upstream) ask(ctx context.Context, q *query, timeout time.Duration) (*dns.Msg, error) {
	begin := time.Now()
	m, err := u.exchange(ctx, q)
	var answered rcodeError
	switch {
	case err == nil, errors.As(err, &answered):
		u.result(true, time.Now())
	case ctx.Err() != nil && time.Since(begin) < timeout*3/4:
		u.release() // somebody else answered first, which says nothing about this one
		return nil, errTimeout
	default:
		u.result(false, time.Now())
	}
	if err != nil {
		u.failed.Add(1)
		if ctx.Err() != nil || isTimeout(err) {
			return nil, errTimeout
		}
		return nil, fmt.Errorf("asking %v: %w", u.addr, err)
	}
	u.answers.Add(1)
	if m.Rcode == dns.RcodeNameError {
		u.denials.Add(1)
	}
	return m, nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
