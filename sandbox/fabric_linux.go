package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxHosts is how many hosts a fabric may have: each hands over a descriptor for
// each other one when it starts, in one message.
const maxHosts = 12

// Fabric is several vacuums, the hosts, on one private segment. Programs of one
// reach listeners of another by the addresses of its eth0 and by the names host0,
// host1 and so on, which are in every /etc/hosts; everything else is as dark as
// in one vacuum alone. Its methods may be called from any goroutine.
//
// The segment is a bridge in a network namespace that belongs to a process of
// its own; the hosts hang on it by a veth pair each. Neither has an end in the
// host's own network. Hosts know each other's hardware addresses: nothing is
// asked for, and nobody else is found there. The hosts' Rules are about what lies
// beyond: they do not reach what the hosts send each other.
//
// An attempt to reach another host is in the record of the host it came from:
// Inside if something listened there, Blocked if nothing did or the two are
// partitioned.
type Fabric struct {
	worlds  []*World
	records []*Record
	holder  *exec.Cmd

	ending  sync.Once
	joining sync.Mutex // one request to the holder at a time
	control control

	cutting sync.Mutex
	cut     map[[2]int]bool // pairs of hosts, the lower first, as they should be
}

// UpFabric makes one vacuum per host, with the options' Host set to its index
// and a Hostname of host0, host1 and so on where it is empty. Either all have a
// Record, perhaps the same, or none has. ctx bounds the making; the end of this
// process ends all of it.
//
// Errors are those of [Up]. Nothing is left after an error.
func UpFabric(ctx context.Context, hosts []Options) (_ *Fabric, err error) {
	if len(hosts) < 1 || len(hosts) > maxHosts {
		return nil, fmt.Errorf("%w: %d hosts; want 1 to %d", ErrBadOptions, len(hosts), maxHosts)
	}
	f := &Fabric{worlds: make([]*World, len(hosts)), cut: map[[2]int]bool{}}
	for i, o := range hosts {
		if (o.Record == nil) != (hosts[0].Record == nil) {
			return nil, fmt.Errorf("%w: a record of some hosts and not of others", ErrBadOptions)
		}
		if err := checkSegmentRules(o.Rules, f.others(i)); err != nil {
			return nil, err
		}
		f.records = append(f.records, o.Record)
	}
	if err := f.hold(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	var wg sync.WaitGroup
	failed := make([]error, len(hosts))
	for i, o := range hosts {
		o.Host = i
		if o.Hostname == "" {
			o.Hostname = hostName(i)
		}
		wg.Go(func() {
			w, err := upIn(ctx, o, f)
			if err != nil {
				failed[i] = fmt.Errorf("host %d: %w", i, err)
				return
			}
			f.worlds[i] = w
		})
	}
	wg.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	return f, nil
}

// Hosts returns the vacuums, by the number of their host.
func (f *Fabric) Hosts() []*World { return slices.Clone(f.worlds) }

// Close ends every host and the segment, and waits until they are gone. A second
// Close does nothing.
func (f *Fabric) Close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(f.worlds))
	for i, w := range f.worlds {
		if w != nil {
			wg.Go(func() { errs[i] = w.Close() })
		}
	}
	wg.Wait()
	f.ending.Do(func() { errs = append(errs, f.release()) })
	return errors.Join(errs...)
}

// release ends the holder.
func (f *Fabric) release() error {
	_ = f.control.conn.Close() // it serves until then
	late := time.AfterFunc(closeTimeout, func() { _ = f.holder.Process.Kill() })
	_ = f.holder.Wait()
	if !late.Stop() {
		return fmt.Errorf("ending the segment: process %d was still there after %v", f.holder.Process.Pid, closeTimeout)
	}
	return nil
}

// others are the numbers of all hosts but one.
func (f *Fabric) others(host int) []int {
	var l []int
	for i := range f.worlds {
		if i != host {
			l = append(l, i)
		}
	}
	return l
}

// launch has the holder start a vacuum's first process and connect it to the
// segment.
func (f *Fabric) launch(ctx context.Context, w *World) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	defer unix.Close(pair[1])
	if w.control, err = newControl(os.NewFile(uintptr(pair[0]), "control")); err != nil {
		return err
	}
	fds := []int{pair[1]}
	if w.home != nil {
		fds = append(fds, int(w.home.dir.Fd()))
	}
	pid, pidfd, err := f.join(ctx, w.options.Host, fds)
	if err != nil {
		_ = w.control.conn.Close()
		return fmt.Errorf("%w: %w%s", ErrUnresolved, err, userNamespaceHint())
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		_ = unix.Close(pidfd)
		_ = w.control.conn.Close() // which ends it
		return fmt.Errorf("looking for the first process: %w", err)
	}
	w.first = &exec.Cmd{Process: p}
	w.wait = sync.OnceFunc(func() { // it is the holder's child, not ours
		_ = awaitEnd(pidfd, closeTimeout)
		_ = unix.Close(pidfd)
		_ = p.Release()
	})
	go w.receive()
	return nil
}

func (f *Fabric) join(ctx context.Context, host int, fds []int) (pid, pidfd int, err error) {
	f.joining.Lock()
	defer f.joining.Unlock()
	deadline, _ := ctx.Deadline()
	if err := f.control.conn.SetDeadline(deadline); err != nil {
		return 0, -1, fmt.Errorf("asking for a host: %w", err)
	}
	if err := f.control.send(message{Join: &join{Host: host}}, fds...); err != nil {
		return 0, -1, fmt.Errorf("asking for a host: %w", err)
	}
	a, got, err := f.control.receive()
	if err == nil && a.Error != "" {
		err = &insideError{a.Error, unix.Errno(a.Errno)}
	}
	if err == nil && len(got) != 1 {
		err = fmt.Errorf("%d descriptors of a process", len(got))
	}
	if err != nil {
		closeAll(got)
		return 0, -1, fmt.Errorf("joining the segment: %w", err)
	}
	return a.PID, got[0], nil
}

// awaitEnd waits until a process of anyone's has ended.
func awaitEnd(pidfd int, limit time.Duration) error {
	p := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(limit); ; {
		left := time.Until(deadline)
		n, err := unix.Poll(p, int(max(left, 0).Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n > 0:
			return nil
		case left <= 0:
			return os.ErrDeadlineExceeded
		}
	}
}
