package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// ways are the two system interfaces to mount an overlay with; this kernel has both.
func ways() map[string]func(o overlay, target string) error {
	return map[string]func(o overlay, target string) error{"fsopen": overlay.mount, "mount": overlay.mountOptions}
}

func TestMountManyLayers(t *testing.T) {
	for name, mount := range ways() {
		for _, odd := range []string{"", `with, comma:colon\backslash and space`, strings.Repeat("long", 50)} {
			t.Run(name+"/"+odd[:min(len(odd), 9)], func(t *testing.T) {
				at := filepath.Join(t.TempDir(), odd)
				var lower []string
				for i := range 140 {
					d := filepath.Join(at, fmt.Sprintf("layer-%d", i))
					must(t, os.MkdirAll(d, 0o755))
					must(t, os.WriteFile(d+"/all", []byte(fmt.Sprint(i)), 0o644))
					must(t, os.WriteFile(fmt.Sprintf("%s/only-%d", d, i), nil, 0o644))
					lower = append(lower, d)
				}
				upper, work, target := at+"/upper", at+"/work", at+"/target"
				for _, d := range []string{upper, work, target} {
					must(t, os.Mkdir(d, 0o755))
				}
				o, err := newOverlay(lower, upper, work, false)
				must(t, err)
				err = mount(o, target)
				if errors.Is(err, errNoLayerOption) && odd != "" {
					err = Mount(lower, upper, work, target, false)
				}
				if err != nil {
					t.Fatalf("mounting %d layers = %v; want success", len(lower), err)
				}
				defer func() { must(t, Unmount(target)) }()
				raw, err := os.ReadFile(target + "/all")
				if string(raw) != "139" {
					t.Errorf("top file = %q, %v; want 139", raw, err)
				}
				if n := len(names(t, target)); n != 141 {
					t.Errorf("merged root has %d files; want 141", n)
				}
				must(t, os.WriteFile(target+"/all", []byte("new"), 0o644))
				if raw, err := os.ReadFile(upper + "/all"); string(raw) != "new" {
					t.Errorf("upper file = %q, %v; want new", raw, err)
				}
			})
		}
	}
}

func TestMountReadOnly(t *testing.T) {
	for name, n := range map[string]int{"one layer": 1, "two layers": 2} {
		for _, withUpper := range []bool{false, true} {
			at := t.TempDir()
			dirs := map[string]string{}
			for _, d := range []string{"0", "1", "u", "w", "m"} {
				dirs[d] = filepath.Join(at, d)
				must(t, os.Mkdir(dirs[d], 0o755))
			}
			must(t, os.WriteFile(dirs["0"]+"/f", []byte("x"), 0o644))
			if !withUpper {
				dirs["u"], dirs["w"] = "", ""
			}
			if err := Mount([]string{dirs["0"], dirs["1"]}[:n], dirs["u"], dirs["w"], dirs["m"], true); err != nil {
				t.Fatalf("Mount(%s, upper %v, readonly) = %v; want success", name, withUpper, err)
			}
			if raw, err := os.ReadFile(dirs["m"] + "/f"); string(raw) != "x" {
				t.Errorf("%s: f = %q, %v; want x", name, raw, err)
			}
			if err := os.WriteFile(dirs["m"]+"/f", nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s, upper %v: writing = %v; want EROFS", name, withUpper, err)
			}
			must(t, Unmount(dirs["m"]))
			if err := Unmount(dirs["m"]); err != nil {
				t.Errorf("second Unmount = %v; want nil", err)
			}
		}
	}
}

func TestMountRefuses(t *testing.T) {
	at := t.TempDir()
	for _, d := range []string{"l", "u", "w", "m", "ov", "ov2", "fs"} {
		must(t, os.Mkdir(filepath.Join(at, d), 0o755))
	}
	must(t, unix.Mount("tmpfs", at+"/fs", "tmpfs", 0, ""))
	defer func() { must(t, unix.Unmount(at+"/fs", 0)) }()
	must(t, Mount([]string{at + "/l"}, at+"/u", at+"/w", at+"/ov", false))
	defer func() { must(t, Unmount(at+"/ov")) }()
	must(t, os.Mkdir(at+"/ov/u", 0o755))
	must(t, os.Mkdir(at+"/ov/w", 0o755))
	proc := "/proc/self/task" // a filesystem without extended attributes
	for name, c := range map[string]struct {
		lower       []string
		upper, work string
		want        error
	}{
		"upper on an overlay":         {[]string{at + "/l"}, at + "/ov/u", at + "/ov/w", ErrUpper},
		"upper without attributes":    {[]string{at + "/l"}, proc, proc, ErrUpper},
		"work on another filesystem":  {[]string{at + "/l"}, at + "/u", at + "/fs", ErrUpper},
		"no layers":                   {nil, at + "/u", at + "/w", ErrLimit},
		"too many layers":             {make([]string, 501), at + "/u", at + "/w", ErrLimit},
		"missing layer":               {[]string{at + "/nothing"}, at + "/u", at + "/w", unix.ENOENT},
		"missing upper":               {[]string{at + "/l"}, at + "/nothing", at + "/w", unix.ENOENT},
		"writable without upper":      {[]string{at + "/l"}, "", "", unix.EINVAL},
		"the same directory as upper": {[]string{at + "/l"}, at + "/ov2", at + "/ov2", unix.EINVAL},
	} {
		err := Mount(c.lower, c.upper, c.work, at+"/m", false)
		if !errors.Is(err, c.want) {
			t.Errorf("Mount, %s = %v; want %v", name, err, c.want)
			if err == nil {
				must(t, Unmount(at+"/m"))
			}
		}
		t.Log(err)
	}
	if err := Unmount(at + "/nothing"); err != nil {
		t.Errorf("Unmount of a missing directory = %v; want nil", err)
	}
	f, err := os.Open(at + "/ov")
	must(t, err)
	defer f.Close()
	if err := Unmount(at + "/ov"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("Unmount while in use = %v; want EBUSY", err)
		must(t, Mount([]string{at + "/l"}, at+"/u", at+"/w", at+"/ov", false))
	}
	must(t, f.Close())
}
