package names

import (
	"sync/atomic"

	"github.com/miekg/dns"
)

// What is counted besides answers.
const (
	countDropped  = iota // not answered: over the rate, or not a query
	countSlipped         // answered with TC only: over the rate
	countUnsent          // the answer could not be sent
	countForward         // handed on to ask upstream
	countOverload        // too many waited for upstream
	countOthers
)

// rcodes that are counted apart; the last is for all others.
const rcodes = 7

// counts are counters that mostly one goroutine writes.
type counts struct {
	_       [64]byte // apart from the neighbours' cache lines
	answers [sources][rcodes]atomic.Uint64
	others  [countOthers]atomic.Uint64
	samples atomic.Uint64
	_       [64]byte
}

func (c *counts) add(what int, n uint64) { c.others[what].Add(n) }

// query counts what was made of a query.
func (c *counts) query(v *verdict) {
	switch {
	case v.forward:
		c.others[countForward].Add(1)
	case v.n == 0:
		c.others[countDropped].Add(1)
	default:
		c.answers[v.from][min(v.rcode, rcodes-1)].Add(1)
	}
}

// sampled says whether this answer is one to show.
func (c *counts) sampled(every uint64) bool { return c.samples.Add(1)%every == 0 }

func rcodeLabel(i int) string {
	if i == rcodes-1 {
		return "other"
	}
	return dns.RcodeToString[i]
}
