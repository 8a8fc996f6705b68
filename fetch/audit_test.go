package fetch

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestProbe(t *testing.T) {
	content := pattern(300_000)
	d := digest.FromBytes(content)
	good := &shelf{name: "good", blobs: map[digest.Digest][]byte{d: content}}
	liar := &shelf{name: "liar", blobs: good.blobs, answer: flip}
	down := &shelf{name: "down", blobs: good.blobs, answer: refuse}
	long := &shelf{name: "long", blobs: good.blobs, answer: func(_ context.Context, _ digest.Digest, _ int64, b []byte) ([]byte, error) {
		return append(b, 1), nil
	}}
	empty := &shelf{name: "empty"}
	for _, c := range []struct {
		s    Source
		size int64
		deep bool
		want error
	}{
		{good, 300_000, false, nil},
		{good, 300_000, true, nil},
		{good, -1, true, nil},
		{good, 5, false, ErrVerification},
		{liar, 300_000, false, nil},
		{liar, 300_000, true, ErrVerification},
		{long, 300_000, true, ErrVerification},
		{empty, 300_000, false, ErrNotFound},
		{empty, 300_000, true, ErrNotFound},
	} {
		if err := Probe(t.Context(), c.s, d, c.size, c.deep); !errors.Is(err, c.want) {
			t.Errorf("Probe(%s, %d, %v) = %v; want %v", c.s, c.size, c.deep, err, c.want)
		}
	}
	if err := Probe(t.Context(), down, d, -1, true); err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrVerification) {
		t.Errorf("Probe() of a source that is down = %v", err)
	}
	if b, err := ReadBlob(t.Context(), good, d, 300_000); err != nil || !bytes.Equal(b, content) {
		t.Errorf("ReadBlob() gave %d bytes, %v; want the content", len(b), err)
	}
	if _, err := ReadBlob(t.Context(), good, d, 299_999); !errors.Is(err, ErrVerification) {
		t.Errorf("ReadBlob() over the limit = %v; want %v", err, ErrVerification)
	}
	if _, err := ReadBlob(t.Context(), liar, d, 300_000); !errors.Is(err, ErrVerification) {
		t.Errorf("ReadBlob() of wrong bytes = %v; want %v", err, ErrVerification)
	}
}
