package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A rollback journal (section 3 of the file format) has the pages that a
// transaction changes, as they were. It is there while one is under way, so also
// after a power loss, when pages of the file may be half the new ones.
//
// It is one or more segments, each at a multiple of the sector size: a header of
// one sector (magic, records u32, nonce u32, pages of the database before u32,
// sector size u32, page size u32), then records: page number u32, page, checksum
// u32. A segment whose number of records is still 0 was not yet flushed: the
// database has nothing of it.
const (
	sqliteJournalMagic  = "\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
	sqliteJournalHeader = 28
	sqliteJournalAll    = 1<<32 - 1 // records to the end of the file, as nothing is flushed
)

// sqliteJournal is a rollback journal that is being read.
type sqliteJournal struct {
	db           *sqliteDB
	size, sector int64
}

// rollBack takes the pages of a hot rollback journal for those of the file, and
// reports whether there is one. A journal of zeros or of no bytes is one whose
// transaction was committed. One over several attached databases, which Podman
// never has, is undone as if it were alone.
func (db *sqliteDB) rollBack(ctx context.Context) (bool, error) {
	if db.copies.journal == nil {
		return false, nil
	}
	j := sqliteJournal{db: db, size: db.copies.journal.Size()}
	for at := int64(0); at+max(j.sector, sqliteJournalHeader) <= j.size; {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		var head [sqliteJournalHeader]byte
		if _, err := db.copies.journal.ReadAt(head[:], at); err != nil {
			return false, fmt.Errorf("rollback journal: %w", err)
		}
		if string(head[:len(sqliteJournalMagic)]) != sqliteJournalMagic {
			if at == 0 && head[0] != 0 {
				db.broken(errors.New("rollback journal: no header, so nothing is undone"))
			}
			break
		}
		if at == 0 && !j.begin(head[:]) {
			break
		}
		end, err := j.segment(ctx, head[:], at+j.sector)
		if err != nil {
			db.broken(fmt.Errorf("rollback journal: %w: what comes after it is not undone", err))
			break
		}
		at = (end + j.sector - 1) / j.sector * j.sector
	}
	return j.sector > 0, ctx.Err()
}

// begin takes the sizes from the first header. It reports whether they are any.
func (j *sqliteJournal) begin(head []byte) bool {
	sector, pageSize := int64(binary.BigEndian.Uint32(head[20:])), int64(binary.BigEndian.Uint32(head[24:]))
	if pageSize == 0 { // written before SQLite 3.6
		pageSize = j.db.pageSize
	}
	if !sqlitePageSize(pageSize) || sector < 32 || sector > 1<<16 || sector&(sector-1) != 0 {
		j.db.broken(fmt.Errorf("rollback journal: pages of %d bytes, sectors of %d: nothing is undone", pageSize, sector))
		return false
	}
	j.sector, j.db.pageSize, j.db.pages = sector, pageSize, binary.BigEndian.Uint32(head[16:])
	return true
}

// segment takes the pages of the segment whose records begin at an offset. It
// returns where they end. Like SQLite it stops at the first bad checksum.
func (j *sqliteJournal) segment(ctx context.Context, head []byte, at int64) (int64, error) {
	count, nonce := int64(binary.BigEndian.Uint32(head[8:])), binary.BigEndian.Uint32(head[12:])
	record := make([]byte, j.db.pageSize+8)
	if count == sqliteJournalAll {
		count = (j.size - at) / int64(len(record))
	}
	for i := range count {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if _, err := j.db.copies.journal.ReadAt(record, at); errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("ends at record %d of %d", i, count)
		} else if err != nil {
			return 0, err
		}
		id, page := binary.BigEndian.Uint32(record), record[4:4+j.db.pageSize]
		if id == 0 || sqliteJournalSum(nonce, page) != binary.BigEndian.Uint32(record[len(record)-4:]) {
			return 0, fmt.Errorf("record %d of %d is damaged", i, count)
		}
		if id <= j.db.pages {
			j.db.moved[id] = sqlitePlace{j.db.copies.journal, at + 4}
		}
		at += int64(len(record))
	}
	return at, nil
}

// sqliteJournalSum is a record's checksum, of every 200th byte from the end.
func sqliteJournalSum(nonce uint32, page []byte) uint32 {
	for i := len(page) - 200; i > 0; i -= 200 {
		nonce += uint32(page[i])
	}
	return nonce
}
