package names

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Origin is the name of the zone that WriteZone writes: the closest one above all names.
func (f *Frozen) Origin() string {
	if len(f.Names) == 0 {
		return "."
	}
	origin := f.Names[0].Name
	for _, n := range f.Names {
		for origin != "." && !dns.IsSubDomain(origin, n.Name) {
			origin = up(origin)
		}
	}
	for _, n := range f.Names {
		if n.Name == origin && n.Records[0].Header().Rrtype == dns.TypeCNAME {
			return up(origin) // an alias has no SOA record beside it
		}
	}
	return origin
}

// up is the name without its first label.
func up(name string) string {
	next, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[next:]
}

// WriteZone writes a zone file (RFC 1035, section 5) that Builder.Zone and any name server read, with FrozenServer in
// its SOA record, and when they were observed behind the records. NS records of names below the origin are comments:
// they would hide what is below them.
//
// Errors: ErrNoNames, those of w.
func (f *Frozen) WriteZone(w io.Writer) error {
	if len(f.Names) == 0 {
		return fmt.Errorf("writing zone: %w", ErrNoNames)
	}
	origin := f.Origin()
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "; Frozen name by name: it says nothing of other names.\n")
	fmt.Fprintf(b, "%s\t%d\tIN\tSOA\t%s nobody.invalid. %d 3600 600 86400 %d\n", origin, looseTTL, FrozenServer, uint32(f.Observed.Unix()), looseTTL)
	fmt.Fprintf(b, "%s\t%d\tIN\tNS\t%s\n", origin, looseTTL, FrozenServer)
	if dns.IsSubDomain(origin, FrozenServer) {
		fmt.Fprintf(b, "%s\t%d\tIN\tA\t127.0.0.1\n", FrozenServer, looseTTL)
	}
	for _, n := range f.Names {
		for _, rr := range n.Records {
			if rr.Header().Rrtype == dns.TypeNS {
				fmt.Fprint(b, "; ")
			}
			writeRecord(b, rr, f.Observed)
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing zone: %w", err)
	}
	return nil
}

func writeRecord(w io.Writer, rr dns.RR, observed time.Time) {
	// The writers here keep their first error.
	fmt.Fprintf(w, "%s ; %s%s\n", strings.ReplaceAll(rr.String(), "\n", " "), observedMark, observed.UTC().Format(time.RFC3339))
}

// WriteTransfer writes the records of a whole zone, as Transfer returns them, as a zone file.
func WriteTransfer(w io.Writer, records []dns.RR, observed time.Time) error {
	b := bufio.NewWriter(w)
	for _, rr := range records {
		writeRecord(b, rr, observed)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("writing zone: %w", err)
	}
	return nil
}
