package salvage

import (
	"errors"
	"fmt"
)

// sqliteMaxColumns bounds the values of one row. It is SQLite's own default.
const sqliteMaxColumns = 2000

// sqliteRecord is one row, its values in the order of the table's columns
// (section 2.1 of the file format). A row is shorter than the table where columns
// were added later.
type sqliteRecord []sqliteValue

// sqliteValue is one value. Its kind is SQLite's serial type: 0 is NULL, 1 to 6
// are integers of 1, 2, 3, 4, 6, 8 bytes, 7 is a float, 8 and 9 are the integers 0
// and 1, and from 12 on even ones are blobs and odd ones texts.
type sqliteValue struct {
	kind uint64
	raw  []byte
}

// newSQLiteRecord decodes a row: the size of its header varint, the values' kinds
// varint each, the values.
func newSQLiteRecord(payload []byte) (sqliteRecord, error) {
	size, n := sqliteVarint(payload)
	if n == 0 || size < uint64(n) || size > uint64(len(payload)) {
		return nil, fmt.Errorf("header of %d bytes in a record of %d", size, len(payload))
	}
	header, body := payload[n:size], payload[size:]
	var record sqliteRecord
	for len(header) > 0 {
		kind, n := sqliteVarint(header)
		length := sqliteLength(kind)
		if n == 0 || length > uint64(len(body)) || kind == 10 || kind == 11 {
			return nil, fmt.Errorf("value %d of kind %d does not fit", len(record), kind)
		}
		if len(record) == sqliteMaxColumns {
			return nil, errors.New("too many values")
		}
		record = append(record, sqliteValue{kind, body[:length:length]})
		header, body = header[n:], body[length:]
	}
	return record, nil
}

// sqliteLength is the length of a value of a kind, in bytes.
func sqliteLength(kind uint64) uint64 {
	switch {
	case kind >= 12:
		return (kind - 12) / 2
	case kind == 7 || kind == 6:
		return 8
	case kind == 5:
		return 6
	case kind < 5:
		return kind
	default:
		return 0
	}
}

// text is a column's text or blob, nil if it is something else or not there.
func (r sqliteRecord) text(column int) []byte {
	if column >= len(r) || r[column].kind < 12 {
		return nil
	}
	return r[column].raw
}

// page is a column's integer as a page number, 0 if it is something else or not
// there.
func (r sqliteRecord) page(column int) uint32 {
	if column >= len(r) || r[column].kind > 4 {
		return 0
	}
	var id uint32
	for _, b := range r[column].raw {
		id = id<<8 | uint32(b)
	}
	return id
}
