package recovery

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// recorded is a dead container with these annotations, rewritten.
func recorded(t *testing.T, notes map[string]string) *Salvaged {
	t.Helper()
	orig := &specs.Spec{Version: specs.Version, Process: &specs.Process{Args: []string{"/x"}}, Root: &specs.Root{}, Annotations: notes}
	now, changes := salvage.Recover(orig, salvage.RewriteOptions{Cgroup: "/blackstart_x"})
	v := &Salvaged{Original: orig, Changes: changes, Spec: document("x", salvage.Container{Store: salvage.Docker}, now, notes)}
	v.attend(notes)
	return v
}

func (v *Salvaged) changed(path string) salvage.Change {
	i := slices.IndexFunc(v.Changes, func(c salvage.Change) bool { return c.Path == path })
	if i < 0 {
		return salvage.Change{}
	}
	return v.Changes[i]
}

func TestAttendRestart(t *testing.T) {
	for was, want := range map[string]struct {
		now  container.Restart
		why  string
		diff string
	}{
		"":               {"", "", ""},
		"always":         {container.RestartAlways, "until stop", ""},
		"unless-stopped": {container.RestartAlways, "until stop", `+    "org.blackstart.restart": "always"`},
		"on-failure":     {container.RestartOnFailure, "until stop", ""},
		"on-failure:3":   {container.RestartOnFailure, "rather than give up after 3", `+    "org.blackstart.restart": "on-failure"`},
		"sometimes":      {"", "unknown", `-    "org.blackstart.restart": "sometimes"`},
	} {
		v := recorded(t, map[string]string{salvage.AnnotationRestart: was, "kept": "yes"})
		if v.Spec.Restart != want.now {
			t.Errorf("%q: restart = %q; want %q", was, v.Spec.Restart, want.now)
		}
		c := v.changed("restart")
		if c.Was != was || c.Now != string(want.now) || !strings.Contains(c.Why, want.why) {
			t.Errorf("%q: change = %+v; want %q", was, c, want.why)
		}
		diff, err := v.Diff()
		if err != nil || !strings.Contains(diff, want.diff) || strings.HasPrefix(want.diff, "+") != strings.Contains(diff, "\n+    \"org.blackstart.restart\"") {
			t.Errorf("%q: Diff() = %s, %v; want %q", was, diff, err, want.diff)
		}
		if v.Spec.Restart == "" {
			continue
		}
		if _, left := v.Spec.Config.Annotations[salvage.AnnotationRestart]; left || v.Spec.Config.Annotations["kept"] != "yes" {
			t.Errorf("%q: annotations = %v; want the document to say it once", was, v.Spec.Config.Annotations)
		}
	}
}

func TestAttendHealth(t *testing.T) {
	const timing = `{"interval":"7s","timeout":"30s","retries":4,"start":"1m0s"}`
	seconds := func(n int) container.Duration { return container.Duration(time.Duration(n) * time.Second) }
	for _, c := range []struct {
		check, timing string
		want          *container.Health
		why           string
	}{
		{`["CMD-SHELL","a | b"]`, timing, &container.Health{Check: "exec:a | b", Interval: seconds(7), Timeout: seconds(30), Retries: 4, Start: seconds(60)}, ""},
		{`["CMD","a","b c"]`, "", &container.Health{Check: "exec:a 'b c'"}, ""},
		{`["CMD-SHELL","a\nb"]`, timing, nil, "printable"},
		{`["CMD-SHELL","a"]`, `{"interval":"-7s"}`, nil, "negative"},
		{`["HTTP","a"]`, timing, nil, "is none that is known"},
		{`no`, timing, nil, "reading health check"},
	} {
		v := recorded(t, map[string]string{salvage.AnnotationHealth: c.check, salvage.AnnotationHealthTiming: c.timing, salvage.AnnotationRestart: "always"})
		got, _ := json.Marshal(v.Spec.Health)
		if want, _ := json.Marshal(c.want); string(got) != string(want) {
			t.Errorf("%s %s: health = %s; want %s", c.check, c.timing, got, want)
		}
		change := v.changed("health")
		if change.Loud != (c.want == nil) || !strings.Contains(change.Why, c.why) {
			t.Errorf("%s %s: change = %+v; want %q", c.check, c.timing, change, c.why)
		}
		diff, err := v.Diff()
		if err != nil || !strings.Contains(diff, `-    "org.blackstart.health"`) || strings.Contains(diff, `+    "org.blackstart.health": "exec:`) != (c.want != nil) {
			t.Errorf("%s %s: Diff() = %s, %v", c.check, c.timing, diff, err)
		}
		if err := v.Spec.Check(); c.want != nil && err != nil && strings.Contains(err.Error(), "health") {
			t.Errorf("%s: Check() = %v", c.check, err)
		}
	}
}

func TestNeedShell(t *testing.T) {
	empty, plain, merged, outside := t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(plain, "bin"), 0o755), os.Symlink("busybox", filepath.Join(plain, "bin/sh")),
		os.MkdirAll(filepath.Join(merged, "usr/bin"), 0o755), os.Symlink("/usr/bin", filepath.Join(merged, "bin")), os.WriteFile(filepath.Join(merged, "usr/bin/sh"), nil, 0o755),
		os.Symlink("/bin", filepath.Join(outside, "bin")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		dirs []string
		kept bool
	}{
		{[]string{empty}, false},
		{[]string{outside, ""}, false},
		{nil, false},
		{[]string{plain, empty}, true},
		{[]string{empty, merged}, true},
	} {
		v := recorded(t, map[string]string{salvage.AnnotationHealth: `["CMD","/check"]`})
		v.needShell(c.dirs)
		if (v.Spec.Health != nil) != c.kept || v.Changes[len(v.Changes)-1].Loud == c.kept {
			t.Errorf("needShell(%q): health %v, last change %+v; want kept %v", c.dirs, v.Spec.Health, v.Changes[len(v.Changes)-1], c.kept)
		}
	}
}
