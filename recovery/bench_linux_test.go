package recovery

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

// BenchmarkIssueRecorded has 64 ask at once; each gets its certificate when its line is on disk.
func BenchmarkIssueRecorded(b *testing.B) {
	s := Site{Host: container.Host{Data: b.TempDir()}, Log: slog.New(slog.DiscardHandler)}
	a, j := benchAuthority(b, s)
	r := certs.Request{Service: "etcd", DNS: []string{"etcd.example.org"}}
	b.SetParallelism(32)
	began := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.Issue(time.Now(), r); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "certs/s")
	if got := j.Head().Seq; got != uint64(b.N) {
		b.Errorf("%d certificates left %d entries; want one each", b.N, got)
	}
}

// benchAuthority is an open authority whose every certificate is in the journal.
func benchAuthority(b *testing.B, s Site) (*certs.Authority, *journal.Journal) {
	b.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		b.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(b.TempDir(), "ceremony")
	file := filepath.Join(b.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		b.Fatal(err)
	}
	o := certs.InitOptions{Name: "Example", Now: time.Now(), Scope: certs.Scope{DNS: []string{"example.org"}}}
	o.Custody.Recipients = []string{string(ssh.MarshalAuthorizedKey(sshPub))}
	o.RootCustody = o.Custody
	c, err := certs.Init(o)
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Write(dir); err != nil {
		b.Fatal(err)
	}
	j, err := journal.Open(s.journalPath())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = j.Close() })
	policy, err := certs.ParsePolicy([]byte("service etcd\n dns etcd.example.org\n"))
	if err != nil {
		b.Fatal(err)
	}
	opt := certs.AuthorityOptions{Policy: policy, Record: s.recorder(journal.NewGroup(j), time.Time{})}
	a, _, err := s.openAuthority(c, SessionOptions{Keys: Keys{Identities: []string{file}}}, opt)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(a.Close)
	return a, j
}
