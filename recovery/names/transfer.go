package names

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Key is a TSIG key (RFC 8945).
type Key struct {
	Name      string // fully qualified
	Algorithm string // fully qualified, such as hmac-sha256.
	Secret    string // base64
}

// ParseKey reads a key as tsig-keygen(8) writes it: key "name" { algorithm hmac-sha256; secret "..."; };
//
// Errors: ErrBadData, those of r.
func ParseKey(r io.Reader) (Key, error) {
	text, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return Key{}, fmt.Errorf("reading TSIG key: %w", err)
	}
	find := func(pattern string) string {
		m := regexp.MustCompile(pattern).FindSubmatch(text)
		if m == nil {
			return ""
		}
		return string(m[1])
	}
	k := Key{find(`\bkey\s+"?([^\s"{;]+)"?\s*\{`), find(`\balgorithm\s+"?([^\s";]+)"?\s*;`), find(`\bsecret\s+"?([^\s";]+)"?\s*;`)}
	if _, err := wireName(k.Name); err != nil || k.Secret == "" {
		return Key{}, fmt.Errorf(`reading TSIG key: %w: want key "name" { algorithm hmac-sha256; secret "base64"; };`, ErrBadData)
	}
	k.Name, k.Algorithm = strings.ToLower(dns.Fqdn(k.Name)), strings.ToLower(dns.Fqdn(k.Algorithm))
	switch k.Algorithm {
	case dns.HmacSHA1, dns.HmacSHA224, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512:
		return k, nil
	}
	return Key{}, fmt.Errorf("reading TSIG key: %w: algorithm %q", ErrBadData, k.Algorithm)
}

// transferPatience bounds the wait for each message of a transfer.
const transferPatience = 30 * time.Second

// Transfer gets a whole zone from one of its servers (AXFR, RFC 5936), its SOA record first; key may be nil.
//
// Errors: ErrBadData for what is no zone, ErrTooLarge beyond MaxRecords, those of the connection and of the server.
func Transfer(ctx context.Context, zone string, server netip.AddrPort, key *Key) ([]dns.RR, error) {
	records, err := transfer(ctx, dns.Fqdn(zone), server, key)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("transferring %s from %v: %w", zone, server, err)
	}
	return records, nil
}

func transfer(ctx context.Context, zone string, server netip.AddrPort, key *Key) ([]dns.RR, error) {
	conn, err := (&net.Dialer{Timeout: transferPatience}).DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // which ends what waits for it
	m := new(dns.Msg)
	m.SetAxfr(zone)
	t := &dns.Transfer{Conn: &dns.Conn{Conn: conn}, ReadTimeout: transferPatience, WriteTimeout: transferPatience}
	if key != nil {
		m.SetTsig(key.Name, key.Algorithm, 300, time.Now().Unix())
		t.TsigSecret = map[string]string{key.Name: key.Secret}
	}
	messages, err := t.In(m, "")
	if err != nil {
		return nil, err
	}
	var records []dns.RR
	for e := range messages {
		if err == nil {
			err = e.Error
		}
		if records = append(records, e.RR...); len(records) > MaxRecords && err == nil {
			err = fmt.Errorf("%w: more than %d records", ErrTooLarge, MaxRecords)
		}
		if err != nil {
			_ = conn.Close() // the rest is read only to see the sender end
			records = nil
		}
	}
	if err != nil {
		return nil, err
	}
	// The SOA record is the first and the last.
	if len(records) < 2 || records[0].Header().Rrtype != dns.TypeSOA || records[len(records)-1].Header().Rrtype != dns.TypeSOA {
		return nil, errors.Join(ErrBadData, errors.New("the zone does not begin and end with its SOA record"))
	}
	return records[:len(records)-1], nil
}
