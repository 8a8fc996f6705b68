package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

type compression int

const (
	plainTar compression = iota
	gzipTar
	zstdTar
	bzip2Tar
	xzTar
)

// maxWindow bounds the memory one zstd stream may ask for, in bytes: what `zstd --long` needs (RFC 8878 asks for 8 MiB).
const maxWindow = 128 << 20

func sniff(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipTar
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		// A skippable frame may come first (zstd:chunked, seekable zstd): 0x184D2A50 to 0x184D2A5F.
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstdTar
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2Tar
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return xzTar
	}
	return plainTar
}

// decompress reads what its first bytes say it is, and says that too. No program of the host is ever started for it.
func decompress(r io.Reader) (io.ReadCloser, compression, error) {
	buf := bufio.NewReaderSize(r, 64<<10)
	head, err := buf.Peek(6)
	if err != nil && err != io.EOF {
		return nil, plainTar, err
	}
	kind := sniff(head)
	switch kind {
	case gzipTar:
		z, err := gzip.NewReader(buf)
		if err != nil {
			return nil, kind, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return z, kind, nil
	case zstdTar:
		z, err := zstd.NewReader(buf, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, kind, err
		}
		return z.IOReadCloser(), kind, nil
	case bzip2Tar:
		return io.NopCloser(bzip2.NewReader(buf)), kind, nil
	case xzTar:
		return nil, kind, fmt.Errorf("%w: xz, decompress it first with `xz -d`", ErrUnsupported)
	default:
		return io.NopCloser(buf), kind, nil
	}
}
