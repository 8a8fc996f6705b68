package fetch

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshHost is an OpenSSH server on loopback, which takes root with one key.
type sshHost struct {
	address string
	keyFile string          // the user's
	key     crypto.Signer   // the same
	host    []ssh.PublicKey // the server's: ed25519, ecdsa
	pins    []digest.Digest // of host, in the same order
	args    []string        // of sshd
	stop    func()
}

// startSSHD starts one until the test ends. more goes into its configuration. HOME
// is an empty directory from then on, and there is no agent.
func startSSHD(t *testing.T, more ...string) *sshHost {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		if os.Getenv("REQUIRE_KERNEL") == "" {
			t.Skipf("no OpenSSH server here: %v", err)
		}
		t.Fatal(err)
	}
	// The server wants a directory of its own there; only Debian's start script makes it.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("HOME", filepath.Join(dir, "home"))
	t.Setenv("SSH_AUTH_SOCK", "")
	h := &sshHost{keyFile: filepath.Join(dir, "user")}
	write := func(name, text string) string {
		t.Helper()
		f := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o700), os.WriteFile(f, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	var config strings.Builder
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	nist, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range []crypto.Signer{edwards, nist} {
		text, pub := sshKey(t, k)
		h.host, h.pins = append(h.host, pub), append(h.pins, digest.FromBytes(pub.Marshal()))
		fmt.Fprintf(&config, "HostKey %s\n", write(fmt.Sprintf("host%d", i), text))
	}
	_, h.key, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, pub := sshKey(t, h.key)
	write("user", text)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(h.address)
	fmt.Fprintf(&config, "ListenAddress 127.0.0.1\nPort %s\nPidFile none\nStrictModes no\nUsePAM no\n"+
		"PermitRootLogin yes\nPasswordAuthentication no\nAuthorizedKeysFile %s\n%s\n",
		port, write("authorized", string(ssh.MarshalAuthorizedKey(pub))), strings.Join(more, "\n"))
	h.args = []string{"-D", "-e", "-f", write("config", config.String())}
	h.start(t)
	return h
}

// start runs the server until stop is called, or the test ends.
func (h *sshHost) start(t *testing.T) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("/usr/sbin/sshd", h.args...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", &stderr)
		}
	})
	t.Cleanup(h.stop)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", h.address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not answer: %v", err)
		}
	}
}

// sshKey is a key as a file and as what others know it by.
func sshKey(t *testing.T, k crypto.Signer) (string, ssh.PublicKey) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(k, "")
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), pub
}

// source is a source of this host, closed at the end of the test.
func (h *sshHost) source(t *testing.T, dir string, p Place, n Net) *sshSource {
	t.Helper()
	return sourceAt(t, h.address, dir, p, n)
}

func sourceAt(t *testing.T, address, dir string, p Place, n Net) *sshSource {
	t.Helper()
	u := url.URL{Scheme: "ssh", User: url.User("root"), Host: address, Path: dir}
	p.URL = u.String()
	s, err := Dial(p, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	})
	return s.(*sshSource)
}

// known is how the tests reach the host if they do not care how.
func (h *sshHost) known() (Place, Net) {
	return Place{Pins: h.pins}, Net{SSHKeys: []string{h.keyFile}}
}

// wantRead reads a part of a blob and compares it.
func wantRead(t *testing.T, s Source, d digest.Digest, content []byte, offset, n int64) {
	t.Helper()
	end := int64(len(content))
	if n >= 0 {
		end = min(end, offset+n)
	}
	body, total, err := s.Open(t.Context(), d, offset, n)
	if err != nil {
		t.Errorf("Open(%d, %d) = %v; want a reader", offset, n, err)
		return
	}
	got, err := io.ReadAll(body)
	if err := errors.Join(err, body.Close()); err != nil {
		t.Errorf("reading (%d, %d): %v", offset, n, err)
	}
	if want := content[min(offset, end):end]; !bytes.Equal(got, want) || total != int64(len(content)) {
		t.Errorf("Open(%d, %d): %d bytes of %d; want %d of %d, the same ones", offset, n, len(got), total, len(want), len(content))
	}
}

func TestSSHReads(t *testing.T) {
	busybox := t.TempDir()
	for _, name := range []string{"sh", "dd", "wc"} { // no stat
		if err := os.Symlink("/bin/busybox", filepath.Join(busybox, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, config := range map[string]string{
		"coreutils": "",
		"busybox":   "SetEnv PATH=" + busybox,
	} {
		t.Run(name, func(t *testing.T) {
			h := startSSHD(t, config)
			content, empty := pattern(5<<20+123), []byte{}
			dir := filepath.Join(t.TempDir(), "it's a $(reboot) `x` \"dir\"\n")
			storeWith(t, dir, content, empty)
			d := digest.FromBytes(content)
			p, n := h.known()
			s := h.source(t, dir, p, n)
			for _, r := range [][2]int64{
				{0, -1},
				{0, 1},
				{1, 65535},
				{65535, 2},
				{65536, 65536},
				{4 << 20, 1 << 20},
				{5 << 20, -1},
				{5<<20 + 100, 1000},
				{5<<20 + 123, 10},
				{6 << 20, -1},
				{100, 0},
			} {
				wantRead(t, s, d, content, r[0], r[1])
			}
			wantRead(t, s, digest.FromBytes(empty), empty, 0, -1)
			if n, err := s.Stat(t.Context(), d); n != int64(len(content)) || err != nil {
				t.Errorf("Stat() = %d, %v; want %d", n, err, len(content))
			}
			missing := digest.FromString("missing")
			if _, _, err := s.Open(t.Context(), missing, 0, -1); !errors.Is(err, ErrNotFound) {
				t.Errorf("Open(missing) = %v; want %v", err, ErrNotFound)
			}
			if _, err := s.Stat(t.Context(), missing); !errors.Is(err, ErrNotFound) {
				t.Errorf("Stat(missing) = %v; want %v", err, ErrNotFound)
			}
			if _, err := s.Stat(t.Context(), "sha256:$(reboot)"); err == nil {
				t.Error("Stat(sha256:$(reboot)) = nil; want an error")
			}
			file := h.source(t, filepath.Join(dir, "blobs/sha256", d.Encoded()), p, n)
			wantRead(t, file, d, content, 12345, 70000)
			none := h.source(t, filepath.Join(dir, "none"), p, n)
			if _, err := none.Stat(t.Context(), d); !errors.Is(err, ErrNotFound) {
				t.Errorf("Stat() in no directory = %v; want %v", err, ErrNotFound)
			}
		})
	}
}

// More readers than there may be sessions, on one connection.
func TestSSHSessions(t *testing.T) {
	h := startSSHD(t)
	content := pattern(32 << 20) // more than windows and buffers hold
	dir := t.TempDir()
	storeWith(t, dir, content)
	front := startFront(t, h.address)
	p, n := h.known()
	s := sourceAt(t, front.address, dir, p, n)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() { wantRead(t, s, digest.FromBytes(content), content, int64(i)<<18, 1<<18) })
	}
	wg.Wait()
	var bodies []io.Closer
	for range sshSessions {
		body, _, err := s.Open(t.Context(), digest.FromBytes(content), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, digest.FromBytes(content)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stat() beside %d readers = %v; want %v", sshSessions, err, context.DeadlineExceeded)
	}
	for _, b := range bodies {
		if err := b.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
	}
	wantRead(t, s, digest.FromBytes(content), content, 1<<20, 1<<20)
	if got := front.count(); got != 1 {
		t.Errorf("connections = %d; want 1", got)
	}
}

func TestSSHLogin(t *testing.T) {
	h := startSSHD(t)
	content := pattern(1000)
	dir := t.TempDir()
	storeWith(t, dir, content)
	d := digest.FromBytes(content)
	place := Place{Pins: h.pins}
	keyText, err := os.ReadFile(h.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(t.TempDir(), "locked")
	block, err := ssh.MarshalPrivateKeyWithPassphrase(h.key, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(locked, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}

	t.Run("no key", func(t *testing.T) {
		_, err := h.source(t, dir, place, Net{}).Stat(t.Context(), d)
		if err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrPeer) {
			t.Errorf("Stat() = %v; want that the login failed", err)
		}
	})
	t.Run("unreadable keys are told", func(t *testing.T) {
		gone := filepath.Join(t.TempDir(), "gone")
		_, err := h.source(t, dir, place, Net{SSHKeys: []string{gone, locked}}).Stat(t.Context(), d)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), locked) || !strings.Contains(err.Error(), "passphrase") {
			t.Errorf("Stat() = %v; want that %s is not there and %s has a passphrase", err, gone, locked)
		}
	})
	t.Run("key file", func(t *testing.T) {
		wantRead(t, h.source(t, dir, place, Net{SSHKeys: []string{locked, h.keyFile}}), d, content, 0, -1)
	})
	t.Run("key at home", func(t *testing.T) {
		home := t.TempDir()
		t.Setenv("HOME", home)
		if err := errors.Join(os.Mkdir(filepath.Join(home, ".ssh"), 0o700),
			os.WriteFile(filepath.Join(home, ".ssh/id_ed25519"), keyText, 0o600)); err != nil {
			t.Fatal(err)
		}
		wantRead(t, h.source(t, dir, place, Net{}), d, content, 0, -1)
	})
	t.Run("agent", func(t *testing.T) {
		sock := filepath.Join(t.TempDir(), "agent")
		cmd := exec.Command("ssh-agent", "-D", "-a", sock)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		var c net.Conn
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			if c, err = net.Dial("unix", sock); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		err := agent.NewClient(c).Add(agent.AddedKey{PrivateKey: h.key})
		if err := errors.Join(err, c.Close()); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SSH_AUTH_SOCK", sock)
		wantRead(t, h.source(t, dir, place, Net{SSHKeys: []string{locked}}), d, content, 0, -1)
	})
	t.Run("agent has gone", func(t *testing.T) {
		t.Setenv("SSH_AUTH_SOCK", filepath.Join(t.TempDir(), "gone"))
		wantRead(t, h.source(t, dir, place, Net{SSHKeys: []string{h.keyFile}}), d, content, 0, -1)
	})
}

func TestSSHHostKey(t *testing.T) {
	h := startSSHD(t)
	content := pattern(1000)
	dir := t.TempDir()
	storeWith(t, dir, content)
	d := digest.FromBytes(content)
	keys := Net{SSHKeys: []string{h.keyFile}}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, other := sshKey(t, stranger)
	for _, c := range []struct {
		name  string
		pins  []digest.Digest
		hosts []ssh.PublicKey // in known_hosts
		ok    bool
	}{
		{name: "nothing known"},
		{name: "one pin", pins: h.pins[:1], ok: true},
		{name: "pin of the server's second key", pins: h.pins[1:], ok: true},
		{name: "one of several pins", pins: []digest.Digest{digest.FromString("x"), h.pins[0]}, ok: true},
		{name: "wrong pin", pins: []digest.Digest{digest.FromString("x")}},
		{name: "wrong pin and a known host", pins: []digest.Digest{digest.FromString("x")}, hosts: h.host},
		{name: "known host", hosts: h.host[:1], ok: true},
		{name: "known host by its second key", hosts: h.host[1:], ok: true},
		{name: "changed key", hosts: []ssh.PublicKey{other}},
	} {
		t.Run(c.name, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			if len(c.hosts) > 0 {
				var text strings.Builder
				for _, k := range c.hosts {
					fmt.Fprintln(&text, knownhosts.Line([]string{h.address}, k))
				}
				if err := errors.Join(os.Mkdir(filepath.Join(home, ".ssh"), 0o700),
					os.WriteFile(filepath.Join(home, ".ssh/known_hosts"), []byte(text.String()), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			s := h.source(t, dir, Place{Pins: c.pins}, keys)
			if c.ok {
				wantRead(t, s, d, content, 0, -1)
				return
			}
			_, err := s.Stat(t.Context(), d)
			if !errors.Is(err, ErrPeer) {
				t.Fatalf("Stat() = %v; want %v", err, ErrPeer)
			}
			for i, k := range h.host {
				if !strings.Contains(err.Error(), h.pins[i].String()) || !strings.Contains(err.Error(), ssh.FingerprintSHA256(k)) {
					t.Errorf("Stat() = %v; want it to name %s, %s", err, h.pins[i], ssh.FingerprintSHA256(k))
				}
			}
		})
	}
	// The pin is what ssh-keygen tells.
	file := filepath.Join(t.TempDir(), "host.pub")
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(h.host[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), ssh.FingerprintSHA256(h.host[0])) {
		t.Errorf("ssh-keygen -l = %s, %v; want %s", out, err, ssh.FingerprintSHA256(h.host[0]))
	}
}

// A host certificate counts by its authority.
func TestSSHHostCertificate(t *testing.T) {
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(ca)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pub")
	h := startSSHD(t, "HostCertificate "+file)
	cert := &ssh.Certificate{
		Key: h.host[0], CertType: ssh.HostCert, ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	h.stop() // it reads the certificate when it starts
	h.start(t)
	content := pattern(10)
	dir, home := t.TempDir(), t.TempDir()
	storeWith(t, dir, content)
	t.Setenv("HOME", home)
	line := "@cert-authority " + knownhosts.Line([]string{h.address}, signer.PublicKey()) + "\n"
	if err := errors.Join(os.Mkdir(filepath.Join(home, ".ssh"), 0o700),
		os.WriteFile(filepath.Join(home, ".ssh/known_hosts"), []byte(line), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, n := h.known()
	wantRead(t, h.source(t, dir, Place{}, n), digest.FromBytes(content), content, 0, -1)
}

func TestSSHPlaces(t *testing.T) {
	for _, c := range []string{
		"ssh://root@127.0.0.1", "ssh://root:secret@127.0.0.1/dir", "ssh:///dir", "ssh://127.0.0.1/dir",
		"ssh:dir", "ssh://root@127.0.0.1/a%00b",
	} {
		_, err := Dial(Place{URL: c}, Net{})
		if !errors.Is(err, ErrPlace) || strings.Contains(err.Error(), "secret") {
			t.Errorf("Dial(%s) = %v; want %v, and no secret", c, err, ErrPlace)
		}
	}
	if _, err := sourceAt(t, "storage", "/dir", Place{}, Net{}).Stat(t.Context(), digest.FromString("")); !errors.Is(err, ErrName) {
		t.Errorf("Stat() on a name without an address = %v; want %v", err, ErrName)
	}
}

// What the connection breaks under ends with an error, and the next one works.
func TestSSHDeadConnection(t *testing.T) {
	h := startSSHD(t)
	content := pattern(32 << 20) // more than windows and buffers hold
	dir := t.TempDir()
	storeWith(t, dir, content)
	d := digest.FromBytes(content)
	p, n := h.known()

	t.Run("cut", func(t *testing.T) {
		front := startFront(t, h.address)
		s := sourceAt(t, front.address, dir, p, n)
		body, _, err := s.Open(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, body, 1<<20); err != nil {
			t.Fatal(err)
		}
		front.cut()
		n, err := io.Copy(io.Discard, body)
		if err == nil {
			t.Errorf("after the cut: %d bytes and no error; want one", n)
		}
		if err := body.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
		wantRead(t, s, d, content, 10<<20, 1<<20)
		if got := front.count(); got != 2 {
			t.Errorf("connections = %d; want 2", got)
		}
	})
	t.Run("silent", func(t *testing.T) {
		front := startFront(t, h.address)
		s := sourceAt(t, front.address, dir, p, n)
		s.login.silence = 600 * time.Millisecond
		body, _, err := s.Open(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		front.freeze()
		// Who does not want to wait for it goes at once.
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		start := time.Now()
		if _, err := s.Stat(ctx, d); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stat() = %v; want %v", err, context.DeadlineExceeded)
		}
		if took := time.Since(start); took > 400*time.Millisecond {
			t.Errorf("Stat() took %v; want 50ms", took)
		}
		if n, err := io.Copy(io.Discard, body); err == nil {
			t.Errorf("reading = %d bytes and no error; want one", n)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the connection was found dead after %v; want %v", took, s.login.silence)
		}
		_ = body.Close()
		front.thaw()
		wantRead(t, s, d, content, 10<<20, 1<<20)
	})
	t.Run("quiet is not dead", func(t *testing.T) {
		front := startFront(t, h.address)
		s := sourceAt(t, front.address, dir, p, n)
		s.login.silence = 300 * time.Millisecond
		body, _, err := s.Open(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * s.login.silence) // nobody reads, and only questions keep it alive
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || !bytes.Equal(got, content) {
			t.Errorf("reading after a pause: %d bytes, %v; want %d", len(got), err, len(content))
		}
	})
	t.Run("closed", func(t *testing.T) {
		s := h.source(t, dir, p, n)
		body, _, err := s.Open(t.Context(), d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close() = %v; want nil", err)
		}
		if n, err := io.Copy(io.Discard, body); err == nil {
			t.Errorf("reading = %d bytes and no error; want one", n)
		}
		if _, err := s.Stat(t.Context(), d); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Stat() = %v; want %v", err, net.ErrClosed)
		}
	})
}

// A cancelled reader leaves nothing running on the host.
func TestSSHCancel(t *testing.T) {
	h := startSSHD(t)
	content := pattern(32 << 20)
	dir := t.TempDir()
	storeWith(t, dir, content)
	p, n := h.known()
	s := h.source(t, dir, p, n)
	ctx, cancel := context.WithCancel(t.Context())
	for range sshSessions {
		body, _, err := s.Open(ctx, digest.FromBytes(content), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = body.Close() }()
		defer func() {
			if n, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
				t.Errorf("reading = %d bytes, %v; want %v", n, err, context.Canceled)
			}
		}()
	}
	if got := readersOf(t, dir); got != sshSessions {
		t.Errorf("dd runs %d times; want %d", got, sshSessions)
	}
	cancel()
	for deadline := time.Now().Add(time.Minute); readersOf(t, dir) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("dd still runs; want it gone with its session")
		}
	}
	wantRead(t, s, digest.FromBytes(content), content, 1000, 1000) // on the same connection
}

// readersOf counts the processes that are in a directory.
func readersOf(t *testing.T, dir string) int {
	t.Helper()
	cwds, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range cwds {
		if to, err := os.Readlink(c); err == nil && to == dir {
			n++
		}
	}
	return n
}

// What the host's shell prints first is passed over, and nonsense is refused.
func TestSSHShellNoise(t *testing.T) {
	content := pattern(1000)
	dir := t.TempDir()
	storeWith(t, dir, content)
	for _, c := range []struct {
		name, before string
		ok           bool
	}{
		{"greeting", "echo Welcome; echo not blackstart-size 7", true},
		{"long lines", "head -c 20000 /dev/zero; echo", true},
		{"endless", "yes", false},
		{"no size", "echo blackstart-size", true},
		{"wrong size", "echo blackstart-size -5", false},
		{"fails", "exit 3", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := startSSHD(t, "ForceCommand "+c.before+"; eval \"$SSH_ORIGINAL_COMMAND\"")
			p, n := h.known()
			s := h.source(t, dir, p, n)
			if c.ok {
				wantRead(t, s, digest.FromBytes(content), content, 0, -1)
				return
			}
			if size, err := s.Stat(t.Context(), digest.FromBytes(content)); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Stat() = %d, %v; want an error", size, err)
			}
		})
	}
}

// front stands before a host and can fail in the ways that networks do.
type front struct {
	address string

	mu     sync.Mutex
	frozen chan struct{} // closed while bytes pass
	conns  []net.Conn
	taken  int
}

func startFront(t *testing.T, to string) *front {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: l.Addr().String(), frozen: make(chan struct{})}
	close(f.frozen)
	var wg sync.WaitGroup
	pass := func(a, b net.Conn) {
		defer func() { _, _ = a.Close(), b.Close() }()
		buf := make([]byte, 16<<10)
		for {
			n, err := a.Read(buf)
			if err != nil {
				return
			}
			f.mu.Lock()
			wait := f.frozen
			f.mu.Unlock()
			<-wait
			if _, err := b.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, a, b)
			f.taken++
			f.mu.Unlock()
			wg.Go(func() { pass(a, b) })
			wg.Go(func() { pass(b, a) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.cut()
		wg.Wait()
	})
	return f
}

func (f *front) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.taken
}

// cut ends all connections.
func (f *front) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.conns = nil
}

func (f *front) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = make(chan struct{})
}

func (f *front) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
}
