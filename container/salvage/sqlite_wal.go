package salvage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
)

// A write-ahead log (section 4 of the file format) has pages that are newer than
// the file's. Podman 4.5 made its database so, and a database stays so.
//
// It is a header of 32 bytes (magic u32, version u32, page size u32, sequence
// u32, salts u32 u32, checksum u32 u32), then frames: page number u32, pages of
// the database after this commit or 0 u32, the header's salts, checksum u32 u32,
// page. A checksum runs on from that of the frame before, in words of the byte
// order that the magic's last bit names. Frames of an earlier use of the file
// have other salts.
const (
	sqliteWALMagic   = 0x377f0682
	sqliteWALVersion = 3007000
	sqliteWALHeader  = 32
	sqliteWALFrame   = 24
)

// sqliteWAL is a log that is being read.
type sqliteWAL struct {
	file     io.ReaderAt
	order    binary.ByteOrder
	salts    uint64
	sum      [2]uint32 // up to the frame that was read last
	pageSize int64
}

// overlay takes the pages of the log's committed transactions for those that
// there were. undone says that a rollback journal was found too, whose page size
// is then the right one.
func (db *sqliteDB) overlay(ctx context.Context, undone bool) error {
	if db.copies.wal == nil {
		return nil
	}
	var head [sqliteWALHeader]byte
	if _, err := db.copies.wal.ReadAt(head[:], 0); errors.Is(err, io.EOF) {
		return nil // emptied, or its very first write was cut: nothing is committed
	} else if err != nil {
		return fmt.Errorf("write-ahead log: %w", err)
	}
	w, err := newSQLiteWAL(db.copies.wal, head[:])
	if err == nil && undone && w.pageSize != db.pageSize {
		err = fmt.Errorf("pages of %d bytes, not of %d", w.pageSize, db.pageSize)
	}
	if err != nil {
		db.broken(fmt.Errorf("write-ahead log: %w: none of it is read", err))
		return nil
	}
	at, frame, open := int64(sqliteWALHeader), make([]byte, sqliteWALFrame+w.pageSize), map[uint32]sqlitePlace{}
	for ; ; at += int64(len(frame)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := w.file.ReadAt(frame, at); err != nil || !w.next(frame) {
			break // the end, if no commit follows
		}
		open[binary.BigEndian.Uint32(frame)] = sqlitePlace{w.file, at + sqliteWALFrame}
		if pages := binary.BigEndian.Uint32(frame[4:]); pages > 0 {
			maps.Copy(db.moved, open)
			clear(open)
			db.pageSize, db.pages = w.pageSize, pages
		}
	}
	if w.commitFrom(at) {
		db.broken(fmt.Errorf("write-ahead log: damaged at offset %d: the transactions after it are lost", at))
	}
	return nil
}

// newSQLiteWAL checks a log's header.
func newSQLiteWAL(file io.ReaderAt, head []byte) (*sqliteWAL, error) {
	w := &sqliteWAL{file: file, order: binary.LittleEndian, pageSize: int64(binary.BigEndian.Uint32(head[8:]))}
	magic, version := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
	if magic&1 != 0 {
		w.order = binary.BigEndian
	}
	if magic&^1 != sqliteWALMagic || version != sqliteWALVersion || !sqlitePageSize(w.pageSize) {
		return nil, fmt.Errorf("header of magic %#x, version %d, pages of %d bytes", magic, version, w.pageSize)
	}
	w.salts = binary.BigEndian.Uint64(head[16:])
	w.add(head[:24])
	if !w.sums(head[24:]) {
		return nil, errors.New("header's checksum is wrong")
	}
	return w, nil
}

// next reports whether a frame is the next of the log.
func (w *sqliteWAL) next(frame []byte) bool {
	if binary.BigEndian.Uint32(frame) == 0 || binary.BigEndian.Uint64(frame[8:]) != w.salts {
		return false
	}
	w.add(frame[:8])
	w.add(frame[sqliteWALFrame:])
	return w.sums(frame[16:])
}

// add continues the checksum over bytes, a multiple of 8.
func (w *sqliteWAL) add(raw []byte) {
	for ; len(raw) >= 8; raw = raw[8:] {
		w.sum[0] += w.order.Uint32(raw) + w.sum[1]
		w.sum[1] += w.order.Uint32(raw[4:]) + w.sum[0]
	}
}

func (w *sqliteWAL) sums(raw []byte) bool {
	return w.sum[0] == binary.BigEndian.Uint32(raw) && w.sum[1] == binary.BigEndian.Uint32(raw[4:])
}

// commitFrom reports whether a frame at an offset or later ends a transaction.
// What a crash or a rollback leaves at a log's end has no such frame.
func (w *sqliteWAL) commitFrom(at int64) bool {
	var head [sqliteWALFrame]byte
	for ; ; at += sqliteWALFrame + w.pageSize {
		if _, err := w.file.ReadAt(head[:], at); err != nil {
			return false
		}
		if binary.BigEndian.Uint64(head[8:]) == w.salts && binary.BigEndian.Uint32(head[4:]) > 0 {
			return true
		}
	}
}
