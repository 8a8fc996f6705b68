package certs

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FIPS 197, sections 4.2 and 4.2.1, and the inverse that its S-box begins with.
func TestFieldAgainstFIPS197(t *testing.T) {
	for _, c := range [][3]byte{{0x57, 0x83, 0xc1}, {0x57, 0x13, 0xfe}, {0x57, 0x02, 0xae}, {0x57, 0x04, 0x47}, {0x57, 0x10, 0x07}, {0x53, 0xca, 0x01}} {
		if got := mul(c[0], c[1]); got != c[2] {
			t.Errorf("mul(%#x, %#x) = %#x; want %#x", c[0], c[1], got, c[2])
		}
	}
	for a := 1; a < 256; a++ {
		if got := mul(byte(a), inv(byte(a))); got != 1 {
			t.Errorf("mul(%#x, inv(%#x)) = %#x; want 1", a, a, got)
		}
	}
}

// Shares as SLIP-0039 defines them: the secret is at x = 255, and at 254 there are four bytes of HMAC-SHA256 of the secret, with
// the rest there as the key. The numbers are the published vectors of Blockchain Commons' bc-shamir, 3-of-5.
func TestInterpolateAgainstPublishedVectors(t *testing.T) {
	secret := unhex(t, "0ff784df000c4380a5ed683f7e6e3dcf")
	shares := []point{
		{0, unhex(t, "00112233445566778899aabbccddeeff")},
		{1, unhex(t, "d43099fe444807c46921a4f33a2a798b")},
		{2, unhex(t, "d9ad4e3bec2e1a7485698823abf05d36")},
		{3, unhex(t, "0d8cf5f6ec337bc764d1866b5d07ca42")},
		{4, unhex(t, "1aa7fe3199bc5092ef3816b074cabdf2")},
	}
	for i := range shares {
		for j := range i {
			for k := range j {
				three := []point{shares[i], shares[j], shares[k]}
				if got, err := interpolate(three, 255); err != nil || !bytes.Equal(got, secret) {
					t.Errorf("interpolate(shares %d %d %d, 255) = %x, %v; want %x", i, j, k, got, err, secret)
				}
				d, err := interpolate(three, 254)
				if err != nil {
					t.Fatal(err)
				}
				m := hmac.New(sha256.New, d[4:])
				m.Write(secret)
				if want := m.Sum(nil)[:4]; !bytes.Equal(d[:4], want) {
					t.Errorf("interpolate(shares %d %d %d, 254)[:4] = %x; want %x", i, j, k, d[:4], want)
				}
			}
		}
	}
}

func TestSplitNeedsThreshold(t *testing.T) {
	secret := []byte("AGE-SECRET-KEY-1 of a ceremony")
	shares, err := split(secret, 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := interpolate([]point{shares[4], shares[0], shares[2]}, 0); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("interpolate(3 shares) = %q, %v; want %q", got, err, secret)
	}
	if got, err := interpolate(shares, 0); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("interpolate(5 shares) = %q, %v; want %q", got, err, secret)
	}
	if got, err := interpolate(shares[:2], 0); err != nil || bytes.Equal(got, secret) {
		t.Errorf("interpolate(2 shares) = %q, %v; want something else than the secret", got, err)
	}
	for _, bad := range [][]point{nil, {shares[0], shares[0]}, {shares[0], {x: 9, y: []byte("short")}}} {
		if got, err := interpolate(bad, 0); err == nil {
			t.Errorf("interpolate(%d bad shares) = %q; want an error", len(bad), got)
		}
	}
	for _, c := range [][2]int{{0, 3}, {4, 3}, {2, 256}} {
		if _, err := split(secret, c[0], c[1]); err == nil {
			t.Errorf("split(%d of %d) = nil; want an error", c[0], c[1])
		}
	}
}

// With k-1 shares every secret is as likely: for each byte value there is a k-th share that gives it.
func TestFewerSharesSayNothing(t *testing.T) {
	shares, err := split([]byte{0x2a}, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[byte]bool{}
	for y := range 256 {
		got, err := interpolate([]point{shares[0], {x: 2, y: []byte{byte(y)}}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen[got[0]] = true
	}
	if len(seen) != 256 {
		t.Errorf("a share leaves %d secrets possible; want 256", len(seen))
	}
}
