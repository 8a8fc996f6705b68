package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// This file and its sqlite_ neighbours read SQLite 3 databases (Podman's state)
// without SQLite, which is C, or megabytes of Go made from it. Only rows of
// ordinary tables are read, never through an index. Pages are checked as by
// bolt.go: each is read at most once and is lost alone.
//
// Format, big endian (https://www.sqlite.org/fileformat2.html): page 1 begins
// with a header of 100 bytes: magic, page size u16 at 16 (1 is 65536), bytes
// reserved in each page u8 at 20, text encoding u32 at 56. All else is in pages,
// numbered from 1.
const (
	sqliteMagic   = "SQLite format 3\x00"
	sqliteHeader  = 100
	sqliteUTF8    = 1
	sqliteDamages = 20 // reported of one database
)

// errSQLite marks bytes that no SQLite database has.
var errSQLite = errors.New("not a SQLite 3 database")

// sqliteDB is a private copy of a SQLite database as of its last commit.
type sqliteDB struct {
	copies   sqliteCopies
	pageSize int64
	usable   int    // bytes of a page that hold content
	pages    uint32 // how many the database has
	// moved has the pages whose content is not the file's: what the rollback
	// journal restores, and over that what the write-ahead log has.
	moved  map[uint32]sqlitePlace
	read   map[uint32]struct{} // pages that the table being read owns
	damage []error             // what was unreadable so far, the first [sqliteDamages]
}

// sqlitePlace is where a page begins.
type sqlitePlace struct {
	file io.ReaderAt
	at   int64
}

// openSQLite copies a database below root with its journals and undoes, in
// memory, the transaction that was under way. The error is for a file that cannot
// be read at all; damage within it shows in db.damage as rows are read.
func openSQLite(ctx context.Context, root, name string) (*sqliteDB, error) {
	copies, err := copySQLite(ctx, root, name)
	if err != nil && !errors.Is(err, errUnsettled) {
		return nil, err
	}
	db, openErr := newSQLite(ctx, copies)
	if openErr != nil {
		return nil, errors.Join(openErr, copies.Close())
	}
	if err != nil {
		db.broken(err)
	}
	return db, nil
}

// newSQLite reads the journals and the header of copies, which it then owns. It
// takes the journals in SQLite's own order.
func newSQLite(ctx context.Context, copies sqliteCopies) (*sqliteDB, error) {
	db := &sqliteDB{copies: copies, moved: map[uint32]sqlitePlace{}}
	var head [sqliteHeader]byte
	if _, err := copies.db.ReadAt(head[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	db.pageSize = sqliteHeadSize(head[:])
	undone, err := db.rollBack(ctx)
	if err != nil {
		return nil, err
	}
	size := copies.db.Size()
	if !undone && sqlitePageSize(db.pageSize) {
		db.pages = uint32(size / db.pageSize) // of at most maxDatabase
	}
	if err := db.overlay(ctx, undone); err != nil {
		return nil, err
	}
	if size == 0 {
		err := errors.New("database has 0 bytes, as after a power loss")
		if len(db.moved) == 0 {
			return nil, err
		}
		db.broken(err)
	}
	return db, db.header()
}

// Close frees the copies.
func (db *sqliteDB) Close() error { return db.copies.Close() }

// broken notes damage.
func (db *sqliteDB) broken(err error) {
	switch len(db.damage) {
	case sqliteDamages:
	case sqliteDamages - 1:
		db.damage = append(db.damage, errors.New("and more damage"))
	default:
		db.damage = append(db.damage, err)
	}
}

// header checks page 1.
func (db *sqliteDB) header() error {
	if !sqlitePageSize(db.pageSize) {
		return fmt.Errorf("page size of %d bytes: %w", db.pageSize, errSQLite)
	}
	raw, err := db.rawPage(1)
	if err != nil {
		return err
	}
	encoding := binary.BigEndian.Uint32(raw[56:])
	switch {
	case string(raw[:len(sqliteMagic)]) != sqliteMagic:
		return fmt.Errorf("page 1: magic %q: %w", raw[:len(sqliteMagic)], errSQLite)
	case sqliteHeadSize(raw) != db.pageSize:
		return fmt.Errorf("page 1: pages of %d bytes, not of %d: %w", sqliteHeadSize(raw), db.pageSize, errSQLite)
	case encoding != sqliteUTF8 && encoding != 0: // 0 in one without a table
		return fmt.Errorf("page 1: text encoding %d is not UTF-8 (%d)", encoding, sqliteUTF8)
	}
	db.usable = len(raw) - int(raw[20])
	if db.usable < 480 {
		return fmt.Errorf("page 1: %d bytes of %d are reserved: %w", raw[20], len(raw), errSQLite)
	}
	return nil
}

// sqliteHeadSize is the page size that the database's header says.
func sqliteHeadSize(head []byte) int64 {
	size := int64(binary.BigEndian.Uint16(head[16:]))
	if size == 1 {
		return 1 << 16
	}
	return size
}

func sqlitePageSize(n int64) bool { return n >= 1<<9 && n <= 1<<16 && n&(n-1) == 0 }

// page reads what a page holds of content. A page read before belongs to other
// rows: following it again would let a crafted file never end.
func (db *sqliteDB) page(id uint32) ([]byte, error) {
	if _, again := db.read[id]; again {
		return nil, fmt.Errorf("page %d: used twice", id)
	}
	raw, err := db.rawPage(id)
	if err != nil {
		return nil, err
	}
	db.read[id] = struct{}{}
	return raw[:db.usable], nil
}

// rawPage reads a page as of the last commit.
func (db *sqliteDB) rawPage(id uint32) ([]byte, error) {
	if id == 0 || id > db.pages {
		return nil, fmt.Errorf("page %d: beyond the end of the database", id)
	}
	place, moved := db.moved[id]
	if !moved {
		place = sqlitePlace{db.copies.db, int64(id-1) * db.pageSize}
	}
	raw := make([]byte, db.pageSize)
	if _, err := place.file.ReadAt(raw, place.at); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, boltTruncated(err))
	}
	return raw, nil
}
