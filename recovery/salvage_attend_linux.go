package recovery

import (
	"encoding/json"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/salvage"
)

// attend puts the restart policy and the health check that an engine recorded
// into the document's words, for the supervisor, and tells what differs.
func (v *Salvaged) attend(notes map[string]string) {
	if was := notes[salvage.AnnotationRestart]; was != "" {
		v.Spec.Restart = restartOf(was)
		c := salvage.Change{Path: "restart", Was: was, Now: string(v.Spec.Restart), Why: "the policy is unknown here: it is not started again"}
		if c.Now != "" {
			c.Why = c.Now + ", until stop or until this host restarts"
			if _, count, limited := strings.Cut(was, ":"); limited {
				c.Why += "; it pauses longer each time rather than give up after " + count
			}
			c.Why += ". An engine that returns starts its own instance again as well: hand over before that"
		}
		v.Changes = append(v.Changes, c)
	}
	if was := notes[salvage.AnnotationHealth]; was != "" {
		h, err := healthOf(was, notes[salvage.AnnotationHealthTiming])
		c := salvage.Change{Path: "health", Was: was, Now: h.Check, Why: "the supervisor does the check"}
		switch {
		case err != nil:
			c.Now, c.Why, c.Loud = "", "the check cannot be done here: "+err.Error(), true
		case v.Spec.Restart != "":
			c.Why += ", and restarts the container when it stays unhealthy, which Docker and Podman do not by themselves"
			fallthrough
		default:
			v.Spec.Health = &h
		}
		v.Changes = append(v.Changes, c)
	}
	for _, name := range []string{salvage.AnnotationRestart, salvage.AnnotationHealth, salvage.AnnotationHealthTiming} {
		delete(v.Spec.Config.Annotations, name)
	}
}

// restartOf is the policy nearest to a recorded one: none counts its tries, and
// a stopped container stays stopped in any.
func restartOf(was string) container.Restart {
	switch policy, _, _ := strings.Cut(was, ":"); policy {
	case "always", "unless-stopped":
		return container.RestartAlways
	case "on-failure":
		return container.RestartOnFailure
	}
	return ""
}

func healthOf(check, timing string) (container.Health, error) {
	var h container.Health
	if timing != "" {
		if err := json.Unmarshal([]byte(timing), &h); err != nil {
			return container.Health{}, err
		}
	}
	var err error
	if h.Check, err = salvage.HealthCheck(check); err != nil {
		return container.Health{}, err
	}
	_, err = container.ParseProbe(h.Check)
	return h, err
}

// needShell drops a health check where the root filesystem, given by its
// directories, has no shell: a check that always fails would restart a sound
// container for ever.
func (v *Salvaged) needShell(dirs []string) {
	if v.Spec.Health == nil || !strings.HasPrefix(v.Spec.Health.Check, "exec:") || slices.ContainsFunc(dirs, hasShell) {
		return
	}
	v.Changes = append(v.Changes, salvage.Change{
		Path: "health", Was: v.Spec.Health.Check, Loud: true,
		Why: "left out, since the image has no /bin/sh to run it: give another with --health-check",
	})
	v.Spec.Health = nil
}

func hasShell(dir string) bool {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer root.Close()
	return slices.ContainsFunc([]string{"bin/sh", "usr/bin/sh"}, func(name string) bool {
		_, err := root.Lstat(name)
		return err == nil
	})
}

// annotate puts the document's restart policy and health check back where the
// original has them, so that a difference shows.
func (v Salvaged) annotate(now *specs.Spec) {
	health, timing := "", ""
	if v.Spec.Health != nil {
		health, timing = v.Spec.Health.Check, v.Original.Annotations[salvage.AnnotationHealthTiming]
	}
	for name, value := range map[string]string{
		salvage.AnnotationRestart: string(v.Spec.Restart), salvage.AnnotationHealth: health, salvage.AnnotationHealthTiming: timing,
	} {
		if value == "" || v.Original.Annotations[name] == "" {
			continue
		}
		if now.Annotations == nil {
			now.Annotations = map[string]string{}
		}
		now.Annotations[name] = value
	}
}
