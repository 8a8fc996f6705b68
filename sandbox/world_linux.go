package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"
)

// ErrGone says that the vacuum has ended, or ended meanwhile.
var ErrGone = errors.New("the vacuum is gone")

// World is a running vacuum. Its methods may be called from any goroutine.
type World struct {
	control  control
	first    *exec.Cmd
	wait     func() // for the end of first, after it was killed
	cgroup   *cgroup
	home     *unifiedCgroup // nil where there is none
	fabric   *Fabric        // nil: it is alone
	options  Options
	rules    ruleset
	warnings []string
	ruling   sync.Mutex // held while the rules are changed

	mu      sync.Mutex
	nextID  int
	pending map[int]chan answer
	early   map[Place]*os.File // of Options.Listen, until somebody takes it
	procs   map[int]*Process
	closed  bool

	down     chan struct{} // closed when the control socket has ended
	stop     context.CancelFunc
	watchers sync.WaitGroup
}

const (
	startTimeout = 30 * time.Second // for building a vacuum and for one request to it
	closeTimeout = 10 * time.Second
)

// Up makes a vacuum: its own user, network, mount, process, IPC, host name and
// cgroup namespaces, a root with a throw-away layer, and a network where every
// address is local and dark. ctx bounds the making; [World.Close] ends the
// vacuum, and so does the end of this process, however it comes.
//
// The program's main function must call [Init] first. As root every user id is
// the host's; else the user is the vacuum's root and there is no other id.
//
// Errors wrap ErrBadOptions or ErrUnresolved. Nothing is left after an error.
func Up(ctx context.Context, o Options) (*World, error) { return upIn(ctx, o, nil) }

// upIn is Up on a segment, or on none.
func upIn(ctx context.Context, o Options, f *Fabric) (_ *World, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	w := &World{options: o, fabric: f, pending: map[int]chan answer{}, early: map[Place]*os.File{}, procs: map[int]*Process{}, down: make(chan struct{})}
	name, err := cgroupName()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		// Without it there are no containers inside; everything else is the same.
		w.home, _ = newUnifiedCgroup(name)
	}
	if f != nil {
		err = f.launch(ctx, w)
	} else {
		err = w.launch()
		w.wait = func() { _ = w.first.Wait() }
	}
	if err != nil {
		return nil, errors.Join(err, w.leaveHome())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if o.Memory > 0 || o.CPUs > 0 {
		if w.cgroup, err = newCgroup(name, o.Memory, o.CPUs, w.first.Process.Pid); err != nil {
			return nil, fmt.Errorf("%w: limiting memory and processors: %w", ErrUnresolved, err)
		}
	}
	s := w.setup()
	a, err := w.ask(ctx, message{Setup: &s})
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("building the vacuum: %w", err)
		}
		return nil, fmt.Errorf("%w: %w%s", ErrUnresolved, err, userNamespaceHint())
	}
	w.warnings = a.Warnings
	n := 0 // descriptors to record from
	if o.Record != nil {
		n = 2 + len(w.rules.Peers)
	}
	if len(a.fds) != n+len(o.Listen) {
		closeAll(a.fds)
		return nil, fmt.Errorf("%w: %d descriptors came back; want %d", ErrUnresolved, len(a.fds), n+len(o.Listen))
	}
	for i, e := range o.Listen {
		w.early[e] = os.NewFile(uintptr(a.fds[n+i]), e.Network+" "+e.Address)
	}
	if o.Record != nil {
		w.watch(a.fds[0], a.fds[n-1])
		w.watchPeers(a.fds[1 : n-1])
	}
	return w, nil
}

// PID is the vacuum's first process as the host sees it: its namespaces are
// below /proc/PID/ns as long as the vacuum lives.
func (w *World) PID() int { return w.first.Process.Pid }

// Addresses are those of its eth0, IPv4 and IPv6.
func (w *World) Addresses() (v4, v6 netip.Prefix) { return ownAddresses(w.options.Host) }

// Warnings say what differs from what one would expect, for people.
func (w *World) Warnings() []string { return w.warnings }

// Gone is closed when the vacuum has ended.
func (w *World) Gone() <-chan struct{} { return w.down }

// SetRules replaces all rules in one step. Connections that are established
// stay so: whoever carries them ends them.
func (w *World) SetRules(ctx context.Context, rules []Rule) error {
	if err := checkRules(rules); err != nil {
		return err
	}
	if w.fabric != nil {
		if err := checkSegmentRules(rules, w.fabric.others(w.options.Host)); err != nil {
			return err
		}
	}
	w.ruling.Lock()
	defer w.ruling.Unlock()
	return w.change(ctx, func(r *ruleset) { r.Rules = append(cutRules(r.Cut), rules...) })
}

// change alters the rules inside and what is known of them here.
func (w *World) change(ctx context.Context, alter func(*ruleset)) error {
	w.mu.Lock()
	next := w.rules
	w.mu.Unlock()
	alter(&next)
	if _, err := w.ask(ctx, message{Rules: &next}); err != nil {
		return fmt.Errorf("changing the rules: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = next
	return nil
}

// Listen opens a listener inside the vacuum that is served from outside. The
// networks are those of net.Listen: tcp, tcp4, tcp6, unix (a path,
// whose directory is made if need be, in place of a socket that is there; or an
// abstract name).
func (w *World) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	f, err := w.listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listening on %s inside: %w", address, err)
	}
	return l, nil
}

// ConntrackPlace is what [World.Conntrack] opens.
const ConntrackPlace = "conntrack"

// Conntrack opens the vacuum's connection tracking, which knows what the
// datagrams that a rule redirected were meant for.
func (w *World) Conntrack(ctx context.Context) (*Conntrack, error) {
	f, err := w.listen(ctx, ConntrackPlace, "")
	if err != nil {
		return nil, err
	}
	return &Conntrack{f: f}, nil
}

// ListenPacket is Listen for udp, udp4, udp6 and unixgram.
func (w *World) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	f, err := w.listen(ctx, network, address)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, fmt.Errorf("listening on %s inside: %w", address, err)
	}
	return c, nil
}

func (w *World) listen(ctx context.Context, network, address string) (*os.File, error) {
	e := Place{network, address}
	w.mu.Lock()
	f := w.early[e]
	delete(w.early, e)
	w.mu.Unlock()
	if f != nil {
		return f, nil
	}
	a, err := w.ask(ctx, message{Listen: &e})
	if err == nil && len(a.fds) != 1 {
		closeAll(a.fds)
		err = errors.New("no descriptor")
	}
	if err != nil {
		return nil, fmt.Errorf("listening on %s inside: %w", address, err)
	}
	return os.NewFile(uintptr(a.fds[0]), network+" "+address), nil
}

// Close ends every program inside and the vacuum, waits until they are gone, and
// reads the record's sources to their end. A second Close does nothing.
func (w *World) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	// The kernel ends a process namespace with its first process, and lets that
	// one go only when all others are gone.
	_ = w.first.Process.Kill()
	ended := make(chan struct{})
	go func() { w.wait(); close(ended) }()
	var errs []error
	select {
	case <-ended:
	case <-time.After(closeTimeout):
		errs = append(errs, fmt.Errorf("ending the vacuum: process %d is still there after %v", w.PID(), closeTimeout))
	}
	_ = w.control.conn.Close()
	<-w.down
	w.mu.Lock()
	for _, f := range w.early {
		_ = f.Close()
	}
	w.early = nil
	w.mu.Unlock()
	if w.stop != nil {
		w.stop()
		w.watchers.Wait()
	}
	if w.cgroup != nil {
		if err := w.cgroup.remove(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, w.leaveHome())...)
}

func (w *World) leaveHome() error {
	if w.home == nil {
		return nil
	}
	_, err := w.home.remove()
	return err
}
