package names

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// picture is what is below a directory, in text.
func picture(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v", strings.TrimPrefix(path, dir), st.Mode())
		switch {
		case st.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s", target)
		case st.Mode().IsRegular():
			data, _ := os.ReadFile(path)
			fmt.Fprintf(&b, " %d %q", st.Sys().(*syscall.Stat_t).Uid, data)
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// hosts are hosts as they are found.
var hosts = map[string]func(t *testing.T, root string){
	"plain file": func(t *testing.T, root string) {
		write(t, root+"/etc/resolv.conf", "search a.example b.example\nnameserver 10.0.0.53\noptions ndots:2\n")
		if err := errors.Join(os.Chmod(root+"/etc/resolv.conf", 0o640), os.Chown(root+"/etc/resolv.conf", 12, 13)); err != nil {
			t.Fatal(err)
		}
	},
	"none": func(*testing.T, string) {},
	"systemd-resolved": func(t *testing.T, root string) {
		mkdir(t, root+"/run/systemd/resolve")
		write(t, root+"/run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\nsearch a.example\n")
		link(t, "../run/systemd/resolve/stub-resolv.conf", root+"/etc/resolv.conf")
	},
	"NetworkManager": func(t *testing.T, root string) {
		mkdir(t, root+"/run/NetworkManager")
		mkdir(t, root+"/etc/NetworkManager/conf.d")
		write(t, root+"/run/NetworkManager/resolv.conf", "search a.example\nnameserver 10.0.0.53\n")
		link(t, "/run/NetworkManager/resolv.conf", root+"/etc/resolv.conf")
	},
	"both, dangling": func(t *testing.T, root string) {
		mkdir(t, root+"/run/NetworkManager")
		mkdir(t, root+"/run/systemd/resolve")
		link(t, "/nowhere", root+"/etc/resolv.conf")
	},
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func host(t *testing.T, name string) Takeover {
	t.Helper()
	root := t.TempDir()
	mkdir(t, root+"/etc")
	hosts[name](t, root)
	return Takeover{Root: root, State: filepath.Join(t.TempDir(), "takeover.json"), Servers: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::53")}}
}

func TestTakeover(t *testing.T) {
	for name := range hosts {
		t.Run(name, func(t *testing.T) {
			h := host(t, name)
			var reloaded []string
			h.Reload = func(_ context.Context, s string) error { reloaded = append(reloaded, s); return nil }
			before := picture(t, h.Root)
			if err := h.Release(t.Context()); !errors.Is(err, ErrNotTaken) {
				t.Errorf("Release() before = %v; want ErrNotTaken", err)
			}
			if _, err := h.Take(t.Context(), seenAt); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(h.Root + "/etc/resolv.conf")
			if err != nil {
				t.Fatal(err)
			}
			want := takeoverMark + "nameserver 127.0.0.1\nnameserver fd00::53\n"
			switch name {
			case "plain file":
				want += "search a.example b.example\noptions ndots:2\n"
			case "systemd-resolved", "NetworkManager":
				want += "search a.example\n"
			}
			if string(data) != want {
				t.Errorf("resolv.conf = %q; want %q", data, want)
			}
			for path, has := range map[string]string{resolvedConf: "DNS=127.0.0.1 fd00::53\n", managerConf: "dns=none\n"} {
				data, err := os.ReadFile(filepath.Join(h.Root, path))
				service := map[string]string{resolvedConf: "systemd-resolved", managerConf: "NetworkManager"}[path]
				_, runs := os.Stat(h.Root + map[string]string{resolvedConf: "/run/systemd/resolve", managerConf: "/run/NetworkManager"}[path])
				if (err == nil) != (runs == nil) || err == nil && !strings.Contains(string(data), has) || slices.Contains(reloaded, service) != (runs == nil) {
					t.Errorf("%s = %q, %v, reloaded %v; want it if the service runs", path, data, err, reloaded)
				}
			}
			// Once more, for another server.
			h.Servers = h.Servers[:1]
			taken, err := h.Take(t.Context(), seenAt.Add(time.Hour))
			if err != nil || !taken.Begun.Equal(seenAt) {
				t.Errorf("Take() again = %+v, %v; want it begun at %v", taken, err, seenAt)
			}
			if data, _ := os.ReadFile(h.Root + "/etc/resolv.conf"); strings.Contains(string(data), "fd00::53") {
				t.Errorf("resolv.conf = %q; want only the new server", data)
			}
			if err := h.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
			if after := picture(t, h.Root); after != before {
				t.Errorf("after Release():\n%s\nwant\n%s", after, before)
			}
			if _, err := State(h.State); !errors.Is(err, ErrNotTaken) {
				t.Errorf("State() after = %v; want ErrNotTaken", err)
			}
		})
	}
}

const killEnv = "NAMES_TEST_TAKEOVER"

// killedAt takes over or releases and is killed before its n-th step.
func killedAt(spec string) {
	words := strings.Split(spec, "|")
	n, _ := strconv.Atoi(words[3])
	h := Takeover{Root: words[1], State: words[2], Servers: []netip.Addr{netip.MustParseAddr(words[4])}}
	h.step = func(string) {
		if n--; n < 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	var err error
	if words[0] == "take" {
		_, err = h.Take(context.Background(), seenAt)
	} else {
		err = h.Release(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// kill runs a step in a process that is killed and says whether it was.
func kill(t *testing.T, h Takeover, what string, n int, server string) bool {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), killEnv+"="+strings.Join([]string{what, h.Root, h.State, strconv.Itoa(n), server}, "|"))
	out, err := c.CombinedOutput()
	if err == nil {
		return false
	}
	if c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s = %v: %s", what, err, out)
	}
	return true
}

func TestTakeoverKilled(t *testing.T) {
	t.Parallel()
	for name := range hosts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host(t, name)
			before := picture(t, h.Root)
			steps := 0
			for n := 0; kill(t, h, "take", n, "10.1.1.1"); n++ {
				steps++
				if n%2 == 1 {
					kill(t, h, "take", n, "10.2.2.2")
				}
				if err := h.Release(t.Context()); err != nil && !errors.Is(err, ErrNotTaken) {
					t.Fatalf("Release() after a kill at step %d = %v", n, err)
				}
				if after := picture(t, h.Root); after != before {
					t.Fatalf("killed at step %d and released:\n%s\nwant\n%s", n, after, before)
				}
			}
			for n := 0; kill(t, h, "release", n, "10.1.1.1"); n++ {
				steps++
				if err := h.Release(t.Context()); err != nil {
					t.Fatalf("Release() after one that was killed at step %d = %v", n, err)
				}
				if after := picture(t, h.Root); after != before {
					t.Fatalf("release killed at step %d and done again:\n%s\nwant\n%s", n, after, before)
				}
				if _, err := h.Take(t.Context(), seenAt); err != nil {
					t.Fatal(err)
				}
			}
			if steps < 6 {
				t.Errorf("it was killed %d times; want at each step", steps)
			}
		})
	}
}

func TestReleaseLeavesOthersChanges(t *testing.T) {
	h := host(t, "systemd-resolved")
	if _, err := h.Take(t.Context(), seenAt); err != nil {
		t.Fatal(err)
	}
	const theirs = "nameserver 10.9.9.9\n"
	write(t, h.Root+"/etc/resolv.conf", theirs)
	if err := h.Release(t.Context()); !errors.Is(err, ErrChanged) {
		t.Errorf("Release() = %v; want ErrChanged", err)
	}
	if data, _ := os.ReadFile(h.Root + "/etc/resolv.conf"); string(data) != theirs {
		t.Errorf("resolv.conf = %q; want %q", data, theirs)
	}
	if _, err := os.Stat(filepath.Join(h.Root, resolvedConf)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the drop-in file is still there: %v", err)
	}
}

func TestTakeoverOfMountedFile(t *testing.T) {
	h := host(t, "plain file")
	outside := write(t, filepath.Join(t.TempDir(), "resolv.conf"), "nameserver 10.0.0.1\n")
	if err := syscall.Mount(outside, h.Root+"/etc/resolv.conf", "", syscall.MS_BIND, ""); err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" && errors.Is(err, syscall.EPERM) {
			t.Skipf("mounting: %v", err)
		}
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(h.Root+"/etc/resolv.conf", syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if _, err := h.Take(t.Context(), seenAt); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(outside); !strings.Contains(string(data), "nameserver 127.0.0.1\n") {
		t.Errorf("the mounted file = %q; want it to be written", data)
	}
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(outside); string(data) != "nameserver 10.0.0.1\n" {
		t.Errorf("the mounted file = %q; want it as before", data)
	}
}

func TestTakeoverFails(t *testing.T) {
	h := host(t, "plain file")
	mkdir(t, h.Root+"/run/systemd/resolve")
	write(t, h.Root+"/etc/systemd", "a file where a directory should be")
	before := picture(t, h.Root)
	if _, err := h.Take(t.Context(), seenAt); err == nil {
		t.Error("Take() = nil; want an error")
	}
	if after := picture(t, h.Root); after != before {
		t.Errorf("after Take() failed:\n%s\nwant\n%s", after, before)
	}
	if _, err := State(h.State); !errors.Is(err, ErrNotTaken) {
		t.Errorf("State() = %v; want ErrNotTaken", err)
	}
	lock, err := os.Open(filepath.Dir(h.State))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Take(t.Context(), seenAt); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("Take() beside another = %v; want an error", err)
	}
}

func TestSignalService(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "NetworkManager")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	// Where this test runs under nohup, the service would ignore it as well.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	c := exec.Command(path, "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := SignalService(t.Context(), "NetworkManager"); err != nil {
		t.Error(err)
		c.Process.Kill()
	}
	c.Wait()
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGHUP {
		t.Errorf("the service ended with %v; want SIGHUP", c.ProcessState)
	}
	if err := SignalService(t.Context(), "sshd"); err == nil {
		t.Error("SignalService(sshd) = nil; want an error")
	}
}
