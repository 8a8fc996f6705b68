package kit

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ValidName says whether an artifact, a service or a text may be called so: letters, digits and _ . + -, at most
// 100, of which the first is a letter, digit or _. Such a name is a safe file name.
func ValidName(s string) bool {
	return s != "" && len(s) <= 100 && !strings.ContainsRune(".+-", rune(s[0])) && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.+-", r)
	})
}

func checkDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %.100q is not a sha256", string(d))
	}
	return nil
}

// check says what is wrong with a document.
func (d *Document) check() error {
	switch {
	case d.MediaType != MediaType:
		return fmt.Errorf("media_type %.100q, want %s", d.MediaType, MediaType)
	case !ValidName(d.Name) || strings.Contains(d.Name, "+"):
		return fmt.Errorf("name %.100q may hold letters, digits and _ . - only, at most 100", d.Name)
	case d.Epoch == 0:
		return errors.New("epoch is missing or 0")
	case d.SignedAt.IsZero():
		return errors.New("signed_at is missing")
	case !d.FreshUntil.IsZero() && d.FreshUntil.Before(d.SignedAt):
		return errors.New("fresh_until is before signed_at")
	case d.MinTool != "" && !validTool(d.MinTool):
		return fmt.Errorf("min_tool %.100q is not vMAJOR.MINOR.PATCH", d.MinTool)
	}
	if d.Previous != "" {
		if err := checkDigest(d.Previous); err != nil {
			return fmt.Errorf("previous: %w", err)
		}
	}
	return errors.Join(
		section("sources", d.Sources, func(s Source) (string, error) { return s.Name, d.checkSource(s) }),
		section("artifacts", d.Artifacts, func(a Artifact) (string, error) { return a.Name, a.check() }),
		section("services", d.Services, func(s Service) (string, error) { return s.Name, d.checkService(s) }),
		section("capabilities", d.Capabilities, func(c Capability) (string, error) {
			return strings.ReplaceAll(c.Name, ":", "_"), checkSpec(c.Spec)
		}),
		section("names", d.Names, func(n Name) (string, error) { return strings.TrimSuffix(n.Name, "."), n.check() }),
		section("trust", d.Trust, func(a Anchor) (string, error) { return a.Name, a.check() }),
		section("policy", d.Policy, func(t Text) (string, error) { return t.Name, nil }),
		section("runbooks", d.Runbooks, func(t Text) (string, error) { return t.Name, nil }),
		section("contacts", d.Contacts, func(c Contact) (string, error) { return c.Name, checkURI(c.URI) }),
		d.checkNeeds(),
		d.checkFrames(),
		d.checkRevoked(),
	)
}

// section checks the entries of a section: each by itself, and their names.
func section[T any](what string, entries []T, check func(T) (string, error)) error {
	if len(entries) > maxEntries {
		return fmt.Errorf("%s: %d entries, at most %d", what, len(entries), maxEntries)
	}
	seen := map[string]bool{}
	for i, e := range entries {
		name, err := check(e)
		if !ValidName(name) {
			return fmt.Errorf("%s[%d]: name %.100q may hold letters, digits and _ . + - only, at most 100", what, i, name)
		}
		if seen[name] {
			return fmt.Errorf("%s[%d]: %q is there twice", what, i, name)
		}
		seen[name] = true
		if err != nil {
			return fmt.Errorf("%s[%d] %s: %w", what, i, name, err)
		}
	}
	return nil
}

func (d *Document) checkSource(s Source) error {
	if s.Trust != "" && !slices.ContainsFunc(d.Trust, func(a Anchor) bool { return a.Name == s.Trust }) {
		return fmt.Errorf("there is no trust %.100q", s.Trust)
	}
	return checkURI(s.URL)
}

func checkURI(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || len(s) > 2000 || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("%.100q is not a URL", s)
	}
	if _, secret := u.User.Password(); secret {
		return errors.New("a password does not belong into a kit, which everybody may read")
	}
	return nil
}

func (a Artifact) check() error {
	if a.CapturedAt.IsZero() {
		return errors.New("captured_at is missing")
	}
	if len(a.Blobs) == 0 || a.Blobs[0].Digest != a.Digest || a.Blobs[0].MediaType != a.MediaType {
		return errors.New("its digest and media type are not those of its first blob")
	}
	switch a.Kind {
	case File:
		if len(a.Blobs) != 1 {
			return fmt.Errorf("a file of %d blobs", len(a.Blobs))
		}
	case Image:
		if len(a.Blobs) < 2 || a.MediaType != ocispec.MediaTypeImageManifest || a.Blobs[1].MediaType != ocispec.MediaTypeImageConfig {
			return errors.New("an image begins with its manifest and its configuration")
		}
		for _, l := range a.Blobs[2:] {
			if l.MediaType != ocispec.MediaTypeImageLayer {
				return fmt.Errorf("layer %s has the media type %.100q, want %s", l.Digest, l.MediaType, ocispec.MediaTypeImageLayer)
			}
		}
	default:
		return fmt.Errorf("kind %.100q is not file or image", a.Kind)
	}
	seen := map[digest.Digest]bool{}
	var size int64
	for _, b := range a.Blobs {
		if err := b.check(); err != nil {
			return fmt.Errorf("blob %.100q: %w", string(b.Digest), err)
		}
		if seen[b.Digest] {
			return fmt.Errorf("blob %s is there twice", b.Digest)
		}
		seen[b.Digest] = true
		size += b.Size // a blob is at most MaxFrames * MaxContent, so this cannot overflow before its size differs
	}
	if size != a.Size {
		return fmt.Errorf("size %d, its blobs have %d", a.Size, size)
	}
	return nil
}

func (b Blob) check() error {
	if err := checkDigest(b.Digest); err != nil {
		return err
	}
	if len(b.Chunks) == 0 || len(b.Chunks) > MaxFrames {
		return fmt.Errorf("%d chunks, want 1 to %d", len(b.Chunks), MaxFrames)
	}
	var length int64
	for i, c := range b.Chunks {
		if err := checkDigest(c.Digest); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
		if c.Size < 1 || c.Size > MaxFrame || c.Length < 1 || c.Length > MaxContent {
			return fmt.Errorf("chunk %d: a frame of %d bytes with %d bytes of content, want at most %d and %d", i, c.Size, c.Length, MaxFrame, MaxContent)
		}
		length += c.Length
	}
	if length != b.Size {
		return fmt.Errorf("size %d, its chunks have %d", b.Size, length)
	}
	return nil
}

func (d *Document) checkService(s Service) error {
	if s.Image != "" {
		if a, ok := d.Artifact(s.Image); !ok || a.Kind != Image {
			return fmt.Errorf("there is no image %.100q among the artifacts", s.Image)
		}
	}
	return checkSpec(s.Spec)
}

func checkSpec(raw json.RawMessage) error {
	if !bytes.HasPrefix(raw, []byte("{")) {
		return errors.New("spec is not an object")
	}
	return nil
}

func (n Name) check() error {
	if n.ObservedAt.IsZero() {
		return errors.New("observed_at is missing")
	}
	if (len(n.Addresses) == 0) == (n.Zone == "") {
		return errors.New("want either addresses or a zone")
	}
	for _, a := range n.Addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			return err
		}
	}
	return nil
}

func (a Anchor) check() error {
	if (a.CA == "") == (a.SPKI == "") {
		return errors.New("want either ca or spki")
	}
	if a.SPKI != "" {
		return checkDigest(a.SPKI)
	}
	if p, _ := pem.Decode([]byte(a.CA)); p == nil || p.Type != "CERTIFICATE" {
		return errors.New("ca is not a certificate in PEM")
	}
	return nil
}

// checkFrames sees to it that a frame has one size and one length wherever it is named, and counts them.
func (d *Document) checkFrames() error {
	seen := map[digest.Digest]Chunk{}
	for _, a := range d.Artifacts {
		for _, b := range a.Blobs {
			for _, c := range b.Chunks {
				if was, ok := seen[c.Digest]; ok && was != c {
					return fmt.Errorf("artifact %s: frame %s is said to have two sizes", a.Name, c.Digest)
				}
				seen[c.Digest] = c
			}
		}
	}
	if len(seen) > MaxFrames {
		return fmt.Errorf("%d frames, at most %d in one kit", len(seen), MaxFrames)
	}
	return nil
}

var keyID = regexp.MustCompile(`^([0-9A-F]{16}|SHA256:[A-Za-z0-9+/]{43})$`)

// checkRevoked refuses what is neither a digest nor a key, and a kit that carries what it revokes.
func (d *Document) checkRevoked() error {
	if len(d.Revoked) > maxEntries {
		return fmt.Errorf("revoked: %d entries, at most %d", len(d.Revoked), maxEntries)
	}
	gone := map[digest.Digest]bool{}
	for _, r := range d.Revoked {
		if !keyID.MatchString(r) && checkDigest(digest.Digest(r)) != nil {
			return fmt.Errorf("revoked: %.100q is not a sha256 digest, SSH key fingerprint or minisign key ID", r)
		}
		gone[digest.Digest(r)] = true
	}
	for _, a := range d.Artifacts {
		for _, b := range a.Blobs {
			if gone[b.Digest] {
				return fmt.Errorf("artifact %s holds %s, which this kit revokes", a.Name, b.Digest)
			}
		}
	}
	return nil
}
