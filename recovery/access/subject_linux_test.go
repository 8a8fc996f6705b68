package access

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A real sshd says who logged in, with ExposeAuthInfo.
func TestPrincipalsOfALogin(t *testing.T) {
	dir := t.TempDir()
	for _, k := range []string{"ca", "host", "user", "otherca"} {
		sh(t, dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", k)
	}
	sh(t, dir, "ssh-keygen", "-q", "-s", "ca", "-I", "alice", "-n", "root,storage-oncall", "-V", "-1h:+1h", "user.pub")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %[2]s/host\nTrustedUserCAKeys %[2]s/ca.pub\nExposeAuthInfo yes\nUsePAM no\nStrictModes no\nPidFile none\n", port, dir)
	if err := os.WriteFile(filepath.Join(dir, "sshd_config"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	sshd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
	if err := sshd.Start(); err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	defer func() {
		_ = sshd.Process.Kill()
		_ = sshd.Wait()
	}()
	var out []byte
	for end := time.Now().Add(10 * time.Second); ; {
		c := exec.Command("ssh", "-F", "none", "-p", fmt.Sprint(port), "-i", "user", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
			"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@127.0.0.1", "cat $SSH_USER_AUTH")
		c.Dir = dir
		if out, err = c.Output(); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("ssh: %v", err)
		}
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	now := time.Now()
	for name, c := range map[string]struct {
		at   time.Time
		info []byte
		cas  []byte
		want []string
	}{
		"a login":              {now, out, read("ca.pub"), []string{"root", "storage-oncall"}},
		"two authorities":      {now, out, append(read("otherca.pub"), read("ca.pub")...), []string{"root", "storage-oncall"}},
		"another authority":    {now, out, read("otherca.pub"), nil},
		"after its end":        {now.Add(2 * time.Hour), out, read("ca.pub"), nil},
		"before its begin":     {now.Add(-2 * time.Hour), out, read("ca.pub"), nil},
		"a key without a cert": {now, append([]byte("publickey "), read("user.pub")...), read("ca.pub"), nil},
		"a password":           {now, []byte("password\n"), read("ca.pub"), nil},
	} {
		got, err := Principals(c.at, c.info, c.cas, "root")
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Principals(%s) = %v, %v; want %v", name, got, err, c.want)
		}
	}
	_, err = Principals(now, []byte("publickey ssh-ed25519 AAAA\n"), read("ca.pub"), "root")
	wantErr(t, "Principals(garbage)", err, ErrInvalid)
	_, err = Principals(now, out, []byte("hello"), "root")
	wantErr(t, "Principals() with no authority", err, ErrInvalid)
	signers, err := ParseSigners(append([]byte("alice "), read("user.pub")...), Namespace)
	if err != nil || !slices.Equal(signers.SSHKeys(out), []string{"alice"}) {
		t.Errorf("SSHKeys() = %v, %v; want alice", signers.SSHKeys(out), err)
	}
}

func TestSubjectFromTLS(t *testing.T) {
	s := Subject{UID: -1}
	s.FromTLS(&x509.Certificate{Subject: pkix.Name{CommonName: "alice", Organization: []string{"ops"}}, DNSNames: []string{"a.example.org"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/etcd"}}})
	p := compileText(t, "allow tls:spiffe://example.org/etcd to run on a\nallow org:ops to run on b\nallow tls:alice to run on c\n")
	for _, service := range []string{"a", "b", "c"} {
		if d := p.Decide(noon, s, "run", service, nil); d.Outcome != Allowed {
			t.Errorf("Decide(%s) = %s; want allowed", service, d)
		}
	}
}

func FuzzPrincipals(f *testing.F) {
	f.Add([]byte("publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqYxSSnRVAiBiFTCUNLqTPNqSsZ0Vxw4DGLTPV2bqxQ\n"))
	f.Fuzz(func(t *testing.T, info []byte) {
		got, err := Principals(noon, info, nil, "root")
		if len(got) > 0 || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("Principals() = %v, %v; want none", got, err)
		}
	})
}
