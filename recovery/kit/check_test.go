package kit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// signedKit is a document of a name and epoch, signed with a key file.
func signedKit(t *testing.T, key string, change func(*Document)) Signed {
	t.Helper()
	d := &Document{MediaType: MediaType, Name: "site-a", Epoch: 5, SignedAt: noon, FreshUntil: noon.Add(24 * time.Hour)}
	if change != nil {
		change(d)
	}
	raw, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return signBytes(t, key, raw)
}

func signBytes(t *testing.T, key string, raw []byte) Signed {
	t.Helper()
	sig, err := Sign(t.Context(), raw, KeyFile{Path: key})
	if err != nil {
		t.Fatal(err)
	}
	return Signed{Document: raw, Signatures: [][]byte{sig}}
}

func TestCheckOrderAndErrors(t *testing.T) {
	key, line := sshKeyFile(t, "alice", "", "ed25519")
	stranger, _ := sshKeyFile(t, "mallory", "", "ed25519")
	o := CheckOptions{Trust: trust(t, line), Threshold: 1, Seen: t.TempDir(), Now: noon, Tool: "v1.2.0"}
	accept := func(s Signed) Checked {
		t.Helper()
		c, err := Check(s, o)
		if err != nil {
			t.Fatalf("Check() = %v; want nil", err)
		}
		if err := Remember(o.Seen, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := signedKit(t, key, nil)
	c := accept(first)
	if c.Document.Epoch != 5 || c.Signers[0].Name != "alice" || c.Digest != first.Digest() || c.Stale != nil || c.Rollback != nil {
		t.Errorf("Check() = %+v; want epoch 5 by alice", c)
	}
	accept(first) // again

	for name, k := range map[string]struct {
		kit  Signed
		now  time.Time
		want error
		says string
	}{
		"an untrusted key":               {signedKit(t, stranger, nil), noon, ErrVerification, "is not trusted"},
		"no signature":                   {Signed{Document: first.Document}, noon, ErrVerification, "0 of 1"},
		"a byte changed":                 {Signed{append(first.Document[:20:20], first.Document[21:]...), first.Signatures}, noon, ErrVerification, "does not match"},
		"no signature and no JSON":       {Signed{Document: []byte("{{{")}, noon, ErrVerification, "0 of 1"},
		"signed nonsense":                {signBytes(t, key, []byte("{{{")), noon, ErrInvalid, "invalid"},
		"a lower epoch":                  {signedKit(t, key, func(d *Document) { d.Epoch = 4 }), noon, ErrRollback, "epoch 4, 5 was seen"},
		"another kit with the epoch":     {signedKit(t, key, func(d *Document) { d.MinTool = "v1.0.0" }), noon, ErrRollback, "another site-a"},
		"past its time":                  {first, noon.Add(25 * time.Hour), ErrStale, "was fresh until 2026-03-02T12:00:00Z"},
		"lower and past its time":        {signedKit(t, key, func(d *Document) { d.Epoch = 4 }), noon.Add(25 * time.Hour), ErrRollback, ""},
		"min_tool above this":            {signedKit(t, key, func(d *Document) { d.Epoch, d.MinTool = 6, "v1.3.0" }), noon, ErrNewer, "v1.3.0"},
		"new fields, min_tool above":     {signBytes(t, key, with(t, first, `"min_tool":"v2.0.0","teleport":1`)), noon, ErrNewer, "v2.0.0"},
		"new fields, min_tool not above": {signBytes(t, key, with(t, first, `"min_tool":"v1.2.0","teleport":1`)), noon, ErrNewer, "v1.2.0"},
		"new fields, no min_tool":        {signBytes(t, key, with(t, first, `"teleport":1`)), noon, ErrInvalid, "teleport"},
		"its own signer revoked":         {signedKit(t, key, func(d *Document) { d.Epoch, d.Revoked = 6, []string{o.Trust.Signers()[0].ID} }), noon, ErrVerification, "is revoked"},
	} {
		at := o
		at.Now = k.now
		if _, err := Check(k.kit, at); !errors.Is(err, k.want) || !strings.Contains(err.Error(), k.says) {
			t.Errorf("Check(%s) = %v; want %v with %q", name, err, k.want, k.says)
		}
	}

	at := o
	at.Now, at.AcceptStale, at.AcceptRollback = noon.Add(25*time.Hour), true, true
	c, err := Check(signedKit(t, key, func(d *Document) { d.Epoch = 4 }), at)
	if err != nil || !errors.Is(c.Rollback, ErrRollback) || !errors.Is(c.Stale, ErrStale) {
		t.Errorf("Check() with both accepted = %v, rollback %v, stale %v; want nil and both named", err, c.Rollback, c.Stale)
	}
	if err := Remember(o.Seen, c); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(signedKit(t, key, func(d *Document) { d.Epoch = 4 }), o); !errors.Is(err, ErrRollback) {
		t.Errorf("Check() after an accepted rollback = %v; want ErrRollback again", err)
	}
}

// with puts fields into a document.
func with(t *testing.T, s Signed, fields string) []byte {
	t.Helper()
	return []byte(strings.Replace(string(s.Document), "{", "{"+fields+",", 1))
}

func TestRevokedKeysStayRevoked(t *testing.T) {
	a, lineA := sshKeyFile(t, "alice", "", "ed25519")
	b, lineB := sshKeyFile(t, "bob", "", "ed25519")
	o := CheckOptions{Trust: trust(t, lineA, lineB), Threshold: 1, Seen: t.TempDir(), Now: noon, AcceptRollback: true}
	c, err := Check(signedKit(t, b, func(d *Document) { d.Revoked = []string{o.Trust.Signers()[0].ID} }), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Remember(o.Seen, c); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(signedKit(t, a, func(d *Document) { d.Epoch = 9 }), o); !errors.Is(err, ErrVerification) {
		t.Errorf("Check() of a later kit by a revoked key = %v; want ErrVerification", err)
	}
}

func TestSeenThatCannotBeReadNeedsTheOperator(t *testing.T) {
	key, line := sshKeyFile(t, "alice", "", "ed25519")
	o := CheckOptions{Trust: trust(t, line), Threshold: 1, Seen: t.TempDir(), Now: noon}
	write(t, filepath.Join(o.Seen, "site-a.json"), "")
	kit := signedKit(t, key, nil)
	if _, err := Check(kit, o); !errors.Is(err, ErrRollback) {
		t.Errorf("Check() with a damaged record = %v; want ErrRollback", err)
	}
	o.AcceptRollback = true
	c, err := Check(kit, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Remember(o.Seen, c); err != nil {
		t.Fatal(err)
	}
	o.AcceptRollback = false
	if _, err := Check(kit, o); err != nil {
		t.Errorf("Check() after the record was written again = %v; want nil", err)
	}
	if left, _ := os.ReadDir(o.Seen); len(left) != 1 {
		t.Errorf("%d files in the directory of what was seen; want 1", len(left))
	}
}

func TestFloor(t *testing.T) {
	a, b, c := noon, noon.Add(time.Hour), noon.Add(2*time.Hour)
	for _, in := range [][3]time.Time{{a, b, c}, {c, a, b}, {b, c, a}, {time.Time{}, time.Time{}, c}} {
		if got := Floor(in[0], in[1], in[2]); !got.Equal(c) {
			t.Errorf("Floor(%v) = %v; want %v", in, got, c)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		min, tool string
		want      bool
	}{
		{"v1.2.3", "v1.2.2", true},
		{"v1.2.3", "v1.2.3", false},
		{"v1.10.0", "v1.9.9", true},
		{"v2.0.0", "v1.99.0-5-gabc-dirty", true},
		{"v1.0.0", "v2.0.0", false},
		{"", "v1.0.0", false},
		{"v9.0.0", "dev", false},
		{"9", "v1.0.0", false},
		{"v1.2", "v1.0.0", false},
	} {
		if got := newer(c.min, c.tool); got != c.want {
			t.Errorf("newer(%q, %q) = %v; want %v", c.min, c.tool, got, c.want)
		}
	}
}
