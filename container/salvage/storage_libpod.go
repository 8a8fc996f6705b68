package salvage

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where Podman keeps what a container's spec has no field for: in a BoltDB
// (libpod/boltdb_state.go), or from 4.8 on in a SQLite database
// (libpod/sqlite_state.go), whose table ContainerConfig has a row for each
// container. What a container's record holds is the same in both.
const (
	libpodState = "libpod/bolt_state.db"
	libpodSQL   = "db.sql"
)

// libpodConfig is the part of libpod/container_config.go that a spec has no field
// for, and what a container is called where containers/storage has lost that. The
// health check is Docker's.
type libpodConfig struct {
	Name           string        `json:"name"`
	Image          string        `json:"rootfsImageName"`
	ImageID        string        `json:"rootfsImageID"`
	Created        storageTime   `json:"createdTime"`
	RestartPolicy  string        `json:"restart_policy"`
	RestartRetries uint          `json:"restart_retries"`
	Health         *dockerHealth `json:"healthcheck"`
}

// libpod reads what Podman says of the containers that there are. A database that
// is not there is CRI-O's way, or of a Podman that was never used.
//
// Where both are there, Podman up to 5 uses the BoltDB (getDBState in
// libpod/runtime.go), unless it is configured otherwise, and Podman 6 only SQLite,
// a migrated BoltDB being renamed. 5.8.0 could leave containers in both. So the
// BoltDB goes before, and what it does not have of a container is looked for in
// the other: an id is never given twice.
func (l *storageLoader) libpod(ctx context.Context) {
	l.store.libpod = map[string]libpodConfig{}
	l.libpodBolt(ctx)
	if len(l.store.libpod) < len(l.store.containers) {
		l.libpodSQLite(ctx)
	}
}

func (l *storageLoader) libpodBolt(ctx context.Context) {
	db, err := openBolt(ctx, l.store.path, libpodState)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		l.problem(libpodState, err)
		return
	}
	defer db.Close()
	for id := range l.store.containers {
		if raw := db.root.bucket("ctr", id).get("config"); raw != nil { // else CRI-O's
			l.libpodConfig(libpodState, id, raw)
		}
	}
	if len(db.damage) > 0 {
		l.problem(libpodState, errors.Join(db.damage...))
	}
}

func (l *storageLoader) libpodSQLite(ctx context.Context) {
	db, err := openSQLite(ctx, l.store.path, libpodSQL)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		l.problem(libpodSQL, err)
		return
	}
	defer db.Close()
	for row := range db.rows("ContainerConfig", "ID", "JSON") {
		if ctx.Err() != nil {
			return
		}
		id := string(row[0])
		_, wanted := l.store.containers[id]
		if _, known := l.store.libpod[id]; wanted && !known {
			l.libpodConfig(libpodSQL, id, row[1])
		}
	}
	if len(db.damage) > 0 {
		l.problem(libpodSQL, errors.Join(db.damage...))
	}
}

// libpodConfig decodes a container's record in a database.
func (l *storageLoader) libpodConfig(db, id string, raw []byte) {
	var c libpodConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		l.problem("container "+id+" in "+db, err)
		return
	}
	l.store.libpod[id] = c
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
