package names

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestSoak has dnsperf ask for names that are there, that are not and that nobody knows, beside garbage and reloads:
// NAMES_SOAK queries, or a few. No query is lost and the memory stays flat.
func TestSoak(t *testing.T) {
	queries := 100_000
	if n, err := strconv.Atoi(os.Getenv("NAMES_SOAK")); err == nil {
		queries = n
	}
	var zone, list strings.Builder
	zone.WriteString("$ORIGIN example.com.\n@ 60 SOA ns h 1 2 3 4 5\n@ NS ns\n*.wild A 10.2.0.1\n")
	for i := range 2000 {
		fmt.Fprintf(&zone, "h%d A 10.1.%d.%d\n", i, i>>8, i&255)
		fmt.Fprintf(&list, "h%d.example.com A\n", i)
		if i%10 == 0 {
			fmt.Fprintf(&list, "no%d.example.com AAAA\nx%d.wild.example.com A\nunknown%d.example ANY\n", i, i, i)
		}
	}
	perRun := strings.Count(list.String(), "\n")
	s := start(t, Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}}, build(t, zone.String()))
	data := write(t, filepath.Join(t.TempDir(), "queries"), list.String())
	other := build(t, zone.String())
	stop := make(chan struct{})
	var rude sync.WaitGroup
	rude.Go(func() {
		c, err := net.Dial("udp", s.Addrs()[0].String())
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		garbage := [][]byte{pack(t, "h1.example.com.", dns.TypeA)[:20], {1, 2, 3}, make([]byte, 3000), make([]byte, 12)}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			c.Write(garbage[i%len(garbage)])
			if i%1000 == 0 {
				set := s.Set()
				s.Swap(other)
				other = set
			}
			time.Sleep(100 * time.Microsecond) // paces it: a flood would only fill the socket's buffer
		}
	})
	run := func(times int) {
		out := toolFor(t, time.Hour, "dnsperf", "-s", "127.0.0.1", "-p", strconv.Itoa(int(s.Addrs()[0].Port())), "-d", data, "-n", strconv.Itoa(times), "-c", "4", "-q", "100")
		lost := regexp.MustCompile(`Queries lost:\s+(\d+)`).FindStringSubmatch(out)
		if lost == nil || lost[1] != "0" {
			t.Errorf("dnsperf lost queries:\n%s", out)
		}
		qps := regexp.MustCompile(`Queries per second:\s+\S+`).FindString(out)
		t.Log(qps)
	}
	held := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	run(max(1, queries/perRun/10))
	before := held()
	run(max(1, queries/perRun))
	after := held()
	close(stop)
	rude.Wait()
	t.Logf("%d kB before, %d kB after", before>>10, after>>10)
	if after > before+4<<20 {
		t.Errorf("memory grew from %d to %d bytes over %d queries", before, after, queries)
	}
}
