package kit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// tool runs a stock tool, and fails the test if the tool does.
func tool(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	out, err := try(stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(stdin, name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sshKeyFile makes a key with ssh-keygen, and returns its path and a line of allowed_signers.
func sshKeyFile(t *testing.T, name, password string, kind ...string) (path, line string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	tool(t, "", "ssh-keygen", append([]string{"-q", "-N", password, "-C", name, "-f", path, "-t"}, kind...)...)
	return path, name + " " + strings.TrimSpace(read(t, path+".pub"))
}

// minisignKeyFile makes a key that has no password.
func minisignKeyFile(t *testing.T) (secret, public string) {
	t.Helper()
	dir := t.TempDir()
	tool(t, "", "minisign", "-G", "-W", "-s", dir+"/key", "-p", dir+"/pub")
	return dir + "/key", dir + "/pub"
}

func trust(t *testing.T, lines ...string) Trust {
	t.Helper()
	tr, err := ParseTrust([]byte(strings.Join(lines, "\n") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

var document = []byte("{\"name\": \"any bytes\"}\n")

func TestSSHSignaturesAgreeWithSSHKeygen(t *testing.T) {
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "2048"}} {
		t.Run(strings.Join(kind, ""), func(t *testing.T) {
			key, line := sshKeyFile(t, "alice", "", kind...)
			dir := t.TempDir()
			doc, signers := filepath.Join(dir, "doc"), filepath.Join(dir, "allowed_signers")
			write(t, doc, string(document))
			write(t, signers, line+"\n")

			ours, err := Sign(t.Context(), document, KeyFile{Path: key})
			if err != nil {
				t.Fatal(err)
			}
			write(t, doc+".ours", string(ours))
			out := tool(t, string(document), "ssh-keygen", "-Y", "verify", "-f", signers, "-I", "alice", "-n", Namespace, "-s", doc+".ours")
			if !strings.Contains(out, "Good") {
				t.Errorf("ssh-keygen -Y verify = %q; want a good signature", out)
			}

			tool(t, "", "ssh-keygen", "-q", "-Y", "sign", "-n", Namespace, "-f", key, doc)
			theirs := []byte(read(t, doc+".sig"))
			tr, err := ReadTrust(signers)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Verify(document, [][]byte{theirs, ours}, tr, 1, nil)
			fingerprint := strings.Fields(tool(t, "", "ssh-keygen", "-l", "-f", key))[1]
			if err != nil || !slices.Equal(got, []Signer{{Name: "alice", ID: fingerprint}}) {
				t.Errorf("Verify() = %v, %v; want alice with %s, once", got, err, fingerprint)
			}

			tool(t, "", "ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", key, signers)
			other := []byte(read(t, signers+".sig"))
			if _, err := Verify([]byte(line+"\n"), [][]byte{other}, tr, 1, nil); !errors.Is(err, ErrVerification) || !strings.Contains(err.Error(), "namespace") {
				t.Errorf("Verify() of a signature for another namespace = %v; want ErrVerification that says so", err)
			}
			if _, err := Verify(append(document, ' '), [][]byte{theirs, ours}, tr, 1, nil); !errors.Is(err, ErrVerification) {
				t.Errorf("Verify() of other bytes = %v; want ErrVerification", err)
			}
		})
	}
}

func TestMinisignSignaturesAgreeWithMinisign(t *testing.T) {
	secret, public := minisignKeyFile(t)
	doc := filepath.Join(t.TempDir(), "doc")
	write(t, doc, string(document))
	ours, err := Sign(t.Context(), document, KeyFile{Path: secret})
	if err != nil {
		t.Fatal(err)
	}
	write(t, doc+".ours", string(ours))
	tool(t, "", "minisign", "-V", "-p", public, "-m", doc, "-x", doc+".ours")
	tr := trust(t, read(t, public))
	for _, args := range [][]string{{"-S"}, {"-S", "-l"}} { // prehashed, legacy
		tool(t, "", "minisign", append(args, "-s", secret, "-m", doc, "-x", doc+".theirs")...)
		got, err := Verify(document, [][]byte{[]byte(read(t, doc+".theirs")), ours}, tr, 1, nil)
		if err != nil || len(got) != 1 || !strings.Contains(read(t, public), strings.TrimLeft(got[0].ID, "0")) {
			t.Errorf("Verify() of minisign %v = %v, %v; want the key once", args, got, err)
		}
		changed := strings.Replace(read(t, doc+".theirs"), "timestamp:", "timestamp:9", 1)
		if _, err := Verify(document, [][]byte{[]byte(changed)}, tr, 1, nil); !errors.Is(err, ErrVerification) {
			t.Errorf("Verify() with another trusted comment = %v; want ErrVerification", err)
		}
	}
}

func TestEncryptedKeys(t *testing.T) {
	t.Parallel() // minisign's key takes seconds
	key, line := sshKeyFile(t, "alice", "sesame", "ed25519")
	asked := ""
	ask := func(pass string) func(string) ([]byte, error) {
		return func(prompt string) ([]byte, error) { asked = prompt; return []byte(pass), nil }
	}
	sig, err := Sign(t.Context(), document, KeyFile{Path: key, Password: ask("sesame")})
	if err != nil || !strings.Contains(asked, key) {
		t.Fatalf("Sign() = %v after the question %q; want nil, and the key's path in the question", err, asked)
	}
	if _, err := Verify(document, [][]byte{sig}, trust(t, line), 1, nil); err != nil {
		t.Errorf("Verify() = %v; want nil", err)
	}
	if _, err := Sign(t.Context(), document, KeyFile{Path: key, Password: ask("wrong")}); err == nil {
		t.Error("Sign() with a wrong password = nil; want an error")
	}
	if _, err := Sign(t.Context(), document, KeyFile{Path: key}); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Errorf("Sign() with nobody to ask = %v; want that the key is encrypted", err)
	}

	dir := t.TempDir()
	tool(t, "sesame\nsesame\n", "minisign", "-G", "-s", dir+"/key", "-p", dir+"/pub")
	sig, err = Sign(t.Context(), document, KeyFile{Path: dir + "/key", Password: ask("sesame")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(document, [][]byte{sig}, trust(t, read(t, dir+"/pub")), 1, nil); err != nil {
		t.Errorf("Verify() = %v; want nil", err)
	}
}

// startAgent runs ssh-agent in the foreground until the test ends.
func startAgent(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	c := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = c.Wait() // killed
		os.RemoveAll(dir)
	})
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSignThroughTheAgent(t *testing.T) {
	socket := startAgent(t)
	t.Setenv("SSH_AUTH_SOCK", socket)
	for _, kind := range [][]string{{"ed25519"}, {"rsa", "-b", "2048"}, {"ecdsa"}} {
		key, line := sshKeyFile(t, "bob", "", kind...)
		k := KeyFile{Path: key + ".pub", Agent: socket}
		if _, err := Sign(t.Context(), document, k); err == nil || !strings.Contains(err.Error(), "ssh-add") {
			t.Errorf("Sign() with a key that the agent has not = %v; want a hint at ssh-add", err)
		}
		tool(t, "", "ssh-add", "-q", key)
		sig, err := Sign(t.Context(), document, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(document, [][]byte{sig}, trust(t, line), 1, nil); err != nil {
			t.Errorf("Verify() of the agent's %v = %v; want nil", kind, err)
		}
		if _, err := Sign(t.Context(), document, KeyFile{Path: key + ".pub"}); err == nil {
			t.Error("Sign() with a public key and no agent = nil; want an error")
		}
	}
}

func TestSigningThroughAnAgentThatHangsCanBeCancelled(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	key, _ := sshKeyFile(t, "bob", "", "ed25519")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Sign(ctx, document, KeyFile{Path: key + ".pub", Agent: socket}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sign() through an agent that never answers = %v; want context.DeadlineExceeded", err)
	}
}

// fidoSignature is what a FIDO key would sign (PROTOCOL.u2f of OpenSSH), made in software.
func fidoSignature(t *testing.T, flags byte) (sig []byte, line string) {
	t.Helper()
	seed := sha256.Sum256([]byte("a security key"))
	private := ed25519.NewKeyFromSeed(seed[:])
	public := private.Public().(ed25519.PublicKey)
	blob := ssh.Marshal(struct{ Type, Key, Application string }{ssh.KeyAlgoSKED25519, string(public), "ssh:"})
	application, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(sshsigMessage(Namespace, "sha512", document))
	signed := append(append([]byte{}, application[:]...), flags)
	signed = binary.BigEndian.AppendUint32(signed, 7)
	signed = append(signed, message[:]...)
	inner := ssh.Marshal(struct {
		Format, Blob string
		Flags        byte
		Counter      uint32
	}{ssh.KeyAlgoSKED25519, string(ed25519.Sign(private, signed)), flags, 7})
	raw := ssh.Marshal(sshsigBlob{Version: 1, PublicKey: blob, Namespace: Namespace, Hash: "sha512", Signature: inner})
	b64 := base64.StdEncoding.EncodeToString(append([]byte(sshsigMagic), raw...))
	sig = []byte("-----BEGIN SSH SIGNATURE-----\n" + b64 + "\n-----END SSH SIGNATURE-----\n")
	return sig, "carol " + ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(blob)
}

func TestFIDOSignatureNeedsPresence(t *testing.T) {
	dir := t.TempDir()
	for flags, want := range map[byte]bool{0x01: true, 0x05: true, 0x00: false, 0x04: false} {
		sig, line := fidoSignature(t, flags)
		_, err := Verify(document, [][]byte{sig}, trust(t, line), 1, nil)
		if (err == nil) != want {
			t.Errorf("Verify() with the flags %#x = %v; want accepted: %v", flags, err, want)
		}
		if want {
			write(t, dir+"/signers", line+"\n")
			write(t, dir+"/sig", string(sig))
			tool(t, string(document), "ssh-keygen", "-Y", "verify", "-f", dir+"/signers", "-I", "carol", "-n", Namespace, "-s", dir+"/sig")
		}
	}
}

func TestThresholdCountsDifferentKeys(t *testing.T) {
	a, lineA := sshKeyFile(t, "alice", "", "ed25519")
	b, lineB := sshKeyFile(t, "bob", "", "ed25519")
	m, pubM := minisignKeyFile(t)
	mallory, _ := sshKeyFile(t, "mallory", "", "ed25519")
	sigs := map[string][]byte{}
	for name, path := range map[string]string{"a": a, "b": b, "m": m, "x": mallory} {
		s, err := Sign(t.Context(), document, KeyFile{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		sigs[name] = s
	}
	tr := trust(t, "# three people", lineA, "", lineB, lineA, "again,and@again "+strings.Join(strings.Fields(lineA)[1:], " "), read(t, pubM))
	if n := len(tr.Signers()); n != 3 {
		t.Errorf("Signers() = %d keys; want 3", n)
	}
	idA := tr.Signers()[0].ID
	for _, c := range []struct {
		by        string
		threshold int
		revoked   []string
		want      int // signers; below 0: that many less, and ErrVerification
		says      string
	}{
		{"a", 1, nil, 1, ""},
		{"abm", 3, nil, 3, ""},
		{"aaa", 2, nil, 1, "1 of 2"},
		{"ab", 3, nil, 2, "2 of 3"},
		{"ax", 2, nil, 1, "is not trusted"},
		{"", 1, nil, 0, "0 of 1"},
		{"abm", 3, []string{idA}, 2, "is revoked"},
		{"abm", 2, []string{idA}, 2, ""},
		{"abm", 4, nil, 3, "only 3 keys are trusted"},
	} {
		var given [][]byte
		for _, k := range strings.Split(c.by, "") {
			if k != "" {
				given = append(given, sigs[k])
			}
		}
		got, err := Verify(document, given, tr, c.threshold, c.revoked)
		if len(got) != c.want || errors.Is(err, ErrVerification) != (c.says != "") || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("Verify(by %q, %d, revoked %v) = %v, %v; want %d signers and %q", c.by, c.threshold, c.revoked, got, err, c.want, c.says)
		}
	}
	if _, err := Verify(document, nil, tr, 0, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("Verify() with a threshold of 0 = %v; want ErrInvalid", err)
	}
}

func TestTrustFile(t *testing.T) {
	_, line := sshKeyFile(t, "alice", "", "ed25519")
	key := strings.Join(strings.Fields(line)[1:3], " ")
	_, public := minisignKeyFile(t)
	mini := strings.Split(strings.TrimSpace(read(t, public)), "\n")[1]
	_, weak := sshKeyFile(t, "weak", "", "rsa", "-b", "1024")
	for text, want := range map[string]string{
		line:                        "alice",
		"alice@a,bob@b " + key:      "alice@a,bob@b",
		`"alice in a house" ` + key: "alice in a house",
		"alice\t" + key:             "alice",
		`alice namespaces="file,blackstart-kit" ` + key: "alice",
		mini:                                   "minisign:",
		mini + " dora":                         "dora",
		read(t, public):                        "minisign:",
		`alice namespaces="git" ` + key:        "",
		"# " + key:                             "",
		key:                                    "error: line 1: want a name",
		"alice " + key[:40]:                    "error: line 1",
		"alice cert-authority " + key:          "error: option",
		`alice valid-before="20300101" ` + key: "error: option",
		weak:                                   "error: line 1: RSA key of 1024 bits",
		"\n\nhello":                            "error: line 3",
		strings.Repeat("x", maxTrustLine+1):    "error: line 1",
		strings.Repeat("#"+strings.Repeat("x", 99)+"\n", maxTrust/100): "error: larger",
		fmt.Sprintf("alice %s %s", ssh.KeyAlgoED25519, "AAAA"):         "error: line 1",
	} {
		tr, err := ParseTrust([]byte(text))
		got := ""
		switch {
		case err != nil:
			got = "error: " + strings.TrimPrefix(err.Error(), "reading trust: malformed kit: ")
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParseTrust(%.60q) = %v; want ErrInvalid", text, err)
			}
		case len(tr.Signers()) == 1:
			got = tr.Signers()[0].Name
		}
		if prefix, part, ok := strings.Cut(want, ": "); ok {
			if !strings.HasPrefix(got, prefix) || !strings.Contains(got, part) {
				t.Errorf("ParseTrust(%.60q) = %.200q; want %q", text, got, want)
			}
		} else if got != want && (want != "minisign:" || !strings.HasPrefix(got, want)) {
			t.Errorf("ParseTrust(%.60q) = %.200q; want %q", text, got, want)
		}
	}
}

func TestStockToolsTakeTheSameTrustFile(t *testing.T) {
	// ssh-keygen passes over what it cannot read: one file serves both.
	key, line := sshKeyFile(t, "alice", "", "ed25519")
	_, public := minisignKeyFile(t)
	dir := t.TempDir()
	write(t, dir+"/trust", read(t, public)+"# people\n"+line+"\n")
	sig, err := Sign(t.Context(), document, KeyFile{Path: key})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/sig", string(sig))
	tool(t, string(document), "ssh-keygen", "-Y", "verify", "-f", dir+"/trust", "-I", "alice", "-n", Namespace, "-s", dir+"/sig")
}
