package names

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// lookupEnv makes this test binary look a name up with Go's resolver, as the host is set up.
const lookupEnv = "NAMES_TEST_LOOKUP"

func lookup(name string) {
	addrs, err := (&net.Resolver{PreferGo: true}).LookupHost(context.Background(), name)
	fmt.Println(strings.Join(addrs, " "), err)
}

const muslClient = `#include <netdb.h>
#include <arpa/inet.h>
#include <stdio.h>
int main(int argc, char **argv) {
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_family = AF_INET}, *list = 0;
	char text[64];
	int err = getaddrinfo(argv[1], 0, &hints, &list);
	if (err) { puts(gai_strerror(err)); return 2; }
	for (; list; list = list->ai_next)
		puts(inet_ntop(AF_INET, &((struct sockaddr_in *)list->ai_addr)->sin_addr, text, sizeof text));
	return 0;
}
`

// javaClient looks each name up twice: as Java programs do, and with the DNS client that is written in Java.
const javaClient = `import java.net.InetAddress;
import java.util.Hashtable;
import javax.naming.directory.InitialDirContext;
class Client {
	public static void main(String[] names) throws Exception {
		Hashtable<String, String> env = new Hashtable<>();
		env.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
		env.put("java.naming.provider.url", "dns://127.0.0.1");
		for (String name : names) {
			try {
				System.out.println(name + " is " + InetAddress.getByName(name).getHostAddress());
			} catch (java.net.UnknownHostException e) {
				System.out.println(name + " is unknown");
			}
			try {
				System.out.println(name + " has " + new InitialDirContext(env).getAttributes(name, new String[] {"A"}).get("A"));
			} catch (javax.naming.NameNotFoundException e) {
				System.out.println(name + " has nothing");
			}
		}
	}
}
`

const (
	javaNames = "www.example.com deep.example.com large.example.com nowhere.example.com"
	// javaWant leaves out the last 99 addresses of large.example.com, which come over TCP.
	javaWant = `www.example.com is 192.0.2.80
www.example.com has A: 192.0.2.80
deep.example.com is 192.0.2.80
deep.example.com has A: 192.0.2.80
large.example.com is 10.1.0.0
large.example.com has A: 10.1.0.0
nowhere.example.com is unknown
nowhere.example.com has nothing
`
)

// TestResolvers has the resolvers of glibc, musl, Go and Java use a server as this host's, after a takeover.
func TestResolvers(t *testing.T) {
	musl := filepath.Join(t.TempDir(), "client")
	tool(t, "musl-gcc", "-static", "-o", musl, write(t, musl+".c", muslClient))
	classes := t.TempDir()
	tool(t, "javac", "-d", classes, write(t, filepath.Join(classes, "Client.java"), javaClient))
	dir := t.TempDir()
	mkdir(t, dir+"/etc")
	conf := write(t, dir+"/etc/resolv.conf", "nameserver 192.0.2.1\nsearch nothing.example example.com\noptions timeout:2 attempts:1\n")
	switchConf := write(t, filepath.Join(dir, "nsswitch.conf"), "hosts: dns\n")
	h := Takeover{Root: dir, State: filepath.Join(t.TempDir(), "state"), Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	if _, err := h.Take(t.Context(), seenAt); err != nil {
		t.Fatal(err)
	}
	set := build(t, largeZone())
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	inNamespace(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetUp(lo), unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(conf, "/etc/resolv.conf", "", unix.MS_BIND, ""), unix.Mount(switchConf, "/etc/nsswitch.conf", "", unix.MS_BIND, "")); err != nil {
			return err
		}
		// getent asks for addresses of the families that the host has besides loopback.
		if err := errors.Join(on("lo", "10.0.0.1/32"), on("lo", "fd00::1/128")); err != nil {
			return err
		}
		s, err := Listen(ctx, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}}, set)
		if err != nil {
			return err
		}
		go func() { served <- s.Serve(ctx) }()
		for _, c := range []struct {
			name, want string
			command    []string
		}{
			{"www.example.com", "192.0.2.80", []string{"getent", "ahostsv4"}},
			{"www", "192.0.2.80", []string{"getent", "ahostsv4"}}, // by the second search domain
			{"deep.example.com", "192.0.2.80", []string{"getent", "ahostsv4"}},
			{"www.example.com", "2001:db8::80", []string{"getent", "ahostsv6"}},
			{"192.0.2.80", "www.example.com", []string{"getent", "hosts"}},
			{"nowhere.example.com", "", []string{"getent", "ahostsv4"}},
			{"www.example.com", "192.0.2.80", []string{musl}},
			{"deep.example.com", "192.0.2.80", []string{musl}},
			{"nowhere.example.com", "", []string{musl}},
			{"www.example.com", "192.0.2.80", []string{"go"}},
			{"www", "192.0.2.80", []string{"go"}},
			{"nowhere.example.com", "no such host", []string{"go"}},
		} {
			begin := time.Now()
			args := append(c.command[1:len(c.command):len(c.command)], c.name)
			cmd := exec.Command(c.command[0], args...)
			if c.command[0] == "go" {
				cmd = exec.Command("/proc/self/exe")
				cmd.Env = append(os.Environ(), lookupEnv+"="+c.name)
			}
			var out bytes.Buffer
			cmd.Stdout = &out
			_ = cmd.Run()
			if !strings.Contains(out.String(), c.want) || c.want == "" && strings.Contains(out.String(), ".") {
				t.Errorf("%s %s = %q; want %q", c.command[0], c.name, out.String(), c.want)
			}
			if took := time.Since(begin); took > 1900*time.Millisecond { // the resolvers wait 2 s
				t.Errorf("%s %s took %v; want no timeouts", c.command[0], c.name, took)
			}
		}
		java := exec.Command("java", append([]string{"-XX:TieredStopAtLevel=1", "-cp", classes, "Client"}, strings.Fields(javaNames)...)...)
		out, err := java.CombinedOutput()
		var others strings.Builder
		for i := range 99 {
			fmt.Fprintf(&others, ", 10.1.0.%d", i+1)
		}
		if before, after, found := strings.Cut(string(out), others.String()); err != nil || !found || before+after != javaWant {
			t.Errorf("java = %v:\n%s\nwant\n%s", err, out, javaWant)
		}
		return nil
	})
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve() = %v; want nil", err)
	}
}
