package salvage

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// makeSQLite writes databases with the real library and returns their directory.
func makeSQLite(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("python3", "testdata/databases.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("databases.py: %v\n%s", err, out)
	}
	return dir
}

// readSQLite returns the containers in a database, with the digests of what it
// has of them, and the damage.
func readSQLite(t testing.TB, dir string) (map[string]string, []error, error) {
	t.Helper()
	db, err := openSQLite(context.Background(), dir, "db.sql")
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	return rowsOf(db), db.damage, nil
}

func rowsOf(db *sqliteDB) map[string]string {
	got := map[string]string{}
	for row := range db.rows("ContainerConfig", "ID", "JSON") {
		got[string(row[0])] = digest.FromBytes(row[1]).Encoded()
	}
	return got
}

// TestSQLiteReadsWhatTheLibraryReads compares with SQLite's own reading of
// databases that it wrote, some of them while it was killed, some damaged since.
func TestSQLiteReadsWhatTheLibraryReads(t *testing.T) {
	dir := makeSQLite(t)
	before := fingerprint(t, dir)
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) < 86 {
		t.Fatalf("%d databases, %v; want 86", len(files), err)
	}
	refused := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]string
		if err := json.Unmarshal(raw, &want); err != nil {
			t.Fatal(err)
		}
		got, damage, err := readSQLite(t, filepath.Join(dir, name))
		if want == nil { // SQLite refuses it
			refused++
			if err == nil && len(damage) == 0 {
				t.Errorf("%s: read without a word of damage", name)
			}
			continue
		}
		all := len(want)
		if len(damage) > 0 { // SQLite gives a page to two rows, here the second is lost
			maps.DeleteFunc(want, func(id, _ string) bool { return got[id] == "" })
		}
		if err != nil || all-len(got) > all/4 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d containers, damage %v, %v; want the %d that SQLite reads", name, len(got), damage, err, all)
		}
		if strings.HasPrefix(name, "wal-") && strings.Contains(name, "-flip-") && all < 49 && len(damage) == 0 {
			t.Errorf("%s: %d containers of 49 without a word", name, len(got))
		}
		if len(damage) > 0 && !strings.Contains(name, "-cut-") && !strings.Contains(name, "-flip-") {
			t.Errorf("%s: damage %v; want none", name, damage)
		}
	}
	t.Logf("%d databases, %d of them refused by SQLite", len(files), refused)
	if _, _, err := readSQLite(t, filepath.Join(dir, "utf-16")); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("UTF-16: %v; want it refused", err)
	}
	t.Run("journals are needed", func(t *testing.T) { checkSQLiteJournals(t, dir) })
	t.Run("damaged", func(t *testing.T) { checkSQLiteDamaged(t, dir) })
	t.Run("loop", func(t *testing.T) { checkSQLiteLoop(t, dir) })
	if after := fingerprint(t, dir); !reflect.DeepEqual(after, before) {
		t.Error("a database changed while it was read")
	}
}

// checkSQLiteJournals reads databases without what is beside them: what comes
// then must be wrong, or the comparison above says nothing.
func checkSQLiteJournals(t *testing.T, dir string) {
	for _, name := range []string{"journal", "journal-512", "journal-65536", "journal-off", "journal-several", "wal", "wal-512", "wal-65536", "wal-restarted"} {
		alone := t.TempDir()
		data, err := os.ReadFile(filepath.Join(dir, name, "db.sql"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(alone, "db.sql"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		with, _, _ := readSQLite(t, filepath.Join(dir, name))
		if without, damage, err := readSQLite(t, alone); err == nil && len(damage) == 0 && reflect.DeepEqual(with, without) {
			t.Errorf("%s: the same without its journal", name)
		}
	}
}

// checkSQLiteDamaged cuts a database and changes bytes of it. What is left is
// read, and no row that is wrong without a word, but for a byte within a text.
func checkSQLiteDamaged(t *testing.T, dir string) {
	for _, name := range []string{"default", "page-512"} {
		data, err := os.ReadFile(filepath.Join(dir, name, "db.sql"))
		if err != nil {
			t.Fatal(err)
		}
		sound, _, err := readSQLite(t, filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same each time
		some := 0
		for i := range 30 {
			changed := slices.Clone(data)
			what := "bytes changed"
			if i < 10 {
				changed = changed[:random.IntN(len(changed))]
				what = fmt.Sprintf("cut to %d bytes", len(changed))
			} else {
				for range 1 << (i % 10) {
					changed[random.IntN(len(changed))] ^= 1 << random.IntN(8)
				}
			}
			db, err := newSQLite(context.Background(), sqliteCopies{db: section(changed)})
			if err != nil {
				continue
			}
			got := rowsOf(db)
			if len(got) < len(sound) && len(db.damage) == 0 {
				t.Errorf("%s, %s: %d containers of %d without a word", name, what, len(got), len(sound))
			}
			if len(got) > 0 && len(got) < len(sound) {
				some++
			}
		}
		if some == 0 {
			t.Errorf("%s: all or nothing was read each time; want what is left", name)
		}
	}
}

// checkSQLiteLoop has interior pages that are their own children, and then each
// the child of the one before, deeper than any tree is.
func checkSQLiteLoop(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "page-512", "db.sql"))
	if err != nil {
		t.Fatal(err)
	}
	const page = 512
	for want, child := range map[string]func(id int) int{
		"used twice": func(id int) int { return id },
		"depth 20":   func(id int) int { return id + 1 },
	} {
		changed := slices.Clone(data)
		for id := 2; id < len(data)/page; id++ {
			raw := changed[(id-1)*page : id*page]
			if want == "depth 20" {
				raw[0] = sqliteInterior
			}
			if raw[0] != sqliteInterior {
				continue
			}
			binary.BigEndian.PutUint16(raw[3:], 0)
			binary.BigEndian.PutUint32(raw[8:], uint32(child(id))) //nolint:gosec // small
		}
		db, err := newSQLite(context.Background(), sqliteCopies{db: section(changed)})
		if err != nil {
			t.Fatal(err)
		}
		if rowsOf(db); len(db.damage) == 0 || !strings.Contains(db.damage[0].Error(), want) {
			t.Errorf("damage = %v; want %s", db.damage, want)
		}
	}
}

// TestSQLiteWhileWritten copies a database that a process writes to as fast as it
// can: every copy without damage is of one transaction, whole.
func TestSQLiteWhileWritten(t *testing.T) {
	for _, mode := range []string{"DELETE", "WAL"} {
		dir := t.TempDir()
		cmd := exec.Command("python3", "-c", `import itertools, sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/db.sql", isolation_level=None)
db.execute("PRAGMA synchronous=OFF")
db.execute("PRAGMA journal_mode=" + sys.argv[2])
db.execute("PRAGMA cache_size=5")
db.execute("CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY, JSON TEXT)")
for i in range(40): db.execute("INSERT INTO ContainerConfig VALUES (?, '')", (str(i),))
for n in itertools.count(10**8):
    db.execute("UPDATE ContainerConfig SET JSON = ?", (str(n) * 500,))
    if n == 10**8: print("ready", flush=True)
`, dir, mode)
		ready, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := sync.OnceFunc(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		t.Cleanup(kill)
		if _, err := ready.Read(make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		whole := 0
		for i := range 8 {
			if i == 7 {
				kill() // the last is of a dead writer
			}
			got, damage, err := readSQLite(t, dir)
			if err != nil || len(damage) > 0 {
				continue
			}
			whole++
			records := map[string]bool{}
			for _, record := range got {
				records[record] = true
			}
			if len(got) != 40 || len(records) != 1 {
				t.Errorf("%s: a copy without damage has %d containers of %d transactions; want 40 of one", mode, len(got), len(records))
			}
		}
		if whole == 0 {
			t.Errorf("%s: no copy of 8 was whole", mode)
		}
		t.Logf("%s: %d of 8 copies were whole", mode, whole)
	}
}

func FuzzSQLite(f *testing.F) {
	dir := f.TempDir()
	script := `import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1] + "/db.sql", isolation_level=None)
for line in sys.argv[2:]: db.execute(line)
os.kill(os.getpid(), 9)`
	for i, lines := range [][]string{
		{"PRAGMA cache_size=1", "BEGIN", "UPDATE ContainerConfig SET JSON = hex(zeroblob(2000))"},
		{"PRAGMA journal_mode=WAL", "INSERT INTO ContainerConfig VALUES ('b', 'b', NULL, '{}')"},
	} {
		at := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			f.Fatal(err)
		}
		_ = exec.Command("python3", slices.Concat([]string{
			"-c", script, at, "PRAGMA page_size=512",
			"CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT, PodID TEXT, JSON TEXT NOT NULL)",
			"INSERT INTO ContainerConfig VALUES ('a', 'a', NULL, hex(zeroblob(1000)))",
		}, lines)...).Run() // it ends by a signal
		var seed [3][]byte
		for n, suffix := range []string{"", "-journal", "-wal"} {
			seed[n], _ = os.ReadFile(filepath.Join(at, "db.sql"+suffix)) // where it is there
		}
		if len(seed[0]) == 0 || len(seed[1+i]) == 0 {
			f.Fatalf("seed %d has files of %d, %d and %d bytes", i, len(seed[0]), len(seed[1]), len(seed[2]))
		}
		f.Add(seed[0], seed[1], seed[2])
		f.Add(seed[0], []byte(nil), []byte(nil))
	}
	f.Fuzz(func(t *testing.T, data, journal, wal []byte) {
		copies := sqliteCopies{db: section(data)}
		if len(journal) > 0 {
			copies.journal = section(journal)
		}
		if len(wal) > 0 {
			copies.wal = section(wal)
		}
		db, err := newSQLite(context.Background(), copies)
		if err != nil {
			return
		}
		rowsOf(db)
		if len(db.damage) > sqliteDamages {
			t.Errorf("%d pieces of damage; want %d at most", len(db.damage), sqliteDamages)
		}
	})
}

func section(data []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data)))
}
