package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// libpodState is where Podman keeps what a container's spec has no field for
// (libpod/boltdb_state.go). Podman 4.8 and later may have libpodSQL in its place.
const (
	libpodState = "libpod/bolt_state.db"
	libpodSQL   = "db.sql"
)

// libpodConfig is the part of libpod/container_config.go that a spec has no field
// for. The health check is Docker's.
type libpodConfig struct {
	RestartPolicy  string        `json:"restart_policy"`
	RestartRetries uint          `json:"restart_retries"`
	Health         *dockerHealth `json:"healthcheck"`
}

// libpod reads what Podman says of the containers that there are. A database that
// is not there is CRI-O's way, or of a Podman that was never used.
func (l *storageLoader) libpod(ctx context.Context) {
	l.store.libpod = map[string]libpodConfig{}
	db, err := openBolt(ctx, l.store.path, libpodState)
	if errors.Is(err, fs.ErrNotExist) {
		if f, _, err := openBeneath(l.store.path, libpodSQL); err == nil {
			_ = f.Close()
			l.problem(libpodSQL, fmt.Errorf("restart policies and health checks of this Podman are not read: %w", ErrIncomplete))
		}
		return
	}
	if err != nil {
		l.problem(libpodState, err)
		return
	}
	defer db.Close()
	for id := range l.store.containers {
		raw := db.root.bucket("ctr", id).get("config")
		if raw == nil {
			continue // CRI-O's
		}
		var c libpodConfig
		if err := json.Unmarshal(raw, &c); err != nil {
			l.problem("container "+id+" in "+libpodState, err)
			continue
		}
		l.store.libpod[id] = c
	}
	if len(db.damage) > 0 {
		l.problem(libpodState, errors.Join(db.damage...))
	}
}

// annotate adds to a spec what it has no field for.
func (c libpodConfig) annotate(spec *specs.Spec) {
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	restartNote(spec.Annotations, c.RestartPolicy, int(min(c.RestartRetries, 1<<20)))
	healthNotes(spec.Annotations, c.Health, nil)
}

// restartNote adds a restart policy to annotations.
func restartNote(notes map[string]string, policy string, retries int) {
	switch {
	case policy == "" || policy == "no":
	case retries > 0:
		notes[AnnotationRestart] = policy + ":" + strconv.Itoa(retries)
	default:
		notes[AnnotationRestart] = policy
	}
}
