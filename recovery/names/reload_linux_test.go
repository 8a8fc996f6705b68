package names

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestFollow(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "zone"), testZone)
	load := func() (*Set, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		b := NewBuilder()
		if err := b.Zone(f, "", path, time.Time{}); err != nil {
			return nil, err
		}
		return b.Build()
	}
	files := Look(path)
	s := start(t, Options{}, build(t, testZone))
	type report struct {
		set *Set
		err error
	}
	reports := make(chan report, 10)
	again := make(chan os.Signal, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		s.Follow(ctx, files, 20*time.Millisecond, again, load, func(set *Set, err error) { reports <- report{set, err} })
	})
	defer wg.Wait()
	defer cancel()
	next := func() report {
		t.Helper()
		select {
		case r := <-reports:
			return r
		case <-time.After(time.Minute):
			t.Fatal("no report within a minute")
		}
		return report{}
	}
	address := func() string {
		t.Helper()
		return said(client(t, s.Addrs()[0], "www.example.com.", dns.TypeA))
	}
	for _, step := range []struct {
		text string
		want error
		addr string
	}{
		{strings.ReplaceAll(testZone, "192.0.2.80", "192.0.2.81"), nil, "NOERROR 192.0.2.81/300"},
		{testZone + "broken A not-an-address\n", ErrBadData, "NOERROR 192.0.2.81/300"},
		{"", ErrNoNames, "NOERROR 192.0.2.81/300"},
		{strings.ReplaceAll(testZone, "192.0.2.80", "192.0.2.82"), nil, "NOERROR 192.0.2.82/300"},
	} {
		write(t, path, step.text)
		if r := next(); !errors.Is(r.err, step.want) || (r.set == nil) != (r.err != nil) {
			t.Fatalf("report of %.30q = %v, %v; want %v", step.text, r.set, r.err, step.want)
		}
		if got := address(); got != step.addr {
			t.Errorf("after %.30q: %s; want %s", step.text, got, step.addr)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if r := next(); !errors.Is(r.err, os.ErrNotExist) {
		t.Errorf("report of a removed file = %v; want ErrNotExist", r.err)
	}
	write(t, path, testZone)
	again <- os.Interrupt
	if r := next(); r.err != nil {
		t.Errorf("report after a signal = %v; want nil", r.err)
	}
	if got := address(); got != "NOERROR 192.0.2.80/300" {
		t.Errorf("after a signal: %s; want the first address", got)
	}
}
