package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSQLiteJournalEnds has journals that are not valid to their end.
func TestSQLiteJournalEnds(t *testing.T) {
	const page, sector = 512, 1024
	record := func(nonce uint32, id int) []byte {
		raw := make([]byte, 4+page+4)
		binary.BigEndian.PutUint32(raw, uint32(id))                            //nolint:gosec // small
		binary.BigEndian.PutUint32(raw[4+page:], nonce+uint32(0x10)+uint32(7)) // of the bytes at 312 and 112
		raw[4+312], raw[4+112] = 0x10, 7
		return raw
	}
	segment := func(count, nonce uint32, records ...[]byte) []byte {
		raw := make([]byte, sector)
		copy(raw, sqliteJournalMagic)
		for i, n := range []uint32{count, nonce, 40, sector, page} {
			binary.BigEndian.PutUint32(raw[8+4*i:], n)
		}
		raw = append(raw, slices.Concat(records...)...)
		return append(raw, make([]byte, (sector-len(raw)%sector)%sector)...)
	}
	for name, c := range map[string]struct {
		journal []byte
		want    []uint32 // the pages undone
		damage  string
	}{
		"two segments":       {slices.Concat(segment(2, 5, record(5, 2), record(5, 3)), segment(1, 9, record(9, 4))), []uint32{2, 3, 4}, ""},
		"second not flushed": {slices.Concat(segment(1, 5, record(5, 2)), segment(0, 9, record(9, 4))), []uint32{2}, ""},
		"never flushed":      {segment(sqliteJournalAll, 5, record(5, 2), record(5, 3))[:sector+2*(page+8)], []uint32{2, 3}, ""},
		"a page added since": {segment(2, 5, record(5, 40), record(5, 41)), []uint32{40}, ""},
		"of another nonce":   {segment(3, 5, record(5, 2), record(6, 3), record(5, 4)), []uint32{2}, "record 1 of 3 is damaged"},
		"no page":            {segment(2, 5, record(5, 0), record(5, 4)), nil, "record 0 of 2 is damaged"},
		"cut":                {segment(2, 5, record(5, 2), record(5, 3))[:sector+page+20], []uint32{2}, "ends at record 1 of 2"},
		"zeros":              {slices.Concat(make([]byte, sector), record(5, 2)), nil, ""},
		"nonsense":           {slices.Concat([]byte("x"), make([]byte, sector)), nil, "no header"},
		"sectors of 0 bytes": {slices.Concat(segment(1, 5, record(5, 2))[:20], make([]byte, 2*sector)), nil, "sectors of 0"},
	} {
		db := &sqliteDB{copies: sqliteCopies{journal: section(c.journal)}, pageSize: page, moved: map[uint32]sqlitePlace{}}
		undone, err := db.rollBack(context.Background())
		got := slices.Sorted(maps.Keys(db.moved))
		if err != nil || !slices.Equal(got, c.want) || undone != (db.pages == 40) {
			t.Errorf("%s: rollBack() = %t, %v with the pages %v of %d; want %v of 40", name, undone, err, got, db.pages, c.want)
		}
		if said := fmt.Sprint(errors.Join(db.damage...)); c.damage == "" && len(db.damage) > 0 || !strings.Contains(said, c.damage) {
			t.Errorf("%s: damage %s; want %q", name, said, c.damage)
		}
	}
}

func TestSQLiteVarint(t *testing.T) {
	for raw, want := range map[string]struct {
		value  uint64
		length int
	}{
		"":                                     {0, 0},
		"\x7f\xff":                             {127, 1},
		"\x81\x00":                             {128, 2},
		"\x81":                                 {0, 0},
		"\x87\x68":                             {1000, 2},
		"\xff\xff\xff\xff\xff\xff\xff\xff\xfe": {1<<64 - 2, 9},
		"\x80\x80\x80\x80\x80\x80\x80\x80\x81\x01": {0x81, 9},
	} {
		if value, length := sqliteVarint([]byte(raw)); value != want.value || length != want.length {
			t.Errorf("sqliteVarint(%x) = %d, %d; want %d, %d", raw, value, length, want.value, want.length)
		}
	}
}

// TestSQLiteSharedBytes has a page of many rows that all claim the same bytes.
func TestSQLiteSharedBytes(t *testing.T) {
	raw := make([]byte, 4096)
	raw[0] = sqliteLeaf
	binary.BigEndian.PutUint16(raw[3:], 100)
	for i := range 100 {
		binary.BigEndian.PutUint16(raw[8+2*i:], 3000)
	}
	// 1000 bytes: row 1, a record's header of 3 bytes, a text of 997.
	copy(raw[3000:], []byte{0x87, 0x68, 1, 3, 0x8f, 0x57})
	rows := 0
	db := &sqliteDB{usable: len(raw)}
	w := sqliteWalk{db: db, yield: func(sqliteRecord) bool { rows++; return true }}
	if w.leaf(2, raw, 8, 100); rows != 3 || len(db.damage) != 1 || !strings.Contains(db.damage[0].Error(), "97 of 100 rows") {
		t.Errorf("leaf = %d rows, damage %v; want 3 and the others refused", rows, db.damage)
	}
}

func TestSQLiteColumns(t *testing.T) {
	for statement, want := range map[string][]string{
		"CREATE TABLE t(a, b)": {"a", "b"},
		"CREATE TABLE \"t(x\" (\n\tId TEXT PRIMARY KEY NOT NULL,\n\tJson TEXT CHECK (x IN (1,2)),\n\tFOREIGN KEY (Id) REFERENCES o(Id))": {"Id", "Json"},
		"CREATE TABLE t(-- a, (\n[b c] INT, /* d, */ `e``f` DECIMAL(3, 4), 'g', \"primary\" INT, CONSTRAINT x UNIQUE (a))":               {"b c", "e`f", "g", "primary"},
		"CREATE TABLE t(größe, _x$1 INT) STRICT": {"größe", "_x$1"},
		"CREATE TABLE t(a, \"b":                  {"a", "b"},
		"":                                       nil,
	} {
		if got := sqliteColumns(statement); !slices.Equal(got, want) {
			t.Errorf("sqliteColumns(%q) = %q; want %q", statement, got, want)
		}
	}
}

// meddler is asked whether it ended before each file is copied.
type meddler struct {
	context.Context
	asked func()
}

func (m meddler) Err() error {
	m.asked()
	return m.Context.Err()
}

// TestSQLiteCopiesOfOneMoment changes a database after it was copied, while its
// journal is.
func TestSQLiteCopiesOfOneMoment(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("db.sql", "old")
	write("db.sql-journal", "old")
	for name, c := range map[string]struct {
		change func(asked int)
		want   error
	}{
		"once": {func(asked int) {
			if asked == 2 {
				write("db.sql", "new one")
				write("db.sql-journal", "new one")
			}
		}, nil},
		"always": {func(asked int) {
			write("db.sql-wal", strings.Repeat("x", asked))
			write("db.sql", strings.Repeat("y", asked))
		}, errUnsettled},
	} {
		asked := 0
		copies, err := copySQLite(meddler{context.Background(), func() { asked++; c.change(asked) }}, dir, "db.sql")
		if !errors.Is(err, c.want) {
			t.Errorf("%s: copySQLite() = %v; want %v", name, err, c.want)
		}
		if c.want == nil {
			for _, file := range []*io.SectionReader{copies.db, copies.journal} {
				if data, err := io.ReadAll(file); err != nil || string(data) != "new one" {
					t.Errorf("%s: copied %q, %v; want new one", name, data, err)
				}
			}
		}
		if err := copies.Close(); err != nil {
			t.Error(err)
		}
	}
}
