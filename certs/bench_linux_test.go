package certs

import (
	"syscall"
	"testing"
	"time"
)

// processor is how long this process has computed, as openssl speed counts it.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIssue has policy and constraints checked; its rate is that of one core that does nothing else.
func BenchmarkIssue(b *testing.B) {
	a := authority(b, noon, nil)
	withCSR := etcd()
	withCSR.CSR = csrOf(b, "a.etcd.example.org")
	ed := etcd()
	ed.Key = Ed25519
	for name, r := range map[string]Request{"P256Key": etcd(), "Ed25519Key": ed, "P256CSR": withCSR} {
		b.Run(name, func(b *testing.B) {
			began := processor()
			for b.Loop() {
				if _, err := a.Issue(noon, r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/(processor()-began).Seconds(), "certs/core-s")
		})
	}
}
