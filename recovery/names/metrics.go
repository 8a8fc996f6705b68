package names

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// seconds is the time for limiters.
func seconds() uint32 { return uint32(time.Now().Unix()) }

// sample shows one answer.
func (s *Server) sample(q *query, client netip.AddrPort, tcp bool, v verdict) {
	one := Sample{Client: client, TCP: tcp, From: v.from.String()}
	if q.wire != nil {
		one.Name, one.Type = textName(q.wire), typeName(q.typ)
	}
	if v.n > 0 {
		one.Rcode = dns.RcodeToString[v.rcode]
	}
	s.o.Sample(one)
}

// WriteMetrics writes what the server counts in Prometheus' text format, version 0.0.4.
func (s *Server) WriteMetrics(w io.Writer) error {
	var b bytes.Buffer
	head := func(name, kind, help string) {
		fmt.Fprintf(&b, "# HELP blackstart_dns_%s %s\n# TYPE blackstart_dns_%s %s\n", name, help, name, kind)
	}
	all := []*counts{&s.counts}
	for _, u := range s.sockets {
		all = append(all, &u.counts)
	}
	head("answers_total", "counter", "Answers sent, by where they come from and their RCODE.")
	for from := range sources {
		for rcode := range rcodes {
			n := uint64(0)
			for _, c := range all {
				n += c.answers[from][rcode].Load()
			}
			if n > 0 {
				fmt.Fprintf(&b, "blackstart_dns_answers_total{from=%q,rcode=%q} %d\n", from, rcodeLabel(rcode), n)
			}
		}
	}
	for what, help := range [countOthers][2]string{
		countDropped:  {"dropped_total", "Queries that got no answer: malformed, or over the rate."},
		countSlipped:  {"slipped_total", "Queries over the rate that were sent to TCP."},
		countUnsent:   {"unsent_total", "Answers that could not be sent."},
		countForward:  {"forwarded_total", "Queries for which upstream was to be asked."},
		countOverload: {"overload_total", "Queries answered without upstream because too many waited for it."},
	} {
		n := uint64(0)
		for _, c := range all {
			n += c.others[what].Load()
		}
		head(help[0], "counter", help[1])
		fmt.Fprintf(&b, "blackstart_dns_%s %d\n", help[0], n)
	}
	s.upstreamMetrics(&b, head)
	head("tcp_connections", "gauge", "Open TCP connections.")
	fmt.Fprintf(&b, "blackstart_dns_tcp_connections %d\n", s.conns.count())
	if set := s.set.Load(); set != nil {
		head("names", "gauge", "Names in the data.")
		fmt.Fprintf(&b, "blackstart_dns_names %d\n", set.Names())
		head("records", "gauge", "Records in the data.")
		fmt.Fprintf(&b, "blackstart_dns_records %d\n", set.Records())
		if t := set.Oldest(); !t.IsZero() {
			head("oldest_observed_timestamp_seconds", "gauge", "When the oldest name of the data was observed.")
			fmt.Fprintf(&b, "blackstart_dns_oldest_observed_timestamp_seconds %d\n", t.Unix())
		}
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("writing metrics: %w", err)
	}
	return nil
}

func (s *Server) upstreamMetrics(b *bytes.Buffer, head func(name, kind, help string)) {
	if len(s.up.list) == 0 {
		return
	}
	for _, m := range []struct {
		name, kind, help string
		value            func(*upstream) uint64
	}{
		{"upstream_answers_total", "counter", "Answers from upstream.", func(u *upstream) uint64 { return u.answers.Load() }},
		{"upstream_denials_total", "counter", "Answers from upstream that a name does not exist.", func(u *upstream) uint64 { return u.denials.Load() }},
		{"upstream_failures_total", "counter", "Queries that upstream did not answer, or with an error.", func(u *upstream) uint64 { return u.failed.Load() }},
		{"upstream_mismatched_total", "counter", "Answers to something that was not asked.", func(u *upstream) uint64 { return u.spoofed.Load() }},
		{"upstream_left_alone", "gauge", "1 while upstream is left alone because it failed.", func(u *upstream) uint64 {
			if u.open() {
				return 1
			}
			return 0
		}},
	} {
		head(m.name, m.kind, m.help)
		for _, u := range s.up.list {
			fmt.Fprintf(b, "blackstart_dns_%s{upstream=%q} %d\n", m.name, u.addr, m.value(u))
		}
	}
}
