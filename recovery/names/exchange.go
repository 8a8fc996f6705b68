package names

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/miekg/dns"
)

// maxSpoofed is how many answers to something else one query puts up with before it goes over TCP, where nobody can
// guess (RFC 5452, section 9.1).
const maxSpoofed = 16

var (
	errMismatch  = errors.New("the answer is to another question")
	errCase      = errors.New("the answer has the name in another case")
	errTruncated = errors.New("the answer is truncated")
)

// exchange sends a question and returns the answer, over TCP where UDP does not do. Against spoofed answers it has a
// random id, a source port of its own, and random case in the name, all of which have to come back.
func (u *upstream) exchange(ctx context.Context, q *query) (*dns.Msg, error) {
	msg := q.upstream()
	raw, err := u.exchangeUDP(ctx, msg)
	if errors.Is(err, errTruncated) || errors.Is(err, errMismatch) || errors.Is(err, errCase) {
		raw, err = u.exchangeTCP(ctx, msg)
	}
	if err != nil {
		return nil, err
	}
	// Names in the records may point into the question; they get the client's case back.
	copy(raw[headerSize:], q.wire)
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, rcodeError(m.Rcode)
	}
	return m, nil
}

// upstream is the query as it goes upstream.
func (q *query) upstream() []byte {
	msg := make([]byte, headerSize, headerSize+len(q.wire)+16)
	var random [headerSize + maxName/8 + 1]byte
	_, _ = rand.Read(random[:]) // never fails
	copy(msg, random[:2])
	binary.BigEndian.PutUint16(msg[2:], bitRD|q.flags&bitCD)
	msg[5], msg[11] = 1, 1
	msg = append(msg, q.wire...)
	name := msg[headerSize : headerSize+q.n]
	for at := 0; name[at] != 0; {
		end := at + 1 + int(name[at])
		for i := at + 1; i < end; i++ {
			if c := name[i] | 0x20; c-'a' < 26 {
				name[i] = c &^ (random[headerSize+i/8] >> (i % 8) & 1 << 5)
			}
		}
		at = end
	}
	do := byte(0)
	if q.do {
		do = 0x80
	}
	return append(msg, 0, 0, byte(dns.TypeOPT), udpSize>>8, udpSize&0xff, 0, 0, do, 0, 0, 5,
		hopsOption>>8, hopsOption&0xff, 0, 1, q.hops+1)
}

// verify checks that an answer is to a query: id and question, case and all. It returns errCase where only that differs.
func verify(answer, query []byte) error {
	n := scanName(query[headerSize:])
	end := headerSize + n + 4
	if len(answer) < end || answer[0] != query[0] || answer[1] != query[1] || answer[2]&0xf8 != 0x80 ||
		binary.BigEndian.Uint16(answer[4:]) != 1 {
		return errMismatch
	}
	got, want := answer[headerSize:end], query[headerSize:end]
	switch {
	case bytes.Equal(got, want):
		return nil
	case bytes.EqualFold(got[:n], want[:n]) && bytes.Equal(got[n:], want[n:]):
		return errCase
	}
	return errMismatch
}

func (u *upstream) exchangeUDP(ctx context.Context, query []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", u.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop, err := follow(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, udpSize+1)
	for range maxSpoofed {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		switch err := verify(buf[:n], query); {
		case errors.Is(err, errCase):
			return nil, err // a server that does not keep the case, or a good guess
		case err != nil:
			u.spoofed.Add(1)
			continue
		}
		if buf[2]&(bitTC>>8) != 0 || n > udpSize {
			return nil, errTruncated
		}
		return buf[:n], nil
	}
	return nil, errMismatch
}

func (u *upstream) exchangeTCP(ctx context.Context, query []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop, err := follow(ctx, conn)
	if err != nil {
		return nil, err
	}
	defer stop()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if err := verify(answer, query); err != nil && !errors.Is(err, errCase) {
		return nil, err
	}
	return answer, nil
}

// follow ends what a connection waits for when the context does.
func follow(ctx context.Context, conn net.Conn) (func() bool, error) {
	if d, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(d); err != nil {
			return nil, err
		}
	}
	return context.AfterFunc(ctx, func() {
		_ = conn.SetDeadline(time.Unix(1, 0)) // a closed connection waits for nothing
	}), nil
}
