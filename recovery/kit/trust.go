package kit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"

	"aead.dev/minisign"
	"golang.org/x/crypto/ssh"
)

// maxTrust bounds a trust file, in bytes, and a line of it.
const (
	maxTrust     = 1 << 20
	maxTrustLine = 64 << 10
)

// Trust is the keys whose signatures count.
type Trust struct {
	keys      []key
	namespace string // "" stands for [Namespace]
}

func (t Trust) forWhat() string {
	if t.namespace == "" {
		return Namespace
	}
	return t.namespace
}

// Signer is a key that may sign, or has signed.
type Signer struct {
	Name string `json:"name"` // from the trust file
	ID   string `json:"id"`   // SHA256:BASE64 of an SSH key as ssh-keygen -l shows it, 16 hexadecimal digits of a minisign key
}

type key struct {
	Signer
	same     string // equal for two keys that are the same key, whatever their format
	minisign *minisign.PublicKey
	ssh      ssh.PublicKey
}

// ReadTrust is ParseTrust of a file.
func ReadTrust(path string) (Trust, error) { return ReadTrustFor(path, Namespace) }

// ReadTrustFor is ReadTrust for signatures of another namespace, which minisign keys
// cannot make: their lines do not count there.
func ReadTrustFor(path, namespace string) (Trust, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Trust{}, fmt.Errorf("reading trust: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxTrust {
		return Trust{}, fmt.Errorf("reading trust: %w: %s is not a file of at most %d bytes", ErrInvalid, path, maxTrust)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Trust{}, fmt.Errorf("reading trust: %w", err)
	}
	t, err := parseTrust(b, namespace)
	if err != nil {
		return Trust{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// ParseTrust reads the keys that are trusted, one a line:
//
//	# a comment
//	RWQ…base64…                                            minisign's public key, and a name if wanted
//	alice@example namespaces="blackstart-kit" ssh-ed25519 AAAA… comment    a line of allowed_signers, ssh-keygen(1)
//
// A whole minisign.pub may be put in as it is: its comment line is skipped. Of the options of allowed_signers only
// namespaces is taken; the others are errors, for leaving out valid-before would trust more than was meant.
//
// Errors: ErrInvalid with the line.
func ParseTrust(b []byte) (Trust, error) { return parseTrust(b, Namespace) }

func parseTrust(b []byte, namespace string) (Trust, error) {
	if len(b) > maxTrust {
		return Trust{}, fmt.Errorf("reading trust: %w: larger than %d bytes", ErrInvalid, maxTrust)
	}
	t := Trust{namespace: namespace}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxTrustLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || strings.HasPrefix(line, "untrusted comment:") {
			continue
		}
		k, ok, err := parseKey(line, namespace)
		if err != nil {
			return Trust{}, fmt.Errorf("reading trust: %w: line %d: %w", ErrInvalid, n, err)
		}
		if ok {
			t.keys = append(t.keys, k)
		}
	}
	if err := lines.Err(); err != nil {
		return Trust{}, fmt.Errorf("reading trust: %w: line %d: %w", ErrInvalid, n+1, err)
	}
	return t, nil
}

// Signers lists the different keys.
func (t Trust) Signers() []Signer {
	var all []Signer
	seen := map[string]bool{}
	for _, k := range t.keys {
		if !seen[k.same] {
			seen[k.same] = true
			all = append(all, k.Signer)
		}
	}
	return all
}

// parseKey reads a line; ok says whether its key may sign for the namespace.
func parseKey(line, namespace string) (_ key, ok bool, _ error) {
	first, rest, _ := strings.Cut(line, " ")
	var pub minisign.PublicKey
	if len(first) == 56 && pub.UnmarshalText([]byte(first)) == nil {
		return minisignKey(strings.TrimSpace(rest), pub), namespace == Namespace, nil
	}
	if sshFormats(first) != nil {
		return key{}, false, fmt.Errorf("want a name before the key: NAME %s …", first)
	}
	// What follows the names has the form of an authorized_keys line.
	_, after, ok := cutName(line)
	if !ok {
		return key{}, false, fmt.Errorf("neither a minisign public key nor NAME KEYTYPE KEY of ssh-keygen's allowed_signers")
	}
	k, _, options, more, err := ssh.ParseAuthorizedKey([]byte(after))
	if err != nil || len(more) > 0 {
		return key{}, false, fmt.Errorf("neither a minisign public key nor NAME KEYTYPE KEY of ssh-keygen's allowed_signers")
	}
	if err := checkSSHKey(k); err != nil {
		return key{}, false, err
	}
	name, _, _ := cutName(line)
	ok = true
	for _, o := range options {
		v, found := strings.CutPrefix(o, "namespaces=")
		if !found {
			return key{}, false, fmt.Errorf("option %.100q is not taken, only namespaces is; leave the line out when the key is not to be trusted", o)
		}
		ok = slices.Contains(strings.Split(strings.Trim(v, `"`), ","), namespace)
	}
	return sshKey(name, k), ok, nil
}

// cutName cuts a line of allowed_signers after its names, which may be in quotes.
func cutName(line string) (name, rest string, ok bool) {
	if quoted, found := strings.CutPrefix(line, `"`); found {
		name, rest, ok = strings.Cut(quoted, `"`)
		return name, strings.TrimSpace(rest), ok
	}
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		return "", "", false
	}
	return line[:i], strings.TrimSpace(line[i:]), true
}

func minisignKey(name string, pub minisign.PublicKey) key {
	id := fmt.Sprintf("%016X", pub.ID())
	if name == "" {
		name = "minisign:" + id
	}
	raw, err := base64.StdEncoding.DecodeString(pub.String())
	if err != nil {
		panic(err) // the library has just encoded it
	}
	return key{Signer: Signer{Name: name, ID: id}, same: "ed25519:" + string(raw[len(raw)-ed25519.PublicKeySize:]), minisign: &pub}
}

func sshKey(name string, pub ssh.PublicKey) key {
	k := key{Signer: Signer{Name: name, ID: ssh.FingerprintSHA256(pub)}, same: "ssh:" + string(pub.Marshal()), ssh: pub}
	if c, ok := pub.(ssh.CryptoPublicKey); ok && pub.Type() == ssh.KeyAlgoED25519 {
		if e, ok := c.CryptoPublicKey().(ed25519.PublicKey); ok {
			k.same = "ed25519:" + string(e)
		}
	}
	return k
}
