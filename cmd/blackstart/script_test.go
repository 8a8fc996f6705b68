package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// tags and the static link are the Makefile's: what is tested is what is shipped.
const (
	buildTags  = "netgo osusergo seccomp urfave_cli_no_docs runc_nocriu nethttpomithttp2"
	buildFlags = `-s -w -extldflags "-static"`
)

var binary string

func TestMain(m *testing.M) {
	// Most of a test's time is somebody's time-out or a daemon's start. What -parallel says counts more.
	flag.Parse()
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		if err := p.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "blackstart-test")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // another user runs it as well
		panic(err)
	}
	binary = filepath.Join(dir, "bin", "blackstart")
	out, err := exec.Command("go", "build", "-tags", buildTags, "-ldflags", buildFlags, "-o", binary, ".").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// needRoot fails the test, or skips it where no kernel test was asked for.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("REQUIRE_KERNEL") == "1" {
		t.Fatal("containers need root")
	}
	t.Skip("containers need root")
}

// TestScript runs what an operator types and compares what is seen.
func TestScript(t *testing.T) {
	needRoot(t)
	helpers, err := filepath.Abs("testdata/bin")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(binary)+":"+helpers+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
			state, data := filepath.Join(env.WorkDir, "state"), filepath.Join(env.WorkDir, "data")
			cache, err := os.UserCacheDir()
			if err != nil {
				return err
			}
			env.Setenv("SERVERS", filepath.Join(cache, "blackstart-servers"))
			env.Setenv("BLACKSTART_STATE", state)
			env.Setenv("BLACKSTART_DATA", data)
			env.Defer(func() {
				names, _ := os.ReadDir(filepath.Join(data, "containers"))
				for _, n := range names {
					out, err := exec.Command(binary, "--state", state, "--data", data, "rm", "--force", n.Name()).CombinedOutput()
					if err != nil {
						t.Errorf("removing %s: %v\n%s", n.Name(), err, out)
					}
				}
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"blackstart": cmdBlackstart, "rootfs": cmdRootfs, "until": cmdUntil, "exits": cmdExits, "gone": cmdGone,
		},
	})
}

// cmdBlackstart runs the program under test.
func cmdBlackstart(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("blackstart", args...)
	if (err != nil) != neg {
		ts.Fatalf("blackstart %q: %v; want failure: %v\n%s%s", args, err, neg, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// cmdRootfs makes a root filesystem of busybox: rootfs DIR.
func cmdRootfs(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	for _, d := range []string{"bin", "dev", "etc", "proc", "run", "sys", "tmp"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "bin/busybox"), busybox, 0o755))
	for _, a := range strings.Fields("sh true false sleep ls cat echo id env ps kill dd stat grep head tail tty stty nc yes mknod mkdir touch seq wc trap") {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil && !os.IsExist(err) {
			ts.Fatalf("%v", err)
		}
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nweb:x:34:\nlog:x:50:web\n"), 0o644))
}

// cmdUntil repeats a command until its output matches: until REGEXP CMD...
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	re := regexp.MustCompile(args[0])
	deadline := time.Now().Add(time.Minute)
	for {
		_ = ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if re.MatchString(out) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q never gave %q (neg %v); last:\n%s", args[1:], args[0], neg, out)
		}
		time.Sleep(50 * time.Millisecond) // between two looks, not instead of one
	}
}

// cmdExits runs a command and compares its exit status: exits CODE CMD...
func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%q exited with %d; want %d\n%s%s", args[1:], got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// cmdGone checks that nothing of a container is left on the host: gone NAME.
func cmdGone(ts *testscript.TestScript, _ bool, args []string) {
	work := ts.Getenv("WORK")
	if left := leftovers(args[0], work+"/state", work+"/data"); len(left) > 0 {
		ts.Fatalf("left of %s: %q", args[0], left)
	}
}
