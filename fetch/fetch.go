// Package fetch gets bytes whose digest is known from any place that still
// answers.
//
// A [Ref] says which bytes; a [Source] is a hint where they may be and is never
// trusted: what it gives counts only once its digest is right.
package fetch

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
)

// Errors that a [Source] and the functions of this package return, wrapped.
var (
	// ErrNotFound: the source answered, and does not have the blob.
	ErrNotFound = errors.New("not found")
	// ErrNoRange: the source can only give the blob from its beginning.
	ErrNoRange = errors.New("source gives no ranges")
	// ErrVerification: bytes do not have the digest they were asked for by.
	ErrVerification = errors.New("wrong digest")
)

// Ref names bytes by their digest.
type Ref struct {
	// Digest is that of the whole content, not compressed.
	Digest digest.Digest
	// Size is the content's, in bytes; -1 where nobody has said.
	Size int64
	// Chunks are the content's parts in order; none where it is kept whole, as one
	// blob.
	Chunks []Chunk
}

// Chunk is a part of a content: one zstd frame (RFC 8878), kept as a blob of its
// own. The frames one after another are a zstd file.
type Chunk struct {
	Digest digest.Digest // of the frame
	Size   int64         // of the frame, in bytes
	Length int64         // of what the frame decompresses to, in bytes
}

// Source is a place that may have blobs. It is used by several goroutines.
type Source interface {
	// Open reads n bytes of a blob from an offset, or to its end where n is -1. The
	// reader may give fewer, or wrong ones: the caller checks. total is the size of
	// the whole blob in bytes, -1 where the source does not tell. It returns
	// ErrNotFound where the source has no such blob, and ErrNoRange where it
	// answers with another range than the one asked for.
	Open(ctx context.Context, blob digest.Digest, offset, n int64) (body io.ReadCloser, total int64, err error)
	// Stat returns the size of a blob in bytes, -1 where the source does not tell,
	// without reading it.
	Stat(ctx context.Context, blob digest.Digest) (int64, error)
	// String is the source's URL, without any secret in it.
	String() string
	// Close lets go of its connections.
	Close() error
}
