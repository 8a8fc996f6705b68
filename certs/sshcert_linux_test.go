package certs

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func sshPub(t testing.TB) []byte {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return ssh.MarshalAuthorizedKey(k)
}

// A real sshd with TrustedUserCAKeys and a host certificate, and a real ssh that trusts the host authority alone.
func TestSSHDTakesUserAndHostCertificates(t *testing.T) {
	t.Parallel()
	a := authority(t, time.Now(), nil)
	dir := t.TempDir()
	for _, k := range []string{"host", "user", "stranger"} {
		mustTool(t, dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", k)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	host, err := a.IssueSSH(time.Now(), SSHRequest{Service: "etcd", Kind: SSHHost, Principals: []string{"127.0.0.1", "a.etcd.example.org"}, PublicKey: read("host.pub"), ID: "host a"})
	if err != nil {
		t.Fatal(err)
	}
	put("host-cert.pub", host.Cert)
	issueUser := func(name string, from *Authority, principals ...string) {
		out, err := from.IssueSSH(time.Now(), SSHRequest{Service: "etcd", Kind: SSHUser, Principals: principals, PublicKey: read(name + ".pub"), ID: name, For: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		put(name+"-cert.pub", out.Cert)
	}
	issueUser("user", a, "root", "etcd-admin")
	put("user_ca.pub", ssh.MarshalAuthorizedKey(a.ssh[SSHUser].PublicKey()))
	put("known_hosts", []byte("@cert-authority * "+string(ssh.MarshalAuthorizedKey(a.ssh[SSHHost].PublicKey()))))
	port := freePort(t)
	put("sshd_config", fmt.Appendf(nil, `Port %d
ListenAddress 127.0.0.1
HostKey %[2]s/host
HostCertificate %[2]s/host-cert.pub
TrustedUserCAKeys %[2]s/user_ca.pub
AuthorizedKeysFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
ExposeAuthInfo yes
PidFile %[2]s/pid
`, port, dir))
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	start(t, port, "/usr/sbin/sshd", "-D", "-e", "-f", filepath.Join(dir, "sshd_config"))
	login := func(key string) (string, error) {
		return tool(t, dir, "ssh", "-F", "none", "-p", fmt.Sprint(port), "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
			"-o", "UserKnownHostsFile="+filepath.Join(dir, "known_hosts"), "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes", "root@127.0.0.1", "cat $SSH_USER_AUTH")
	}
	if got, err := login("user"); err != nil || !strings.HasPrefix(got, "publickey ssh-ed25519-cert-v01@openssh.com ") {
		t.Errorf("ssh with a certificate = %q, %v; want in", got, err)
	}
	if got, err := login("stranger"); err == nil {
		t.Errorf("ssh without a certificate = %q; want refused", got)
	}
	issueUser("user", a, "etcd-admin")
	if got, err := login("user"); err == nil {
		t.Errorf("ssh as root with a certificate for etcd-admin = %q; want refused", got)
	}
	issueUser("user", authority(t, time.Now(), nil), "root")
	if got, err := login("user"); err == nil {
		t.Errorf("ssh with another ceremony's certificate = %q; want refused", got)
	}
	if got := mustTool(t, dir, "ssh-keygen", "-L", "-f", "host-cert.pub"); !strings.Contains(got, "host certificate") || !strings.Contains(got, `Key ID: "host a"`) || !strings.Contains(got, "a.etcd.example.org") {
		t.Errorf("ssh-keygen -L = %s", got)
	}
}

func TestSSHRefuses(t *testing.T) {
	a := authority(t, noon, nil)
	dir := t.TempDir()
	mustTool(t, dir, "ssh-keygen", "-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", "weak")
	weak, err := os.ReadFile(filepath.Join(dir, "weak.pub"))
	if err != nil {
		t.Fatal(err)
	}
	good := sshPub(t)
	for name, x := range map[string]struct {
		r    SSHRequest
		want error
	}{
		"a principal the policy lacks": {SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"postgres"}, PublicKey: good}, ErrRefused},
		"a host outside":               {SSHRequest{Service: "etcd", Kind: SSHHost, Principals: []string{"www.example.com"}, PublicKey: good}, ErrRefused},
		"no principals":                {SSHRequest{Service: "etcd", Kind: SSHUser, PublicKey: good}, ErrInvalid},
		"no key":                       {SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: []byte("x")}, ErrInvalid},
		"a weak key":                   {SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: weak}, ErrInvalid},
		"a kind":                       {SSHRequest{Service: "etcd", Kind: "robot", Principals: []string{"root"}, PublicKey: good}, ErrInvalid},
		"a service":                    {SSHRequest{Service: "mysql", Kind: SSHUser, Principals: []string{"root"}, PublicKey: good}, ErrRefused},
		"too long":                     {SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: good, For: 1000 * time.Hour}, ErrRefused},
		"an ID with a newline":         {SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: good, ID: "a\nb"}, ErrInvalid},
	} {
		out, err := a.IssueSSH(noon, x.r)
		wantErr(t, "IssueSSH("+name+")", err, x.want)
		if out.Cert != nil {
			t.Errorf("IssueSSH(%s) gave something out", name)
		}
	}
	c, alice := ceremony(t, noon, nil)
	free := openCeremony(t, c, alice.key, AuthorityOptions{})
	_, err = free.IssueSSH(noon, SSHRequest{Service: "etcd", Kind: SSHUser, Principals: []string{"root"}, PublicKey: good})
	wantErr(t, "IssueSSH(user) without a policy", err, ErrRefused)
}
