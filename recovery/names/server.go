package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// A Server answers queries. Listen makes it, Serve runs it.
type Server struct {
	o       Options
	set     atomic.Pointer[Set]
	sockets []*socket
	tcp     []*net.TCPListener
	up      *upstreams
	pending chan struct{} // one for each query that waits for upstream
	waiting sync.WaitGroup
	counts  counts // of TCP and of what upstream answered; each socket has its own
	missing missing
	conns   conns
}

// maxPending bounds the queries that wait for upstream; beyond it the data answers at once.
const maxPending = 4096

// Listen opens the sockets of a Server that answers from a Set. Serve or Close it.
//
// Errors: ErrLoop, ErrNoNames, those of the options and of the sockets.
func Listen(ctx context.Context, o Options, set *Set) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("starting the name server: %w", err)
	}
	if set == nil && o.Mode != Pin {
		return nil, fmt.Errorf("starting the name server: %w", ErrNoNames)
	}
	s := &Server{o: o, pending: make(chan struct{}, maxPending)}
	s.set.Store(set)
	s.conns.init(o.Conns)
	for _, at := range o.Listen {
		if err := s.listen(ctx, at); err != nil {
			return nil, errors.Join(fmt.Errorf("listening on %v: %w", at, err), s.Close())
		}
	}
	if err := loops(o.Upstreams, s.Addrs()); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the name server: %w", err), s.Close())
	}
	s.up = newUpstreams(o.Upstreams, o.Timeout)
	return s, nil
}

// listen opens the sockets of an address. UDP and TCP have to have the same port, so a free one may take some tries.
func (s *Server) listen(ctx context.Context, at netip.AddrPort) error {
	for try := 0; ; try++ {
		err := s.listenOnce(ctx, at)
		if err == nil || at.Port() != 0 || try == 10 {
			return err
		}
	}
}

func (s *Server) listenOnce(ctx context.Context, at netip.AddrPort) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("a listener of type %T", l), l.Close())
	}
	at = netip.AddrPortFrom(at.Addr(), t.Addr().(*net.TCPAddr).AddrPort().Port())
	before := len(s.sockets)
	for i := range s.o.Workers {
		u, err := s.newSocket(ctx, at, i > 0)
		if err != nil {
			err = errors.Join(err, t.Close())
			for _, u := range s.sockets[before:] {
				err = errors.Join(err, u.conn.Close())
			}
			s.sockets = s.sockets[:before]
			return err
		}
		s.sockets = append(s.sockets, u)
		if !reusePort {
			break
		}
	}
	s.tcp = append(s.tcp, t)
	return nil
}

// Addrs are the addresses it listens on.
func (s *Server) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(s.tcp))
	for _, l := range s.tcp {
		addrs = append(addrs, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return addrs
}

// Set is the data it answers from.
func (s *Server) Set() *Set { return s.set.Load() }

// Swap answers from another Set from now on. No query is lost: one that is being answered is answered from either.
func (s *Server) Swap(set *Set) { s.set.Store(set) }

// Serve answers until the context ends or a socket fails; what waits for upstream then is answered from the data.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, u := range s.sockets {
		running.Go(func() {
			if err := u.serve(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving UDP on %v: %w", u.at, err))
			}
		})
	}
	for _, l := range s.tcp {
		running.Go(func() {
			if err := s.serveTCP(ctx, l); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving TCP on %v: %w", l.Addr(), err))
			}
		})
	}
	<-ctx.Done()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	for _, u := range s.sockets {
		err = errors.Join(err, u.conn.SetReadDeadline(time.Unix(1, 0)))
	}
	for _, l := range s.tcp {
		err = errors.Join(err, l.Close())
	}
	s.conns.hush()
	running.Wait()
	s.waiting.Wait()
	return errors.Join(err, s.Close())
}

// Close closes the sockets of a Server that does not serve.
func (s *Server) Close() error {
	var errs []error
	for _, u := range s.sockets {
		errs = append(errs, u.conn.Close())
	}
	for _, l := range s.tcp {
		errs = append(errs, l.Close())
	}
	s.conns.closeAll()
	errs = slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, net.ErrClosed) })
	return errors.Join(errs...)
}

// A source is where an answer comes from.
type source uint8

const (
	fromData source = iota
	fromOverride
	fromUpstream
	fromFrozen  // the data, because upstream failed or denied what the data knows
	fromNothing // neither the data nor upstream knew
	fromError   // the query was not fit to be answered
	sources
)

func (f source) String() string {
	return [...]string{"data", "override", "upstream", "frozen", "nothing", "error"}[f]
}

// verdict is what was made of a query.
type verdict struct {
	n       int // length of the answer; 0 for none
	rcode   int
	from    source
	forward bool // upstream has to be asked first
}

// handle answers a query into buf, without an allocation.
func (s *Server) handle(set *Set, q *query, w *reply, msg, buf []byte, client netip.Addr, tcp bool) verdict {
	rcode := q.parse(msg, tcp)
	if rcode == ignore {
		return verdict{from: fromError}
	}
	if rcode == dns.RcodeSuccess {
		rcode = policy(q)
	}
	if rcode != dns.RcodeSuccess {
		w.begin(q, buf, 0)
		w.aa = false
		return verdict{n: w.finish(q, rcode, false, extendedError{}), rcode: rcode, from: fromError}
	}
	out, from := s.local(set, q, w, buf, 0)
	if len(s.o.Upstreams) > 0 && s.allowed(client) && q.flags&bitRD != 0 && q.hops < maxHops && from != fromOverride &&
		(s.o.Mode == LastKnownGood || out == unknown || out == referral) {
		return verdict{forward: true}
	}
	return s.conclude(q, w, out, from, client)
}

// conclude finishes an answer from the data. To clients who use this server as their resolver, what it does not know
// is a failure: the resolver of glibc goes on with the next search domain then, which it does not when refused.
func (s *Server) conclude(q *query, w *reply, out outcome, from source, client netip.Addr) verdict {
	rcode, ede, allowed := out.rcode(), extendedError{}, s.allowed(client)
	if out == unknown {
		rcode, from, w.aa = dns.RcodeRefused, fromNothing, false
		if allowed && q.flags&bitRD != 0 {
			rcode = dns.RcodeServerFailure
		}
		ede = extendedError{dns.ExtendedErrorCodeNotAuthoritative, "", true}
		s.missing.add(q)
	}
	if from == fromOverride {
		ede = extendedError{dns.ExtendedErrorCodeForgedAnswer, "override", true}
	}
	return verdict{n: w.finish(q, rcode, allowed && len(s.o.Upstreams) > 0, ede), rcode: rcode, from: from}
}

// policy is what is refused whatever the data says.
func policy(q *query) int {
	switch {
	case q.class != dns.ClassINET:
		return dns.RcodeRefused // CHAOS would tell about the server, not about names
	case q.typ == dns.TypeAXFR || q.typ == dns.TypeIXFR:
		return dns.RcodeRefused
	case q.typ == dns.TypeOPT || q.typ == 0:
		return dns.RcodeFormatError
	case q.typ >= 128 && q.typ < dns.TypeANY:
		return dns.RcodeNotImplemented
	}
	return dns.RcodeSuccess
}

// local writes what overrides or data say to a question.
func (s *Server) local(set *Set, q *query, w *reply, buf []byte, reserve int) (outcome, source) {
	w.begin(q, buf, reserve)
	if s.o.Overrides != nil {
		if out := s.o.Overrides.resolve(q, w); out != unknown {
			return out, fromOverride
		}
		w.begin(q, buf, reserve)
	}
	return set.resolve(q, w), fromData
}

// allowed says whether a client may use this server as its resolver.
func (s *Server) allowed(client netip.Addr) bool {
	for _, p := range s.o.Allow {
		if p.Contains(client) {
			return true
		}
	}
	return false
}
