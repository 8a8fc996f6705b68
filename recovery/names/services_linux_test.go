package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// services are real daemons in a host of their own: namespaces with the packages that .ci/servers unpacks mounted over
// /usr and /etc.
type services struct {
	t       *testing.T
	running map[string]*exec.Cmd
	logs    map[string]*bytes.Buffer
}

// newServices makes the host, on a thread that inNamespace has given a network.
func newServices(t *testing.T) (*services, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	packages := filepath.Join(cache, "blackstart-servers", "resolvers")
	if _, err := os.Stat(packages); err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" {
			return nil, errSkip
		}
		return nil, fmt.Errorf("run .ci/servers first: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	upper := t.TempDir()
	if err := errors.Join(netlink.LinkSetUp(lo), unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", upper, "tmpfs", 0, "")); err != nil {
		return nil, err
	}
	for _, dir := range []string{"usr", "etc"} {
		up, work := filepath.Join(upper, dir), filepath.Join(upper, dir+".work")
		mkdir(t, up)
		mkdir(t, work)
		o := fmt.Sprintf("lowerdir=%s:/%s,upperdir=%s,workdir=%s", filepath.Join(packages, dir), dir, up, work)
		if err := unix.Mount("overlay", "/"+dir, "overlay", 0, o); err != nil {
			return nil, fmt.Errorf("mounting over /%s: %w", dir, err)
		}
	}
	for _, dir := range []string{"/run", "/var/lib"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return nil, err
		}
	}
	// The network's own, and not to be written, which tells NetworkManager that there is no udev.
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY, ""); err != nil {
		return nil, err
	}
	s := &services{t: t, running: map[string]*exec.Cmd{}, logs: map[string]*bytes.Buffer{}}
	for file, line := range map[string]string{"passwd": "systemd-resolve:x:997:997::/:/bin/false\nmessagebus:x:996:996::/:/bin/false\n", "group": "systemd-resolve:x:997:\nmessagebus:x:996:\n"} {
		data, err := os.ReadFile("/etc/" + file)
		if err != nil {
			return nil, err
		}
		write(t, "/etc/"+file, line+string(data))
	}
	write(t, "/etc/nsswitch.conf", "hosts: dns\n")
	mkdir(t, "/run/dbus")
	return s, s.start("dbus-daemon", "dbus-daemon", "--system", "--nofork", "--nopidfile")
}

// start starts a daemon, on this thread.
func (s *services) start(name, program string, args ...string) error {
	c := exec.Command(program, args...)
	if s.logs[name] == nil {
		s.logs[name] = new(bytes.Buffer)
	}
	c.Stdout, c.Stderr = s.logs[name], s.logs[name]
	c.WaitDelay = time.Second
	s.running[name] = c
	return c.Start()
}

// stop ends them all.
func (s *services) stop() {
	for name, c := range s.running {
		c.Process.Kill()
		c.Wait()
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", name, s.logs[name])
		}
	}
}

// until runs a command until it succeeds and prints a text.
func (s *services) until(want, program string, args ...string) {
	s.t.Helper()
	var out []byte
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		var err error
		out, err = exec.CommandContext(ctx, program, args...).CombinedOutput()
		cancel()
		if err == nil && strings.Contains(string(out), want) {
			return
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
	s.t.Errorf("%s %s = %q; want %q", program, strings.Join(args, " "), out, want)
}

// twoServers answer www.example.com: 127.0.0.2 as before the outage, 127.0.0.1 as frozen.
func twoServers(t *testing.T, ctx context.Context, done chan<- error) error {
	for at, address := range map[string]string{"127.0.0.1:53": "192.0.2.80", "127.0.0.2:53": "198.51.100.1"} {
		set := build(t, strings.ReplaceAll(testZone, "192.0.2.80", address))
		srv, err := Listen(ctx, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort(at)}, Workers: 1}, set)
		if err != nil {
			return err
		}
		go func() { done <- srv.Serve(ctx) }()
	}
	return nil
}

// TestTakeoverOfServices takes over from a real systemd-resolved, whose link has a search domain and a dead server, and
// from a real NetworkManager, and releases.
func TestTakeoverOfServices(t *testing.T) {
	for name, test := range map[string]func(*services, Takeover) error{"systemd-resolved": takeResolved, "NetworkManager": takeManager} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "state")
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 2)
			inNamespace(t, func() error {
				s, err := newServices(t)
				if err != nil {
					return err
				}
				defer s.stop()
				if err := errors.Join(twoServers(t, ctx, done), on("lo", "10.0.0.1/32")); err != nil {
					return err
				}
				cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire"}, PeerName: "other"}
				if err := netlink.LinkAdd(cable); err != nil {
					return err
				}
				other, err := netlink.LinkByName("other")
				if err == nil {
					err = errors.Join(netlink.LinkSetUp(cable), netlink.LinkSetUp(other))
				}
				if err != nil {
					return err
				}
				return test(s, Takeover{Root: "/", State: state, Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
			})
			cancel()
			for range cap(done) {
				if err := <-done; err != nil {
					t.Errorf("Serve() = %v; want nil", err)
				}
			}
		})
	}
}

const before, frozen = "198.51.100.1", "192.0.2.80"

func takeResolved(s *services, h Takeover) error {
	mkdir(s.t, "/run/systemd/resolve")
	mkdir(s.t, "/etc/systemd/resolved.conf.d")
	write(s.t, "/etc/systemd/resolved.conf.d/site.conf", "[Resolve]\nDNS=127.0.0.2\nLLMNR=no\nMulticastDNS=no\n")
	os.Remove("/etc/resolv.conf")
	link(s.t, "../run/systemd/resolve/stub-resolv.conf", "/etc/resolv.conf")
	resolved := func() error { return s.start("systemd-resolved", "/usr/lib/systemd/systemd-resolved") }
	if err := errors.Join(os.Chown("/run/systemd/resolve", 997, 997), on("wire", "10.7.0.2/24"), resolved()); err != nil {
		return err
	}
	ask := func(want string) {
		s.t.Helper()
		s.until(want, "getent", "ahostsv4", "www.example.com")
		s.until(want, "resolvectl", "query", "-4", "--cache=no", "www.example.com") // what libnss-resolve does
		s.until(want, "dig", "+short", "@127.0.0.53", "www.example.com")
	}
	ask(before)
	// As a DHCP client tells it; the server there is silent.
	s.until("", "resolvectl", "dns", "wire", "10.7.0.9")
	s.until("", "resolvectl", "domain", "wire", "example.com")
	s.until("search example.com", "cat", "/run/systemd/resolve/stub-resolv.conf")
	h.Reload = func(ctx context.Context, service string) error {
		if err := SignalService(ctx, service); err != nil {
			return err
		}
		// What systemd does: the unit says Restart=always.
		if err := s.running[service].Wait(); err != nil {
			return err
		}
		return resolved()
	}
	if _, err := h.Take(s.t.Context(), seenAt); err != nil {
		return err
	}
	ask(frozen)
	s.until("192.0.2.80", "getent", "ahostsv4", "www") // by the search domain
	if err := h.Release(s.t.Context()); err != nil {
		return err
	}
	if target, err := os.Readlink("/etc/resolv.conf"); target != "../run/systemd/resolve/stub-resolv.conf" {
		s.t.Errorf("/etc/resolv.conf leads to %q, %v; want the stub's file", target, err)
	}
	s.until("", "resolvectl", "revert", "wire")
	ask(before)
	return nil
}

func takeManager(s *services, h Takeover) error {
	mkdir(s.t, "/etc/NetworkManager/system-connections")
	write(s.t, "/etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\nauth-polkit=false\nno-auto-default=*\n")
	profile := write(s.t, "/etc/NetworkManager/system-connections/wire.nmconnection", "[connection]\nid=wire\nuuid=b4ad3b6a-4b3e-4c8e-9d5e-9c1c2a6f7f10\ntype=ethernet\ninterface-name=wire\n"+
		"[ipv4]\nmethod=manual\naddress1=10.7.0.2/24\ndns=127.0.0.2;\ndns-search=example.com;\n[ipv6]\nmethod=disabled\n")
	write(s.t, "/etc/resolv.conf", "nameserver 192.0.2.1\n")
	// The other package's resolvconf, which is for resolved.
	if err := errors.Join(os.Remove("/usr/sbin/resolvconf"), os.Chmod(profile, 0o600), s.start("NetworkManager", "/usr/sbin/NetworkManager", "--debug", "--log-level=INFO")); err != nil {
		return err
	}
	s.until("nameserver 127.0.0.2", "cat", "/etc/resolv.conf")
	s.until(before, "getent", "ahostsv4", "www")
	theirs, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	h.Reload = SignalService
	if _, err := h.Take(s.t.Context(), seenAt); err != nil {
		return err
	}
	s.until(frozen, "getent", "ahostsv4", "www")
	// It would write its own again whenever a connection changes.
	s.until("successfully activated", "nmcli", "connection", "up", "wire")
	s.until(frozen, "getent", "ahostsv4", "www")
	if data, err := os.ReadFile("/etc/resolv.conf"); err != nil || !strings.HasPrefix(string(data), takeoverMark) {
		s.t.Errorf("after a connection came up, resolv.conf = %q, %v; want ours", data, err)
	}
	if err := h.Release(s.t.Context()); err != nil {
		return err
	}
	s.until(string(theirs), "cat", "/etc/resolv.conf")
	s.until(before, "getent", "ahostsv4", "www")
	// It is in charge again.
	s.until("", "nmcli", "connection", "modify", "wire", "ipv4.dns", "127.0.0.3")
	s.until("successfully activated", "nmcli", "connection", "up", "wire")
	s.until("nameserver 127.0.0.3", "cat", "/etc/resolv.conf")
	return nil
}
