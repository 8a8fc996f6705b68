package sandbox

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRootIsThrownAway(t *testing.T) {
	dir := "/var/tmp"
	if os.Geteuid() == 0 {
		dir = "/var/lib"
	} else {
		dir = os.Getenv("BLACKSTART_TEST_DIR")
	}
	dir, err := os.MkdirTemp(dir, "blackstart-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	kept, old := filepath.Join(dir, "kept"), filepath.Join(dir, "old")
	if err := os.WriteFile(kept, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w := up(t, Options{})
	out, code := inside(t, w, "sh", "-ec", fmt.Sprintf(`cd %s; cat kept; echo after >kept; echo new >made; rm -r old; mkdir old; ls old; cat kept made; echo x >/tmp/t; echo x >/run/r; cat /etc/resolv.conf`, dir))
	if want := "beforeafter\nnew\n" + resolvConf; code != 0 || out+"\n" != want {
		t.Errorf("inside: %q, %d; want %q, 0", out, code, want)
	}
	if out, code := inside(t, w, "cat", kept); code != 0 || out != "after" {
		t.Errorf("a second program reads %q, %d; want \"after\", 0", out, code)
	}
	got, err := exec.Command("sh", "-c", "cd "+dir+"; cat kept; ls . old").CombinedOutput()
	if want := "before.:\nkept\nold\n\nold:\nx\n"; err != nil || string(got) != want {
		t.Errorf("outside: %q, %v; want %q", got, err, want)
	}
}

func TestRootOfLayers(t *testing.T) {
	top, bottom := t.TempDir(), t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []struct {
		path, content string
	}{
		{bottom + "/bin/busybox", string(busybox)},
		{bottom + "/etc/name", "bottom"},
		{bottom + "/etc/resolv.conf", "nameserver 8.8.8.8"},
		{top + "/etc/name", "top"},
	} {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path, []byte(f.content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := up(t, Options{Layers: []string{top, bottom}, Hostname: "spare", Files: map[string][]byte{"/etc/deep/down/ca": []byte("ours")}})
	out, code := inside(t, w, "/bin/busybox", "sh", "-ec", "cd /; /bin/busybox cat etc/name etc/resolv.conf etc/deep/down/ca; echo; echo x >/made; /bin/busybox ls /; /bin/busybox hostname; /bin/busybox ls /dev")
	want := "topnameserver 127.0.0.53\nours\nbin\ndev\netc\nmade\nproc\nrun\nsys\ntmp\nspare\nfd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero"
	if code != 0 || out != want {
		t.Errorf("inside: %q, %d; want %q, 0", out, code, want)
	}
	for _, d := range []string{top, bottom} {
		if _, err := os.Lstat(d + "/made"); err == nil {
			t.Errorf("%s/made is there; want nothing written to a layer", d)
		}
	}
}

// The vacuum's /etc/hosts has nothing of the root's, wherever that comes from.
func TestHostsFileIsItsOwn(t *testing.T) {
	const localhost = "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{"bin/busybox": string(busybox), "etc/hosts": "192.0.2.1 registry.example.internal\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	given := map[string][]byte{"/etc/hosts": []byte("192.0.2.2\tgiven\n")}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"the host's root", Options{}, localhost + "127.0.1.1\t" + strings.Join(slices.Compact([]string{name, strings.SplitN(name, ".", 2)[0]}), " ") + "\n"},
		{"a long name", Options{Hostname: "db7.example.internal"}, localhost + "127.0.1.1\tdb7.example.internal db7\n"},
		{"a name that is no name", Options{Hostname: "db7\n192.0.2.9 x"}, localhost},
		{"a directory", Options{Layers: []string{root}, Hostname: "spare"}, localhost + "127.0.1.1\tspare\n"},
		{"a file that is given", Options{Layers: []string{root}, Hostname: "spare", Files: given}, "192.0.2.2\tgiven\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := up(t, c.o)
			if out, code := inside(t, w, "/bin/busybox", "cat", "/etc/hosts"); out+"\n" != c.want || code != 0 {
				t.Errorf("/etc/hosts is %q, %d; want %q", out, code, c.want)
			}
		})
	}
}

// What the root calls a host is in no vacuum, and its own name leads to itself.
func TestNamesOfHostsFile(t *testing.T) {
	w := up(t, Options{Hostname: "db7.example.internal", Record: NewRecord(nil)})
	got := python(t, w, `
import socket
for name in ("localhost", "db7", "db7.example.internal"):
    print(sorted({a[4][0] for a in socket.getaddrinfo(name, 80, proto=socket.IPPROTO_TCP)}), flush=True)
l = socket.create_server((socket.gethostbyname("db7"), 80))
socket.create_connection(("db7", 80), 2).close()
`)
	if want := "['127.0.0.1', '::1']\n['127.0.1.1']\n['127.0.1.1']"; got != want {
		t.Errorf("names lead to %q; want %q", got, want)
	}
}

func TestBinds(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/data", []byte("of the host"), 0o666); err != nil {
		t.Fatal(err)
	}
	w := up(t, Options{Binds: []string{dir}})
	out, code := inside(t, w, "sh", "-c", "cat "+dir+"/data; echo x >"+dir+"/data")
	if !strings.HasPrefix(out, "of the host") || !strings.Contains(out, "Read-only") || code == 0 {
		t.Errorf("a bind: %q, %d; want its content and an error to write", out, code)
	}
}

// A socket of the host connects if it is let in by its path, and so does one
// that is served from outside by a listener inside.
func TestBindsAndListensOnSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.sock")
	host, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	w := up(t, Options{Binds: []string{path}})
	inside, err := w.Listen(t.Context(), "unix", "/run/relay.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	for _, l := range []net.Listener{host, inside} {
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Write([]byte("hello"))
				_ = c.Close()
			}
		}()
	}
	got := python(t, w, `
import socket, sys
for p in sys.argv[1:]:
    s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(p); print(s.recv(9).decode())
`, path, "/run/relay.sock")
	if got != "hello\nhello" {
		t.Errorf("sockets answer %q; want hello twice", got)
	}
}

// What the vacuum's root could do as the host's root, it cannot.
func TestConfined(t *testing.T) {
	w := up(t, Options{})
	for _, c := range []string{
		"echo x >/proc/sys/kernel/core_pattern", "echo h >/proc/sysrq-trigger", "mount -t tmpfs x /mnt", "umount /run", "umount -l /proc/sys",
		"stat -L /proc/1/fd/0", "ls /proc/1/root/", "nft flush ruleset", "ip link set lo down", "mknod /dev/vda b 254 0 && head -c1 /dev/vda",
		"unshare -Urm mount -t proc x /proc", "unshare -Urm umount -l /run", "unshare -Urn true && unshare -Urm sh -c 'mount -o remount,rw,bind /proc/sys'",
		"nsenter -t 1 -n true", "kill -9 1 && ! kill -0 1", "sysctl -w kernel.hostname=x",
		"unshare -Urpfm mount -t proc x /mnt", "unshare -Urnpfm mount -t sysfs x /mnt && echo x >/mnt/kernel/mm/ksm/run",
	} {
		if out, code := inside(t, w, "sh", "-c", c); code == 0 {
			t.Errorf("%q worked; want an error. %s", c, out)
		}
	}
	out, code := inside(t, w, "sh", "-c", "ps -e -o pid= | wc -l; ls -1 /sys/class/net; cat /proc/net/dev | wc -l; ls /proc/self/fd")
	if code != 0 || !strings.Contains(out, "eth0\nlo\n") || !strings.HasSuffix(out, "0\n1\n2\n3") {
		t.Errorf("inside: %q, %d; want eth0 and lo, and no descriptor but three and that of ls", out, code)
	}
}
