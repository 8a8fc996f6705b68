package names

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// looseTTL is the TTL of names that come without one, and of negative answers about them.
	looseTTL = 30
	// observedMark begins the comment behind a frozen record that says when it was seen, in RFC 3339.
	observedMark = "observed_at="
)

// Zone adds a zone file, up to MaxFile bytes. origin, which may be empty, is what names in it are relative to, and the
// zone's name where the file has no SOA record; file is for messages. $INCLUDE is refused. A file that has neither SOA
// record nor origin, and one that FrozenServer is the server of, holds loose names. A record's comment may say
// observed_at=TIME (RFC 3339); else it was seen at the time given, which may be zero.
//
// Errors: ErrBadData, ErrNoNames, ErrTooLarge, those of r. Then the Builder is of no use any more.
func (b *Builder) Zone(r io.Reader, origin, file string, observed time.Time) error {
	if err := b.zoneFile(r, origin, file, observed); err != nil {
		return fmt.Errorf("reading zone file %s: %w", file, err)
	}
	return nil
}

func (b *Builder) zoneFile(r io.Reader, origin, file string, observed time.Time) error {
	id := uint32(len(b.zones))
	z := zone{partial: true, observed: observed}
	if origin != "" && origin != "." {
		apex, err := wireName(origin)
		if err != nil {
			return err
		}
		z = zone{apex: apex, soa: syntheticSOA(observed), observed: observed}
	}
	// Nothing is partial yet: whether it is shows at the SOA record, which may come last.
	b.zones = append(b.zones, z)
	b.zones[id].partial = false
	limited := &boundedReader{r: r, left: MaxFile}
	p := dns.NewZoneParser(bufio.NewReaderSize(limited, 1<<16), dns.Fqdn(origin), file)
	p.SetDefaultTTL(looseTTL)
	p.SetIncludeAllowed(false)
	var soa *dns.SOA
	begin := b.records
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		seen := observed
		if c := p.Comment(); c != "" {
			seen = observedIn(c, observed)
		}
		if s, ok := rr.(*dns.SOA); ok {
			if soa != nil && !strings.EqualFold(soa.Hdr.Name, s.Hdr.Name) {
				return fmt.Errorf("%w: a second SOA record, for %s", ErrBadData, s.Hdr.Name)
			}
			if soa == nil {
				soa = s
			}
			continue
		}
		if err := b.add(rr, id, seen); err != nil {
			return err
		}
	}
	if limited.err != nil {
		return limited.err
	}
	if err := p.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrBadData, err)
	}
	if soa == nil && b.records == begin {
		return ErrNoNames
	}
	switch {
	case soa != nil && strings.EqualFold(soa.Ns, FrozenServer):
		z = zone{partial: true, observed: observed}
		z.apex, _ = wireName(soa.Hdr.Name)
	case soa != nil:
		apex, err := wireName(soa.Hdr.Name)
		if err != nil {
			return err
		}
		if err := b.add(soa, id, observed); err != nil {
			return err
		}
		z = zone{apex: apex, observed: observed}
	}
	b.zones[id] = z
	if z.apex != nil && !z.partial {
		if err := b.apex(id); err != nil {
			return err
		}
	}
	return nil
}

// apex notes that a name is a full zone's.
func (b *Builder) apex(id uint32) error {
	n := &b.nodes[b.node(b.zones[id].apex)]
	if n.flags&isApex != 0 {
		return fmt.Errorf("%w: zone %s is there twice", ErrBadData, textName(b.zones[id].apex))
	}
	n.flags |= isApex
	n.zone = id
	return nil
}

// Hosts adds a hosts file: an address and its names on each line, the first of which a PTR record gives.
//
// Errors: ErrBadData, ErrNoNames, ErrTooLarge, those of r. Then the Builder is of no use any more.
func (b *Builder) Hosts(r io.Reader, file string, observed time.Time) error {
	limited := &boundedReader{r: r, left: MaxFile}
	lines := bufio.NewScanner(limited)
	begin := b.records
	named := map[netip.Addr]bool{}
	for n := 1; lines.Scan(); n++ {
		line, _, _ := bytes.Cut(lines.Bytes(), []byte("#"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			continue
		}
		bad := func(err error) error { return fmt.Errorf("reading hosts file %s, line %d: %w", file, n, err) }
		addr, err := netip.ParseAddr(words[0])
		if err != nil || len(words) < 2 {
			return bad(fmt.Errorf("%w: want an address and names", ErrBadData))
		}
		addr = addr.Unmap().WithZone("")
		for _, name := range words[1:] {
			if err := b.add(addressRecord(name, addr, looseTTL), 0, observed); err != nil {
				return bad(err)
			}
		}
		if !b.NoPTR && !named[addr] {
			named[addr] = true
			reverse, err := dns.ReverseAddr(addr.String())
			if err != nil {
				return bad(fmt.Errorf("%w: %w", ErrBadData, err))
			}
			h := dns.RR_Header{Name: reverse, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: looseTTL}
			if err := b.add(&dns.PTR{Hdr: h, Ptr: dns.Fqdn(words[1])}, 0, observed); err != nil {
				return bad(err)
			}
		}
	}
	if err := errors.Join(limited.err, lines.Err()); err != nil {
		return fmt.Errorf("reading hosts file %s: %w", file, err)
	}
	if b.records == begin {
		return fmt.Errorf("reading hosts file %s: %w", file, ErrNoNames)
	}
	return nil
}

// observedIn finds the time in a comment.
func observedIn(comment string, otherwise time.Time) time.Time {
	_, rest, ok := strings.Cut(comment, observedMark)
	if !ok {
		return otherwise
	}
	stamp, _, _ := strings.Cut(rest, " ")
	t, err := time.Parse(time.RFC3339, stamp)
	if err != nil {
		return otherwise
	}
	return t
}

// syntheticSOA is the SOA record of data that has none, as in an RRset.
func syntheticSOA(observed time.Time) []byte {
	soa := &dns.SOA{
		Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: looseTTL},
		Ns:  FrozenServer, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: looseTTL,
	}
	if !observed.IsZero() {
		soa.Serial = uint32(observed.Unix())
	}
	buf := make([]byte, 512)
	n, err := dns.PackRR(soa, buf, 0, nil, false)
	if err != nil {
		panic(err) // of constants
	}
	return recordAt(12, buf[1:n])
}

// recordAt is a record without its owner's name, given a pointer to the name at an offset of the message instead.
func recordAt(off uint16, rest []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, 0xc000|off), rest...)
}

// boundedReader fails where a plain LimitReader would pretend that the file ends.
type boundedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		b.err = fmt.Errorf("%w: more than %d bytes", ErrTooLarge, int64(MaxFile))
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}
