package access

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// processor is how long this process has computed.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDecide10000 is of somebody in 32 groups, and each time of another service.
func BenchmarkDecide10000(b *testing.B) {
	p := compileText(b, large(10_000))
	s := Subject{User: "u0", UID: 1000, Principals: []string{"p4", "p9"}}
	for i := range 32 {
		s.Unix = append(s.Unix, fmt.Sprintf("team%d", i))
		s.GIDs = append(s.GIDs, 2000+i)
	}
	i := 0
	began := processor()
	for b.Loop() {
		i = (i + 7) % 10_000
		p.Decide(noon, s, "run", fmt.Sprintf("svc-%d", i), nil)
	}
	b.ReportMetric(float64((processor()-began).Nanoseconds())/float64(b.N), "core-ns/op")
}
