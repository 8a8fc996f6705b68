package salvage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// A table is a tree of pages (section 1.6 of the file format), which begin after
// page 1's header with: kind u8, free u16, cells u16, start u16, fragments u8, in
// interior pages the rightmost child u32, then an offset u16 for each cell. An
// interior cell is: child u32, key varint. A leaf's is: payload size varint, row
// number varint, payload, and if that does not fit, the number u32 of the first
// overflow page. Such a page is: next page u32, payload.
const (
	sqliteInterior   = 0x05
	sqliteLeaf       = 0x0d
	sqliteMaxDepth   = 20
	sqliteMaxPayload = boltMaxPage // bytes of one row
	sqliteMaxRows    = 1 << 20     // of one table
)

// sqliteWalk is one pass through a table.
type sqliteWalk struct {
	db    *sqliteDB
	rows  int
	yield func(sqliteRecord) bool
}

// walk calls yield with the rows of the table whose root is a page, until it
// returns false. A page that cannot be read costs only the rows under it.
func (db *sqliteDB) walk(root uint32, yield func(sqliteRecord) bool) {
	w := sqliteWalk{db: db, yield: yield}
	w.page(root, 0)
}

// page reads the rows under a page. It reports whether more are wanted.
func (w *sqliteWalk) page(id uint32, depth int) bool {
	raw, err := w.db.page(id)
	if err != nil {
		w.db.broken(err)
		return true
	}
	head := 0
	if id == 1 {
		head = sqliteHeader
	}
	kind, count, cells := raw[head], int(binary.BigEndian.Uint16(raw[head+3:])), head+8
	if kind == sqliteInterior {
		cells = head + 12
	}
	switch {
	case cells+2*count > len(raw):
		w.db.broken(fmt.Errorf("page %d: %d cells do not fit", id, count))
		return true
	case kind == sqliteLeaf:
		return w.leaf(id, raw, cells, count)
	case kind == sqliteInterior && depth < sqliteMaxDepth:
		return w.interior(id, raw, cells, count, depth)
	default:
		w.db.broken(fmt.Errorf("page %d: no part of a table (kind %#x, depth %d)", id, kind, depth))
		return true
	}
}

// interior reads the rows under the children of an interior page.
func (w *sqliteWalk) interior(id uint32, raw []byte, cells, count, depth int) bool {
	bad := 0
	for i := range count {
		at := int(binary.BigEndian.Uint16(raw[cells+2*i:]))
		if at < cells+2*count || at+4 > len(raw) {
			bad++
			continue
		}
		if !w.page(binary.BigEndian.Uint32(raw[at:]), depth+1) {
			return false
		}
	}
	if bad > 0 {
		w.db.broken(fmt.Errorf("page %d: %d of %d children are damaged", id, bad, count))
	}
	return w.page(binary.BigEndian.Uint32(raw[cells-4:]), depth+1)
}

// leaf reads the rows of a leaf page. A bad one costs only itself.
func (w *sqliteWalk) leaf(id uint32, raw []byte, cells, count int) bool {
	bad, used := 0, cells+2*count
	var first error
	for i := range count {
		if w.rows++; w.rows > sqliteMaxRows {
			w.db.broken(fmt.Errorf("table has more than the %d rows allowed", sqliteMaxRows))
			return false
		}
		at := int(binary.BigEndian.Uint16(raw[cells+2*i:]))
		payload, size, err := w.db.cell(raw, at, cells+2*count)
		// Bytes shared by thousands of cells would make a small file expand.
		if used += size; err == nil && used > len(raw) {
			err = errors.New("cells overlap")
		}
		var record sqliteRecord
		if err == nil {
			record, err = newSQLiteRecord(payload)
		}
		if err != nil {
			bad++
			if first == nil {
				first = fmt.Errorf("row %d: %w", i, err)
			}
			continue
		}
		if !w.yield(record) {
			return false
		}
	}
	if bad > 0 {
		w.db.broken(fmt.Errorf("page %d: %d of %d rows are damaged: %w", id, bad, count, first))
	}
	return true
}

// cell returns the payload of the leaf cell at an offset, which must not be
// before from, and how many bytes of the page the cell has.
func (db *sqliteDB) cell(raw []byte, at, from int) ([]byte, int, error) {
	if at < from || at >= len(raw) {
		return nil, 0, fmt.Errorf("at offset %d of its page", at)
	}
	claim, n := sqliteVarint(raw[at:])
	_, m := sqliteVarint(raw[at+n:])
	if claim > sqliteMaxPayload || n == 0 || m == 0 {
		return nil, 0, fmt.Errorf("%d bytes are not allowed", claim)
	}
	size, start := int(claim), at+n+m // bounded above
	local := db.local(size)
	end := start + local
	if end > len(raw) || local < size && end+4 > len(raw) {
		return nil, 0, fmt.Errorf("%d bytes do not fit the page", local)
	}
	if local == size {
		return raw[start:end:end], end - at, nil
	}
	payload := slices.Clone(raw[start:end])
	for next := binary.BigEndian.Uint32(raw[end:]); len(payload) < size; {
		page, err := db.page(next)
		if err != nil {
			return nil, end + 4 - at, fmt.Errorf("overflow: %w", err)
		}
		next = binary.BigEndian.Uint32(page)
		page = page[4:]
		payload = append(payload, page[:min(len(page), size-len(payload))]...)
	}
	return payload, end + 4 - at, nil
}

// local is how much of a payload is in the leaf page itself.
func (db *sqliteDB) local(size int) int {
	most, least := db.usable-35, (db.usable-12)*32/255-23
	if size <= most {
		return size
	}
	if local := least + (size-least)%(db.usable-4); local <= most {
		return local
	}
	return least
}

// sqliteVarint decodes the number that bytes begin with, and returns its length:
// 7 bits in each byte, the highest first, in a ninth all 8. The length is 0 if
// bytes end within it.
func sqliteVarint(raw []byte) (uint64, int) {
	var value uint64
	for i, b := range raw {
		if i == 8 {
			return value<<8 | uint64(b), 9
		}
		value = value<<7 | uint64(b&0x7f)
		if b < 0x80 {
			return value, i + 1
		}
	}
	return 0, 0
}
