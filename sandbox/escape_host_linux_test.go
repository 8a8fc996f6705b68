package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A descriptor that a server of the host sends along would be a connection of
// the host. It does not pass the relay.
func (s suite) descriptorsSent(t *testing.T) {
	control, o := s.listen(t, "rightcontrol"), s.listen(t, "rights")
	path := filepath.Join(s.dir, "rights.sock")
	for _, c := range []*outside{control, o} {
		_ = os.Remove(path)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				client, err := l.AcceptUnix()
				if err != nil {
					return
				}
				give(client, tcpPort(c))
			}
		}()
		const script = "python3 $PROGRAMS/rights.py /run/rights.sock $TOKEN"
		if c == control {
			got := run(strings.ReplaceAll(script, "/run/rights.sock", path), c)
			if !strings.Contains(got, "1 descriptors") || !c.reached("tcp") {
				t.Errorf("outside of a vacuum it says %q and reached %v; want a descriptor, and tcp by it", got, c.contacts())
			}
		} else {
			p := letIn(t, map[string]string{"/run/rights.sock": path}, "unix:/run/rights.sock")
			if got := s.attempt(t, p.World, script, c); got != "0 descriptors" {
				t.Errorf("it says %q; want 0 descriptors", got)
			}
			found := false
			for _, a := range p.end(t) {
				found = found || (a.Proto == protoUnix && a.Verdict == Allowed && a.Destination == "/run/rights.sock" && a.Executable != "")
			}
			if got := c.contacts(); len(got) > 0 || !found {
				t.Errorf("it reached %v, in the record: %v; want the allowed socket alone, recorded", got, found)
			}
		}
		_ = l.Close()
	}
}

// give sends an address and a socket of the host to reach it by.
func give(c *net.UnixConn, port string) {
	defer c.Close()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	_, _, _ = c.WriteMsgUnix([]byte("127.0.0.1:"+port), unix.UnixRights(fd), nil)
}

// What is allowed at every address is not allowed at the host's own loopback,
// and does not take the place of what programs inside serve on theirs.
func (s suite) wide(t *testing.T) {
	control, o := s.listen(t, "widecontrol"), s.listen(t, "wide")
	if run("attempt tcp 127.0.0.1 $TCP $TOKEN", control); !control.reached("tcp") {
		t.Error("outside of a vacuum it did not reach tcp: the test proves nothing")
	}
	servers := map[string]string{"10.0.0.1:443": "127.0.0.1:" + tcpPort(o)}
	p := letIn(t, servers, "tcp:0.0.0.0/0:*", "tcp:[::/0]:*", "udp:0.0.0.0/0:*")
	const server = `python3 -c 'import http.client, http.server, threading
s = http.server.HTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=s.serve_forever, daemon=True).start()
c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=3); c.request("HEAD", "/"); print(c.getresponse().status)' 2>/dev/null`
	lines := map[string]string{"attempt udp 127.0.0.1 $UDP $TOKEN": "silent", server: "200"}
	// To the relay itself, which a program finds in /proc/net/tcp.
	lines[fmt.Sprintf("attempt tcp 127.0.0.1 %d $TOKEN", p.port)] = "silent"
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "192.0.2.1", "fd62:6c61:636b::1"} {
		lines["attempt tcp "+a+" $TCP $TOKEN"] = "silent"
	}
	var all sync.WaitGroup
	for line, want := range lines {
		all.Go(func() {
			if out := s.attempt(t, p.World, line, o); out != want {
				t.Errorf("%s: it says %q; want %q", line, out, want)
			}
		})
	}
	all.Wait()
	if got := o.contacts(); len(got) > 0 {
		t.Errorf("it reached %v of the host; want nothing", got)
	}
	if out := s.attempt(t, p.World, "attempt tcp 10.0.0.1 443 $TOKEN", o); out != "answer reached" || o.contacts()["tcp"] != 1 {
		t.Errorf("elsewhere: it says %q; want an answer", out)
	}
	p.end(t)
}

func tcpPort(o *outside) string { return strings.TrimPrefix(o.env[1], "TCP=") }

// Files that a server keeps, or a daemon of the host, are on the network: they
// are not there.
func (s suite) servedFiles(t *testing.T) {
	if !s.root {
		return // who mounts one needs a privilege
	}
	dir := filepath.Join(s.dir, "served")
	for _, d := range []string{"lower", "upper", "work", "at"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(dir+"/lower/file", []byte("of the daemon"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("fuse-overlayfs", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir), dir+"/at").CombinedOutput()
	if err != nil {
		t.Fatalf("fuse-overlayfs: %v\n%s", err, out)
	}
	defer func() {
		if err := unix.Unmount(dir+"/at", 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	}()
	if b, err := os.ReadFile(dir + "/at/file"); err != nil || string(b) != "of the daemon" {
		t.Errorf("outside of a vacuum the file holds %q, %v; want what the daemon says, or the test proves nothing", b, err)
	}
	o := s.listen(t, "served")
	w := up(t, Options{})
	if got := s.attempt(t, w, "ls "+dir+"/at; cat "+dir+"/lower/file; stat -fc %T "+dir+"/at", o); strings.Contains(got, "fuse") || !strings.HasPrefix(got, "of the daemon") {
		t.Errorf("it says %q; want an empty directory", got)
	}
	if !strings.Contains(strings.Join(w.Warnings(), " "), dir+"/at is empty") {
		t.Errorf("Warnings() = %q; want one about %s", w.Warnings(), dir+"/at")
	}
}
