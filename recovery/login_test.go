package recovery

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestParseLogin(t *testing.T) {
	pin := "sha256:" + strings.Repeat("ab", 32)
	for in, want := range map[string]string{
		"10.0.0.1":                       "root@10.0.0.1:22",
		"anna@10.0.0.1:2222":             "anna@10.0.0.1:2222",
		"fd00::1":                        "root@[fd00::1]:22",
		"[fd00::1]":                      "root@[fd00::1]:22",
		"anna@[fe80::1%eth0]:2222":       "anna@[fe80::1%eth0]:2222",
		"10.0.0.1#pin=" + pin:            "root@10.0.0.1:22#pin=" + pin,
		"anna@[fd00::1]:23#pin=" + pin:   "anna@[fd00::1]:23#pin=" + pin,
		"":                               "",
		"storage":                        "",
		"storage:22":                     "",
		"@10.0.0.1":                      "",
		"anna:secret@10.0.0.1":           "",
		"10.0.0.1:0":                     "",
		"10.0.0.1:65536":                 "",
		"10.0.0.1#pin=sha256:ab":         "",
		"10.0.0.1#pin=sha512:" + pin[7:]: "",
		"a b@10.0.0.1":                   "",
	} {
		l, err := ParseLogin(in)
		switch {
		case want == "" && !errors.Is(err, ErrUsage):
			t.Errorf("ParseLogin(%q) = %v, %v; want %v", in, l, err, ErrUsage)
		case want != "" && (err != nil || l.String() != want):
			t.Errorf("ParseLogin(%q) = %v, %v; want %s", in, l, err, want)
		case want != "":
			u, err := url.Parse(l.place(nil).URL)
			if err != nil || u.Hostname() != l.Addr.Addr().String() || u.User.Username() != l.User {
				t.Errorf("place(%v) = %v, %v; want its user and address", l, u, err)
			}
		}
	}
	if hosts, err := ParseHosts([]string{"a=10.0.0.1", "b=anna@[fd00::1]:23#pin=" + pin}); err != nil || hosts["b"].User != "anna" || Addresses(hosts)["a"].String() != "10.0.0.1" {
		t.Errorf("ParseHosts() = %v, %v; want both", hosts, err)
	}
	for _, bad := range []string{"10.0.0.1", "=10.0.0.1", "a=", "a"} {
		if hosts, err := ParseHosts([]string{bad}); !errors.Is(err, ErrUsage) {
			t.Errorf("ParseHosts(%q) = %v, %v; want %v", bad, hosts, err, ErrUsage)
		}
	}
}

// What is read is written as what reads the same.
func FuzzParseLogin(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "anna@[fe80::1%eth0]:22", "10.0.0.1#pin=sha256:" + strings.Repeat("ab", 32), "@", "[::1", "a@b@::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLogin(s)
		if err != nil {
			return
		}
		again, err := ParseLogin(l.String())
		if err != nil || again != l {
			t.Errorf("ParseLogin(%q) = %v; and of that %v, %v", s, l, again, err)
		}
	})
}
