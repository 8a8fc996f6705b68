package salvage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"go.etcd.io/bbolt"
)

// podmanSQL makes a db.sql below argv[1] with the container argv[2], whose record
// is argv[3], and dies while a transaction changes that.
const podmanSQL = `import os, signal, sqlite3, sys
root, ident, record = sys.argv[1:]
db = sqlite3.connect(root + "/db.sql", isolation_level=None)
db.execute("PRAGMA foreign_keys=1")
db.executescript("""
CREATE TABLE IDNamespace(ID TEXT PRIMARY KEY NOT NULL);
CREATE TABLE PodConfig(ID TEXT PRIMARY KEY NOT NULL);
CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL,
	FOREIGN KEY (ID) REFERENCES IDNamespace(ID) DEFERRABLE INITIALLY DEFERRED, FOREIGN KEY (PodID) REFERENCES PodConfig(ID));
""")
db.execute("BEGIN EXCLUSIVE")
for i in [ident] + ["%064x" % n for n in range(30)]:
    db.execute("INSERT INTO IDNamespace VALUES (?)", (i,))
    db.execute("INSERT INTO ContainerConfig VALUES (?, ?, NULL, ?)", (i, "name of " + i, record))
db.execute("COMMIT")
db.execute("PRAGMA cache_size=1")
db.execute("BEGIN EXCLUSIVE")
db.execute("UPDATE ContainerConfig SET JSON = replace(JSON, 'restart_', 'other_')")
os.kill(os.getpid(), signal.SIGKILL)
`

// checkStorageSQLite moves Podman's records into a SQLite database, where later
// versions have them.
func checkStorageSQLite(t *testing.T, p *podman) {
	root := p.copied(t)
	spec := func(what string, problems int) *specs.Spec {
		t.Helper()
		store, c, listing := storageOf(t, root)
		if len(listing.Problems) != problems {
			t.Errorf("%s: List() has the problems %v; want %d", what, listing.Problems, problems)
		}
		spec, err := store.Spec(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	want := spec("BoltDB", 0)
	if got := want.Annotations; got[AnnotationRestart] != "on-failure:3" || got[AnnotationHealth] != `["CMD-SHELL","test -e /etc/written"]` {
		t.Errorf("BoltDB: annotations %v; want the restart policy and health check", got)
	}
	bolt, sql := filepath.Join(root, libpodState), filepath.Join(root, libpodSQL)
	record := boltRecord(t, bolt, p.id)
	if err := os.Rename(bolt, bolt+"-old"); err != nil {
		t.Fatal(err)
	}
	makePodmanSQL(t, root, p.id, record)
	before := fingerprint(t, root)
	if got := spec("SQLite", 0); !reflect.DeepEqual(got, want) {
		t.Errorf("SQLite: Spec() has the annotations %v; want %v", got.Annotations, want.Annotations)
	}
	if after := fingerprint(t, root); !reflect.DeepEqual(after, before) {
		t.Error("the store changed while it was read")
	}
	if err := os.WriteFile(bolt, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := spec("SQLite and an empty BoltDB", 1); !reflect.DeepEqual(got, want) {
		t.Errorf("SQLite and an empty BoltDB: Spec() has the annotations %v; want %v", got.Annotations, want.Annotations)
	}
	for _, file := range []string{sql, sql + "-journal"} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	makePodmanSQL(t, root, p.id, strings.ReplaceAll(record, "on-failure", "always"))
	if err := os.Remove(bolt); err != nil {
		t.Fatal(err)
	}
	if got := spec("another SQLite", 0).Annotations[AnnotationRestart]; got != "always:3" {
		t.Errorf("another SQLite: restart policy %q; want always:3", got)
	}
	if err := os.Rename(bolt+"-old", bolt); err != nil {
		t.Fatal(err)
	}
	if got := spec("both", 0); !reflect.DeepEqual(got, want) {
		t.Errorf("both: Spec() has the annotations %v; want %v of the BoltDB", got.Annotations, want.Annotations)
	}
	other := strings.Repeat("0", 64) // a container that the BoltDB does not have
	l := storageLoader{store: &storageStore{path: root, containers: map[string]storageContainer{p.id: {}, other: {}}}}
	l.libpod(context.Background())
	if got := l.store.libpod; got[p.id].RestartPolicy != "on-failure" || got[other].RestartPolicy != "always" {
		t.Errorf("both: libpod() has %+v; want one container's record from each", got)
	}
	if err := errors.Join(os.Remove(sql+"-journal"), os.WriteFile(sql, []byte("nonsense"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if got := spec("BoltDB and nonsense", 0); !reflect.DeepEqual(got, want) {
		t.Errorf("BoltDB and nonsense: Spec() has the annotations %v; want %v", got.Annotations, want.Annotations)
	}
	if err := os.Remove(bolt); err != nil {
		t.Fatal(err)
	}
	if got := spec("nonsense", 1).Annotations[AnnotationRestart]; got != "" {
		t.Errorf("nonsense: restart policy %q; want none", got)
	}
}

func boltRecord(t *testing.T, path, id string) string {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var record string
	if err := db.View(func(tx *bbolt.Tx) error {
		record = string(tx.Bucket([]byte("ctr")).Bucket([]byte(id)).Get([]byte("config")))
		return nil
	}); err != nil || !strings.Contains(record, "on-failure") {
		t.Fatalf("%s has the record %q, %v; want a restart policy in it", path, record, err)
	}
	return record
}

func makePodmanSQL(t *testing.T, root, id, record string) {
	t.Helper()
	out, err := exec.Command("python3", "-c", podmanSQL, root, id, record).CombinedOutput()
	if info, statErr := os.Stat(filepath.Join(root, libpodSQL+"-journal")); statErr != nil || info.Size() < 1000 {
		t.Fatalf("python3: %v, journal %v, %v; want a hot one\n%s", err, info, statErr, out)
	}
}
