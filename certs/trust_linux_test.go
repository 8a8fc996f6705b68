package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// hostRoot is a root with the bundles of this Debian, and those of other systems beside them.
func hostRoot(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	pem, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		if os.Getenv("REQUIRE_KERNEL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	for _, d := range []string{"etc/pki/ca-trust/extracted/pem", "etc/pki/tls/certs", "opt/java/openjdk/lib/security", "usr/lib/python3/dist-packages/certifi", "usr/local/lib/python3.11/site-packages/certifi"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mustTool(t, root, "cp", "-a", "/etc/ssl", "etc/ssl")
	mustTool(t, root, "ln", "-s", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "etc/pki/tls/certs/ca-bundle.crt")
	mustTool(t, root, "ln", "-s", "/etc/ssl/certs/ca-certificates.crt", "usr/lib/python3/dist-packages/certifi/cacert.pem")
	for name, b := range map[string][]byte{
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem":          pem,
		"usr/local/lib/python3.11/site-packages/certifi/cacert.pem": bytes.TrimSpace(pem[:20000+bytes.Index(pem[20000:], []byte("-----END"))+25]),
	} {
		if err := os.WriteFile(filepath.Join(root, name), b, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	mustTool(t, root, "keytool", "-importkeystore", "-noprompt", "-srckeystore", "etc/ssl/certs/java/cacerts", "-srcstorepass", "changeit", "-srcalias", "debian:isrg_root_x1.pem",
		"-destkeystore", "opt/java/openjdk/lib/security/cacerts", "-deststoretype", "PKCS12", "-deststorepass", "changeit")
	return root
}

// snapshot is all that can be seen of a tree, but for the times of directories.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		sys := st.Sys().(*syscall.Stat_t)
		what := fmt.Sprintf("%v %d:%d", st.Mode(), sys.Uid, sys.Gid)
		switch {
		case st.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %s %s", st.ModTime(), sha(b))
		case st.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			what += " " + to
		}
		all[path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for p, w := range want {
		if got[p] != w {
			t.Errorf("%s: %s is %q; want %q", what, p, got[p], w)
		}
	}
	for p := range got {
		if want[p] == "" {
			t.Errorf("%s: %s is new", what, p)
		}
	}
}

func TestTrustAddAndRemove(t *testing.T) {
	t.Parallel()
	a := authority(t, time.Now(), nil)
	root, state := hostRoot(t), filepath.Join(t.TempDir(), "trust")
	before := snapshot(t, root)
	trusts := func(want bool) {
		t.Helper()
		all, err := CheckTrust(root, a.root)
		if err != nil || len(all) != 6 {
			t.Errorf("CheckTrust() = %d bundles, %v; want 6: %+v", len(all), err, all)
		}
		if v, why := Accepts(all); (v == Yes) != want || (v == No) == want {
			t.Errorf("Accepts() = %s, %s; want %v", v, why, want)
		}
		for _, b := range all {
			if b.Trusts != want || b.Problem != "" {
				t.Errorf("CheckTrust(): %s (%s) trusts %v, problem %q; want %v", b.Path, b.Kind, b.Trusts, b.Problem, want)
			}
		}
	}
	trusts(false)
	p, err := AddTrust(noon, root, state, a.root)
	if err != nil || len(p.Files) != 6 {
		t.Fatalf("AddTrust() = %+v, %v; want 6 files", p, err)
	}
	trusts(true)
	if again, err := AddTrust(noon.Add(time.Hour), root, state, a.root); err != nil || again.ID != p.ID || !again.At.Equal(p.At) {
		t.Errorf("AddTrust() again = %s, %v; want %s", again.ID, err, p.ID)
	}
	stockClients(t, a, root, true)
	if all, err := ListTrust(state); err != nil || len(all) != 1 || all[0].ID != p.ID {
		t.Errorf("ListTrust() = %v, %v; want one", all, err)
	}
	p, err = RemoveTrust(state, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Files {
		if f.Was != "restored" {
			t.Errorf("RemoveTrust(): %s was %q; want restored", f.Path, f.Was)
		}
	}
	same(t, "after RemoveTrust", snapshot(t, root), before)
	trusts(false)
	stockClients(t, a, root, false)
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("RemoveTrust() left %v, %v", left, err)
	}
}

const javaClient = `import java.net.*; import javax.net.ssl.*;
public class Get { public static void main(String[] a) throws Exception {
  HttpsURLConnection c = (HttpsURLConnection) new URL(a[0]).openConnection(); System.out.println("java: " + c.getResponseCode()); } }`

// stockClients lets curl, openssl and Java talk to a server of the authority, by their default bundles: in a mount namespace where
// /etc/ssl is the root's.
func stockClients(t *testing.T, a *Authority, root string, want bool) {
	t.Helper()
	self, err := a.Issue(time.Now(), Request{Service: "etcd", DNS: []string{"localhost.example.org"}, IP: etcd().IP})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, ServeOptions{Self: self}) }()
	defer func() {
		cancel()
		<-done
	}()
	url := "https://" + l.Addr().String() + "/v1/root"
	dir := write(t, map[string][]byte{"Get.java": []byte(javaClient)})
	inRoot := func(args ...string) (string, error) {
		return tool(t, dir, append([]string{"unshare", "-m", "--propagation", "private", "sh", "-c", `mount --bind "$0" /etc/ssl && exec "$@"`, root + "/etc/ssl"}, args...)...)
	}
	for name, c := range map[string]struct {
		args []string
		word string
	}{
		"curl":    {[]string{"curl", "-sS", "--max-time", "10", url}, "BEGIN CERTIFICATE"},
		"openssl": {[]string{"openssl", "s_client", "-no-CAfile", "-verify_return_error", "-connect", l.Addr().String()}, "Verify return code: 0 (ok)"},
		"java":    {[]string{"java", "-Xshare:auto", "Get.java", url}, "java: 200"},
		"gnutls":  {[]string{"gnutls-cli", "-p", strings.TrimPrefix(l.Addr().String(), "127.0.0.1:"), "127.0.0.1"}, "The certificate is trusted"},
	} {
		got, err := inRoot(c.args...)
		if ok := strings.Contains(got, c.word); ok != want {
			t.Errorf("%s accepts = %v, %v; want %v\n%s", name, ok, err, want, got)
		}
	}
}

func TestTrustRemoveAfterSomebodyChangedIt(t *testing.T) {
	t.Parallel()
	a, other := authority(t, time.Now(), nil), authority(t, time.Now(), nil)
	root, state := hostRoot(t), filepath.Join(t.TempDir(), "trust")
	first, err := AddTrust(noon, root, state, a.root)
	if err != nil {
		t.Fatal(err)
	}
	second, err := AddTrust(noon, root, state, other.root)
	if err != nil {
		t.Fatal(err)
	}
	// In the order in which they came: the first finds its files changed.
	p, err := RemoveTrust(state, first.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Files {
		if want := map[bool]string{true: "restored", false: "cleaned"}[f.Kind == HashDir]; f.Was != want {
			t.Errorf("RemoveTrust(first): %s (%s) was %q; want %s", f.Path, f.Kind, f.Was, want)
		}
	}
	for ca, want := range map[*x509.Certificate]bool{a.root: false, other.root: true} {
		all, err := CheckTrust(root, ca)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if b.Kind == HashDir && want {
				continue // the two have the same subject; openssl stops at the gap that .0 left
			}
			if b.Trusts != want || b.Problem != "" {
				t.Errorf("CheckTrust(): %s trusts = %v, %q; want %v", b.Path, b.Trusts, b.Problem, want)
			}
		}
	}
	mustTool(t, root, "keytool", "-list", "-keystore", "etc/ssl/certs/java/cacerts", "-storepass", "changeit")
	mustTool(t, root, "keytool", "-list", "-keystore", "opt/java/openjdk/lib/security/cacerts", "-storepass", "changeit")
	if _, err := RemoveTrust(state, second.ID); err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/java/cacerts"} {
		got, err := os.ReadFile(filepath.Join(root, b))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := os.ReadFile("/" + b); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what it was after both were removed", b)
		}
	}
	_, err = RemoveTrust(state, "../x")
	wantErr(t, "RemoveTrust(../x)", err, ErrInvalid)
}

// plantTrust adds and removes until it is killed.
func plantTrust(root, state, cert string) error {
	b, err := os.ReadFile(cert)
	if err != nil {
		return err
	}
	ca, err := oneCert(b)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		p, err := AddTrust(noon, root, state, ca)
		if err != nil {
			return err
		}
		if _, err := RemoveTrust(state, p.ID); err != nil {
			return err
		}
	}
}

func TestKilledTrustCanBeTakenBack(t *testing.T) {
	t.Parallel()
	a := authority(t, time.Now(), nil)
	root, state := hostRoot(t), filepath.Join(t.TempDir(), "trust")
	// One of them as a container has it: a file that is a mount point.
	mounted := filepath.Join(root, "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
	if err := syscall.Mount(mounted, mounted, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(mounted, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	before := snapshot(t, root)
	dir := write(t, map[string][]byte{"root.pem": pemCert(a.root)})
	for round := range 12 {
		c, out := spawn(t, "", "trust", root, state, filepath.Join(dir, "root.pem"))
		ready(t, out)
		time.Sleep(time.Duration(round) * 5 * time.Millisecond) // not for a state: anywhere in its work
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		all, err := ListTrust(state)
		if err != nil || len(all) > 1 {
			t.Fatalf("round %d: ListTrust() after kill -9 = %v, %v", round, all, err)
		}
		for _, p := range all {
			if round%2 == 0 {
				if _, err := AddTrust(noon, root, state, a.root); err != nil {
					t.Errorf("round %d: AddTrust() after kill -9 = %v", round, err)
				}
			}
			if _, err := RemoveTrust(state, p.ID); err != nil {
				t.Fatalf("round %d: RemoveTrust() after kill -9 = %v", round, err)
			}
		}
		same(t, fmt.Sprintf("round %d", round), snapshot(t, root), before)
	}
}

func TestTrustInHostileRoot(t *testing.T) {
	a := authority(t, noon, nil)
	outside := write(t, map[string][]byte{"bundle.pem": []byte("precious\n"), "etc": nil})
	root := t.TempDir()
	for _, d := range []string{"etc/ssl/certs/java", "opt/java/x/lib/security", "etc/pki/tls/certs", "etc/ca-certificates/extracted"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"etc/ssl/ca-bundle.pem":             outside + "/bundle.pem",
		"etc/ssl/cert.pem":                  "../../../../../../../../../.." + outside + "/bundle.pem",
		"etc/pki/tls/certs/ca-bundle.crt":   "ca-bundle.crt",
		"etc/ssl/certs/ca-certificates.crt": "../fifo",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(root, "etc/ssl/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"etc/ssl/certs/java/cacerts":                      []byte("\xfe\xed\xfe\xed garbage"),
		"opt/java/x/lib/security/cacerts":                 []byte("\x30\x82"),
		"etc/ca-certificates/extracted/tls-ca-bundle.pem": []byte("# empty"),
	} {
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p, err := AddTrust(noon, root, t.TempDir(), a.root)
	if err != nil {
		t.Fatal(err)
	}
	ok := 0
	for _, f := range p.Files {
		if f.Problem == "" {
			ok++
			if f.Path != "etc/ca-certificates/extracted/tls-ca-bundle.pem" {
				t.Errorf("AddTrust() changed %s", f.Path)
			}
		}
	}
	if ok != 1 || len(p.Files) != 4 {
		t.Errorf("AddTrust() in a hostile root = %+v; want one file changed, three with a problem", p.Files)
	}
	if b, err := os.ReadFile(outside + "/bundle.pem"); err != nil || string(b) != "precious\n" {
		t.Errorf("a file outside the root is now %q, %v", b, err)
	}
	leaf := leafOf(t, mustIssue(t))
	_, err = AddTrust(noon, root, t.TempDir(), leaf)
	wantErr(t, "AddTrust(a leaf)", err, ErrInvalid)
	_, err = AddTrust(noon, t.TempDir(), t.TempDir(), a.root)
	wantErr(t, "AddTrust() without bundles", err, ErrInvalid)
}

// Several at once on the same files: none is lost.
func TestTrustByTwoAtOnce(t *testing.T) {
	root, state := hostRoot(t), filepath.Join(t.TempDir(), "trust")
	before := snapshot(t, root)
	var wg sync.WaitGroup
	ids := make([]string, 4)
	cas := make([]*x509.Certificate, len(ids))
	for i := range ids {
		cas[i] = authority(t, noon, nil).root
		wg.Go(func() {
			p, err := AddTrust(noon, root, state, cas[i])
			if err != nil {
				t.Errorf("AddTrust() beside others = %v", err)
			}
			ids[i] = p.ID
		})
	}
	wg.Wait()
	for _, ca := range cas {
		all, err := CheckTrust(root, ca)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range all {
			if !b.Trusts {
				t.Errorf("after four at once %s lacks one", b.Path)
			}
		}
	}
	slices.Reverse(ids)
	for _, id := range ids {
		wg.Go(func() {
			if _, err := RemoveTrust(state, id); err != nil {
				t.Errorf("RemoveTrust() beside others = %v", err)
			}
		})
	}
	wg.Wait()
	after := snapshot(t, root)
	for _, f := range []string{"etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs/java/cacerts"} {
		p := filepath.Join(root, f)
		if a, b := after[p], before[p]; a[len(a)-64:] != b[len(b)-64:] {
			t.Errorf("%s is not what it was", f)
		}
	}
}

// The root is / for a host.
func TestCheckTrustOfThisHost(t *testing.T) {
	all, err := CheckTrust("/", authority(t, noon, nil).root)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]BundleKind{}
	for _, b := range all {
		kinds[b.Path] = b.Kind
		if b.Trusts {
			t.Errorf("%s trusts an authority that was just made", b.Path)
		}
	}
	if kinds["etc/ssl/certs/ca-certificates.crt"] != PEMBundle || kinds["etc/ssl/certs"] != HashDir || kinds["etc/ssl/certs/java/cacerts"] != JKSBundle {
		t.Errorf("CheckTrust(/) finds %v", kinds)
	}
}

func TestSubjectHashIsOpenSSLs(t *testing.T) {
	files, err := filepath.Glob("/etc/ssl/certs/*.pem")
	if err != nil || len(files) < 20 {
		t.Fatalf("this host has %d certificates, %v; want some to compare", len(files), err)
	}
	for _, f := range files[:20] {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		c, err := oneCert(b)
		if err != nil {
			continue
		}
		out, err := exec.Command("openssl", "x509", "-noout", "-subject_hash", "-in", f).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := subjectHash(c); err != nil || fmt.Sprintf("%08x\n", got) != string(out) {
			t.Errorf("subjectHash(%s) = %08x, %v; want %s", f, got, err, out)
		}
	}
}

func FuzzBundleForms(f *testing.F) {
	ca := authority(f, noon, nil).root
	jks := writeJKS([]jksEntry{newJKSEntry("a", noon, ca.Raw)})
	f.Add(jks)
	p12, err := writeP12([]*x509.Certificate{ca})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p12)
	f.Add(pemCert(ca, ca))
	f.Add(ca.RawSubject)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 20 {
			// The sum would keep the fuzzer out.
			copy(b[len(b)-20:], jksSum(b[:len(b)-20], storePassword))
		}
		if all, err := parseJKS(b); err == nil && len(b) != len(writeJKS(all)) {
			t.Errorf("parseJKS() of %d bytes gives %d entries that need %d", len(b), len(all), len(writeJKS(all)))
		}
		_, _ = canonicalName(b)
		_ = checkP12Cost(b)
		if got := cutPEM(b, "x", ca); pemHas(got, ca) && !pemHas(b, ca) {
			t.Error("cutPEM() made a certificate")
		}
	})
}
