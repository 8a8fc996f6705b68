package sandbox

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pathway is a vacuum into which capabilities let things, with a relay and a
// resolver as the command makes them.
type pathway struct {
	*World
	relay  *Relay
	record *Record
	port   uint16 // the relay's, inside

	mu    sync.Mutex
	stray []string // what the relay dialled that no server stands for
}

// letIn brings one up. The servers stand for what the relay would dial.
func letIn(t *testing.T, servers map[string]string, capabilities ...string) *pathway {
	t.Helper()
	authority, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p := &pathway{record: NewRecord(nil)}
	names := NewNames()
	o := RelayOptions{Names: names, Record: p.record, Authority: authority, Original: OriginalDestination}
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		to, ok := servers[address]
		if !ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.stray = append(p.stray, network+" "+address)
			return nil, fmt.Errorf("dialling %s: %w", address, unix.EHOSTUNREACH)
		}
		if strings.HasPrefix(to, "/") {
			network = "unix"
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
	for _, c := range capabilities {
		o.Capabilities = append(o.Capabilities, mustCapability(t, c))
	}
	if p.relay, err = NewRelay(o); err != nil {
		t.Fatal(err)
	}
	p.World = up(t, Options{Record: p.record, Files: map[string][]byte{"/etc/vacuum.pem": authority.PEM()}})
	listen := func(network, address string) net.Listener {
		l, err := p.Listen(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	v4 := listen("tcp4", "127.0.0.1:0")
	port := uint16(v4.Addr().(*net.TCPAddr).Port)
	p.port = port
	for _, l := range []net.Listener{v4, listen("tcp6", fmt.Sprintf("[::1]:%d", port))} {
		background(t, func(ctx context.Context) error { return p.relay.ServeTCP(ctx, l) })
	}
	const at = "127.0.0.53:53"
	resolver := NewResolver(ResolverOptions{Capabilities: o.Capabilities, Names: names, Record: p.record, Address: at})
	dns, err := p.ListenPacket(t.Context(), "udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	background(t, func(ctx context.Context) error { return resolver.ServeUDP(ctx, dns) })
	stream := listen("tcp4", at)
	background(t, func(ctx context.Context) error { return resolver.ServeTCP(ctx, stream) })
	for _, c := range o.Capabilities {
		if c.Kind == KindUnix {
			l := listen("unix", c.Path)
			background(t, func(ctx context.Context) error { return p.relay.ServeUnix(ctx, l, c.Path) })
		}
	}
	rules, err := p.relay.Rules(port)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	return p
}

// end closes the vacuum and returns its record, which must be complete.
func (p *pathway) end(t *testing.T) []Attempt {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.record.Complete(); err != nil {
		t.Errorf("Complete() = %v; want nil", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.stray) > 0 {
		t.Errorf("the relay dialled %q; want nothing that is not allowed", p.stray)
	}
	return p.record.Attempts()
}

func run(line string, o *outside) string {
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = append(os.Environ(), o.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		out = fmt.Appendf(out, "(%v)", err)
	}
	return string(out)
}
