package certs

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
)

// BundleKind is a form in which a host keeps the authorities it trusts.
type BundleKind string

// The forms of bundles.
const (
	PEMBundle BundleKind = "pem"    // certificates one after the other
	HashDir   BundleKind = "hash"   // a directory with files HASH.N, openssl-rehash(1)
	JKSBundle BundleKind = "jks"    // Java's own key store
	PKCS12    BundleKind = "pkcs12" // a key store of Java 18 and up
)

// bundlePaths are where Debian, Alpine, RHEL, SUSE, Arch, Java's images and Python's certifi keep their bundles.
func bundlePaths() []string {
	return []string{
		"etc/ssl/certs/ca-certificates.crt",
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"etc/pki/tls/certs/ca-bundle.crt",
		"etc/ssl/ca-bundle.pem",
		"var/lib/ca-certificates/ca-bundle.pem",
		"etc/ca-certificates/extracted/tls-ca-bundle.pem",
		"etc/ssl/cert.pem",
		"etc/ssl/certs",
		"etc/pki/ca-trust/extracted/pem/directory-hash",
		"etc/ssl/certs/java/cacerts",
		"etc/pki/ca-trust/extracted/java/cacerts",
		"var/lib/ca-certificates/java-cacerts",
		"usr/lib/jvm/*/lib/security/cacerts",
		"usr/lib/jvm/*/jre/lib/security/cacerts",
		"usr/local/openjdk-*/lib/security/cacerts",
		"opt/java/*/lib/security/cacerts",
		"opt/java/lib/security/cacerts",
		"usr/lib/python3*/site-packages/certifi/cacert.pem",
		"usr/lib/python3/dist-packages/certifi/cacert.pem",
		"usr/local/lib/python3*/site-packages/certifi/cacert.pem",
		"opt/venv/lib/python3*/site-packages/certifi/cacert.pem",
	}
}

// Bounds of what is read of a root that may be hostile.
const (
	maxBundle  = 16 << 20 // bytes of a bundle
	maxBundles = 64
)

// Bundle is a place where a host, or a container's root, keeps the authorities it trusts.
type Bundle struct {
	Path string     `json:"path"` // below the root, with all links followed
	Kind BundleKind `json:"kind"`
	// Trusts says whether the authority asked about is in it.
	Trusts bool `json:"trusts"`
	// Problem says why a bundle cannot be read or changed; "" for none.
	Problem string `json:"problem,omitempty"`

	content []byte
}

// CheckTrust says for every bundle below root whether it holds a certificate. Whoever has none of them verifies by something that
// this cannot see: Node.js and many programs in Go or Rust bring their own list.
func CheckTrust(root string, ca *x509.Certificate) ([]Bundle, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("checking trust: %w", err)
	}
	defer r.Close()
	all := findBundles(r)
	for i := range all {
		all[i].check(r, ca)
		all[i].content = nil
	}
	return all, nil
}

// Verdict is whether something would accept a certificate.
type Verdict string

// The verdicts.
const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Unknown Verdict = "unknown"
)

// Accepts sums up what CheckTrust found in the root of a service: whether it would accept an emergency certificate today.
func Accepts(all []Bundle) (v Verdict, why string) {
	if len(all) == 0 {
		return Unknown, "no bundle that this knows: it brings its own list, or verifies nothing"
	}
	for _, b := range all {
		switch {
		case b.Problem != "":
			return Unknown, b.Path + ": " + b.Problem
		case !b.Trusts:
			return No, b.Path + " does not have the root"
		}
	}
	return Yes, ""
}

// findBundles lists the bundles of a root, each once.
func findBundles(r *os.Root) []Bundle {
	var all []Bundle
	seen := map[string]bool{}
	for _, pattern := range bundlePaths() {
		for _, p := range glob(r, pattern) {
			full, err := securejoin.SecureJoin(r.Name(), p)
			if err != nil {
				continue
			}
			rel := strings.TrimPrefix(strings.TrimPrefix(full, strings.TrimSuffix(r.Name(), "/")), "/")
			st, err := r.Stat(rel)
			if err != nil || seen[rel] || len(all) == maxBundles {
				continue
			}
			seen[rel] = true
			b := Bundle{Path: rel, Kind: PEMBundle}
			switch {
			case st.IsDir():
				if b.Kind = HashDir; !hashed(r, rel) {
					continue
				}
			case path.Base(pattern) == "cacerts" || path.Base(pattern) == "java-cacerts":
				b.Kind = JKSBundle
			}
			if b.Kind == HashDir {
				all = append(all, b)
				continue
			}
			if b.content, err = readBounded(r, rel, maxBundle); err != nil {
				b.Problem = err.Error()
			} else if b.Kind == JKSBundle && !bytes.HasPrefix(b.content, []byte{0xfe, 0xed, 0xfe, 0xed}) {
				b.Kind = PKCS12
			}
			all = append(all, b)
		}
	}
	return all
}

// glob matches one pattern with at most one starred element, following no links out of the root.
func glob(r *os.Root, pattern string) []string {
	if !strings.Contains(pattern, "*") {
		return []string{pattern}
	}
	parts := strings.Split(pattern, "/")
	i := slices.IndexFunc(parts, func(s string) bool { return strings.Contains(s, "*") })
	dir, err := r.OpenFile(path.Join(parts[:i]...), os.O_RDONLY, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(1000)
	if err != nil {
		return nil
	}
	slices.Sort(names)
	var all []string
	for _, n := range names {
		if ok, err := path.Match(parts[i], n); ok && err == nil {
			all = append(all, path.Join(path.Join(parts[:i]...), n, path.Join(parts[i+1:]...)))
		}
	}
	return all
}

// hashed says whether a directory has files such as 4a6481c9.0.
func hashed(r *os.Root, dir string) bool {
	names, err := fs.ReadDir(r.FS(), dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(names, func(e fs.DirEntry) bool { return hashName(e.Name()) })
}

func hashName(n string) bool {
	return len(n) >= 10 && n[8] == '.' && strings.Trim(n[:8], "0123456789abcdef") == "" && strings.Trim(n[9:], "0123456789") == ""
}

func (b *Bundle) check(r *os.Root, ca *x509.Certificate) {
	if b.Problem != "" {
		return
	}
	var err error
	switch b.Kind {
	case PEMBundle:
		b.Trusts = pemHas(b.content, ca)
	case HashDir:
		_, b.Trusts, err = hashSlot(r, b.Path, ca)
	case JKSBundle:
		b.Trusts, err = jksHas(b.content, ca)
	case PKCS12:
		b.Trusts, err = p12Has(b.content, ca)
	}
	if err != nil {
		b.Problem = err.Error()
	}
}

func pemHas(text []byte, ca *x509.Certificate) bool {
	for p, rest := pem.Decode(text); p != nil; p, rest = pem.Decode(rest) {
		if bytes.Equal(p.Bytes, ca.Raw) {
			return true
		}
	}
	return false
}

// hashSlot gives the name that a certificate has, or would get, in a directory of hashes.
func hashSlot(r *os.Root, dir string, ca *x509.Certificate) (name string, has bool, err error) {
	sum, err := subjectHash(ca)
	if err != nil {
		return "", false, err
	}
	for n := range 100 {
		name = path.Join(dir, fmt.Sprintf("%08x.%d", sum, n))
		if _, err := r.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name, false, nil
		}
		// A link may point anywhere; one that cannot be read is somebody else's.
		if text, err := readBounded(r, name, maxBundle); err == nil && pemHas(text, ca) {
			return name, true, nil
		}
	}
	return "", false, fmt.Errorf("%w: too many certificates with the hash %08x", ErrInvalid, sum)
}

// subjectHash is what openssl x509 -subject_hash prints: the start of the SHA-1 of the subject's canonical form.
func subjectHash(c *x509.Certificate) (uint32, error) {
	canon, err := canonicalName(c.RawSubject)
	if err != nil {
		return 0, err
	}
	sum := sha1.Sum(canon)
	return uint32(sum[0]) | uint32(sum[1])<<8 | uint32(sum[2])<<16 | uint32(sum[3])<<24, nil
}
